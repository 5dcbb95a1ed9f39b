"""Tests of a function, in Python: `bento fn test` runs them. Nothing is faked: the function runs in the sandbox of a
real box on this machine.

    import unittest, bento_testing

    class Add(unittest.TestCase):
        def test_numbers(self):
            self.assertEqual(bento_testing.run(call="add(5, 12)").text, "17")

install() keeps the function, and its storage, from one run to the next; start() is for tests that talk with it:

    with bento_testing.install() as function, function.start(call="echo()") as session:
        session.send("hello")
        session.receive()        # b"hello"; None when the function has ended
        session.end_input()
"""

import base64
import json
import os
import subprocess
import sys


class FunctionFailed(Exception):
    """What the function raised, or why the box ended it. `outcome` has the parts."""

    def __init__(self, outcome):
        self.outcome = outcome
        if outcome["kind"] == "failed":
            super().__init__(outcome["traceback"] or "%s: %s" % (outcome["name"], outcome["message"]))
        else:
            super().__init__("the box ended the function: " + outcome["reason"])


class Result:
    """Output messages as bytes, and all of them together as text."""

    def __init__(self, messages):
        self.messages = messages
        self.text = b"".join(messages).decode("utf-8", "replace")


class Session:
    """A running instance, with the test as its client."""

    def __init__(self, number):
        self._number = number
        self.outcome = None

    def send(self, message):
        data = message.encode() if isinstance(message, str) else bytes(message)
        _ask("send", session=self._number, base64=base64.b64encode(data).decode())

    def receive(self):
        """The next message; None when the instance has ended. `outcome` says how, then."""
        if self.outcome is not None:
            return None
        answer = _ask("receive", session=self._number)
        self.outcome = answer.get("ended")
        return None if self.outcome is not None else base64.b64decode(answer["base64"])

    def end_input(self):
        _ask("end-input", session=self._number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _ask("stop", session=self._number)


class Function:
    """An installed function."""

    def __init__(self, number):
        self._number = number

    def start(self, *args, call=None):
        how = {"args": list(args)} if call is None else {"call": call}
        return Session(_ask("start", function=self._number, **how)["session"])

    def run(self, *args, call=None, input=()):
        """Sends `input`, ends the input, collects the output. Raises FunctionFailed."""
        with self.start(*args, call=call) as session:
            try:
                for message in input:
                    session.send(message)
                session.end_input()
            except RuntimeError:
                pass  # It may return before it has taken all of its input: its outcome says what happened.
            messages = list(iter(session.receive, None))
            if session.outcome["kind"] != "returned":
                raise FunctionFailed(session.outcome)
            return Result(messages)

    def logs(self):
        """What its instances logged so far, as (level, text)."""
        return [(line["level"], line["text"]) for line in _ask("logs", function=self._number)["lines"]]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _ask("remove", function=self._number)


class Site:
    """A web site on this machine, which the function under test may reach although its address is private."""

    def __init__(self, number, url):
        self._number = number
        self.url = url

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _ask("close-site", site=self._number)


def serve(pages):
    """Serves each path with this text, as HTML, on a port from 8000 on: the manifest must ask for it."""
    answer = _ask("serve", pages=pages)
    return Site(answer["site"], answer["url"])


def install(fn=None):
    """Installs the function under test, or the one in another folder or file."""
    return Function(_ask("install", **({} if fn is None else {"fn": fn}))["function"])


def run(*args, call=None, input=()):
    """Installs the function under test, runs it once and removes it."""
    with install() as function:
        return function.run(*args, call=call, input=input)


_bridge = None


def _ask(do, **rest):
    global _bridge
    if _bridge is None:
        command = os.environ.get("BENTO_TEST_BRIDGE")
        if command is None:
            raise RuntimeError("there is no box: run these tests with `bento fn test`")
        _bridge = subprocess.Popen(json.loads(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _bridge.stdin.write(json.dumps({"do": do, **rest}) + "\n")
    _bridge.stdin.flush()
    line = _bridge.stdout.readline()
    if line == "":
        raise RuntimeError("the test harness has ended")
    answer = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer


def _main(directory, pattern):
    """Runs the tests of a folder; counts go to file descriptor 3, as JSON."""
    import unittest

    # One module for those who import it, and for this program.
    sys.modules["bento_testing"] = sys.modules["__main__"]
    sys.path.insert(0, directory)
    suite = unittest.defaultTestLoader.discover(directory, pattern=pattern, top_level_dir=directory)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    counts = {"passed": result.testsRun - failed - len(result.skipped), "failed": failed}
    if _bridge is not None:
        _bridge.stdin.close()
        _bridge.wait()
    with os.fdopen(3, "w") as out:
        json.dump(counts, out)


if __name__ == "__main__":
    _main(*sys.argv[1:])
