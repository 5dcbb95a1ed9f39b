# Runs one function in one CPython process inside the sandbox: announces itself, gets its source and grant over
# the channel (frames on stdin and stdout, spec/guest 2), runs it, reports how it ended (spec/guest 3).
# The host at the other end is trusted; the function in this process is its own enemy only.
# Imports are few and late: an idle instance must stay small. `json` alone would cost more than this file.

import sys
import posix as _posix
import _json
import _thread
from _collections import deque as _deque

_HEADER = 9
_START, _INPUT, _INPUT_MORE, _INPUT_END, _REPLY, _REFUSE = 1, 2, 3, 4, 5, 6
_DATA, _DATA_END, _RESET, _CREDIT, _STOP, _SESSION = 7, 8, 9, 10, 11, 12
_READY, _OUTPUT, _OUTPUT_MORE, _DONE, _FAILED, _CALL, _LOG = 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26
_PAYLOAD_MAX = 64 * 1024
_WINDOW = 256 * 1024
_CREDIT_STEP = _WINDOW // 4
_LOG_CHARS_MAX = 4 * 1024
_MESSAGE_CHARS_MAX = 2 * 1024
_TRACEBACK_CHARS_MAX = 8 * 1024
_LIST_MAX = 256
_FILE = "function.py"
_LIBRARIES = "/usr/lib/python3/dist-packages"
_HOST_NAME = "bento"
_TOR_PORTS = (9050, 9051)
_TOR_CONTROL = "tor_control.pyc"


class HostError(Exception):
    """What the box refused or could not do. `code` is the box's: "net-refused", "storage-quota", ..."""

    def __init__(self, code, message, refusals=()):
        super().__init__(message)
        self.code = code
        self.refusals = refusals


# --- JSON, by the two C functions that the json package itself uses -------------------------------------------

class _Scan:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo = {}


_scan = _json.make_scanner(_Scan)


def _from_json(data):
    return _scan(data.decode(), 0)[0]


def _to_json(value):
    """str, numbers, bool, None, lists and dicts of these."""
    if isinstance(value, str):
        return _json.encode_basestring_ascii(value)
    if value is True or value is False:
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float) and value - value == 0:
        return float.__repr__(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_to_json, value)) + "]"
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"Cannot call the box: found {type(value).__name__}, wanted what JSON can carry")
    return "{" + ",".join(_to_json(key) + ":" + _to_json(item) for key, item in value.items()) + "}"


# --- Waiting ------------------------------------------------------------------------------------------------

class _Signal:
    """A condition without the threading module: `wait` sleeps until `notify`, in any order of the two."""

    def __init__(self, lock):
        self._lock = lock
        self._sleepers = []

    def wait(self, timeout=-1):
        """Call with the lock held; it is released meanwhile. False when `timeout` seconds passed."""
        sleeper = _thread.allocate_lock()
        sleeper.acquire()
        self._sleepers.append(sleeper)
        self._lock.release()
        try:
            return sleeper.acquire(True, timeout)
        finally:
            self._lock.acquire()
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    def notify(self):
        sleepers, self._sleepers = self._sleepers, []
        for sleeper in sleepers:
            sleeper.release()


# --- The channel --------------------------------------------------------------------------------------------

class _Window:
    """Bytes that may be sent before the other end consumed some of them."""

    def __init__(self):
        self._lock = _thread.allocate_lock()
        self._changed = _Signal(self._lock)
        self._free = _WINDOW
        self._error = None
        self.on_change = None

    def take(self, count):
        with self._lock:
            while self._free < count and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            self._free -= count

    def try_take(self, count):
        with self._lock:
            if self._free < count:
                return False
            self._free -= count
            return True

    def give(self, count):
        with self._lock:
            self._free += count
            self._changed.notify()
        if self.on_change is not None:
            self.on_change()

    def fail(self, error):
        with self._lock:
            self._error = error
            self._changed.notify()


class _Stream:
    """One call, with the byte stream on its id. `on_change` tells the socket bridge that something arrived."""

    def __init__(self, channel, number):
        self.number = number
        self.window = _Window()
        self.on_change = None
        self._channel = channel
        self._lock = _thread.allocate_lock()
        self._changed = _Signal(self._lock)
        self._answer = None
        self._parts = _deque()
        self._ended = False
        self._error = None
        self._owed = 0

    def answer(self, timeout=-1):
        """The box's answer to the call. Raises HostError, or TimeoutError after `timeout` seconds."""
        with self._lock:
            while self._answer is None and self._error is None:
                if not self._changed.wait(timeout):
                    raise TimeoutError("timed out")
            if self._answer is None:
                raise self._error
            return self._answer[0]

    def read(self):
        """The next bytes, b"" at the end. Raises HostError when the stream broke."""
        with self._lock:
            while not self._parts and not self._ended and self._error is None:
                self._changed.wait()
            return self._take()

    def try_read(self):
        """As `read`, but None when nothing is there yet."""
        with self._lock:
            if not self._parts and not self._ended and self._error is None:
                return None
            return self._take()

    def _take(self):
        if self._error is not None:
            raise self._error
        return self._parts.popleft() if self._parts else b""

    def consumed(self, count):
        """Gives the window of a piece of `count` bytes back."""
        self._owed += _HEADER + count
        if self._owed >= _CREDIT_STEP:
            self._channel.send(_CREDIT, self.number, self._owed.to_bytes(4, "big"))
            self._owed = 0

    def write(self, data):
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _PAYLOAD_MAX):
            part = view[at:at + _PAYLOAD_MAX]
            self.window.take(_HEADER + len(part))
            self._channel.send(_DATA, self.number, part)

    def send(self, part):
        """Sends one piece whose window was taken already."""
        self._channel.send(_DATA, self.number, part)

    def end(self):
        self._channel.send(_DATA_END, self.number)

    def close(self):
        self._channel.streams.pop(self.number, None)
        self._channel.send(_RESET, self.number, b'{"code":"closed","message":"Closed by the function"}')

    def on_frame(self, kind, payload):
        with self._lock:
            if kind == _REPLY:
                self._answer = (_from_json(payload),)
            elif kind == _DATA:
                self._parts.append(payload)
            elif kind == _DATA_END:
                self._ended = True
            else:
                fields = _from_json(payload)
                self._error = HostError(fields["code"], fields["message"], fields.get("refusals", ()))
            self._changed.notify()
        if self._error is not None:
            self.window.fail(self._error)
        if self.on_change is not None:
            self.on_change()

    def fail(self, error):
        with self._lock:
            self._error = error
            self._changed.notify()
        self.window.fail(error)
        if self.on_change is not None:
            self.on_change()


class _Channel:
    def __init__(self, source, sink):
        self._source = source
        self._sink = sink
        self._buffer = bytearray()
        self._write_lock = _thread.allocate_lock()
        self._call_lock = _thread.allocate_lock()
        self._last_call = 0
        self.streams = {}
        self.output_window = _Window()

    def send(self, kind, number, payload=b""):
        """Writes one frame; returns when the pipe has taken it."""
        header = len(payload).to_bytes(4, "big") + bytes((kind,)) + number.to_bytes(4, "big")
        with self._write_lock:
            left = memoryview(header + payload) if len(payload) < 4096 else None
            if left is None:
                sent = _posix.writev(self._sink, (header, payload))
                if sent < _HEADER:
                    self._write_all(memoryview(header)[sent:])
                    sent = _HEADER
                left = memoryview(payload)[sent - _HEADER:]
            self._write_all(left)

    def _write_all(self, left):
        while len(left):
            left = left[_posix.write(self._sink, left):]

    def receive(self):
        """The next frame as (kind, number, payload). Raises EOFError when the host closed its end."""
        buffer = self._buffer
        while len(buffer) < _HEADER or len(buffer) < _HEADER + int.from_bytes(buffer[:4], "big"):
            data = _posix.read(self._source, 256 * 1024)
            if not data:
                raise EOFError
            buffer += data
        end = _HEADER + int.from_bytes(buffer[:4], "big")
        kind, number = buffer[4], int.from_bytes(buffer[5:9], "big")
        payload = bytes(memoryview(buffer)[_HEADER:end])
        del buffer[:end]
        return kind, number, payload

    def call(self, method, params):
        with self._call_lock:
            text = '{"method":"%s","params":%s}' % (method, _to_json(params))
            if len(text) > _PAYLOAD_MAX:
                raise ValueError("Cannot call %s: parameters are too large" % method)
            self._last_call += 1
            stream = _Stream(self, self._last_call)
            self.streams[stream.number] = stream
            self.send(_CALL, stream.number, text.encode())
        return stream

    def ask(self, method, params):
        """A call without a stream: its answer."""
        stream = self.call(method, params)
        try:
            return stream.answer()
        finally:
            self.streams.pop(stream.number, None)

    def on_frame(self, kind, number, payload):
        """Whether the frame belonged to a call or a window."""
        if kind == _CREDIT:
            stream = self.streams.get(number)
            window = self.output_window if number == 0 else stream and stream.window
            if window:
                window.give(int.from_bytes(payload, "big"))
            return True
        if kind in (_REPLY, _REFUSE, _DATA, _DATA_END, _RESET):
            stream = self.streams.get(number)
            if stream:
                stream.on_frame(kind, payload)
            return True
        return False

    def fail(self, error):
        self.output_window.fail(error)
        for stream in list(self.streams.values()):
            stream.fail(error)


class _Input:
    """Input messages, put together from fragments. The window is given back when a message is taken; while no
    whole message waits, fragments are given back as they come, since one may be larger than the window."""

    def __init__(self, channel):
        self._channel = channel
        self._lock = _thread.allocate_lock()
        self._changed = _Signal(self._lock)
        self._messages = _deque()
        self._parts = []
        self._held = 0
        self._owed = 0
        self._ended = False

    def receive(self, payload, last):
        credit = 0
        with self._lock:
            self._parts.append(payload)
            self._held += _HEADER + len(payload)
            if not self._messages:
                credit = self._owe(self._held)
                self._held = 0
            if last:
                self._messages.append((b"".join(self._parts), self._held))
                self._parts = []
                self._held = 0
                self._changed.notify()
        self._give(credit)

    def end(self):
        with self._lock:
            self._ended = True
            self._changed.notify()

    def take(self):
        with self._lock:
            while not self._messages and not self._ended:
                self._changed.wait()
            if not self._messages:
                raise EOFError("the client ended its input")
            message, held = self._messages.popleft()
            if not self._messages:
                held += self._held
                self._held = 0
            credit = self._owe(held)
        self._give(credit)
        return message

    def ready(self):
        with self._lock:
            return bool(self._messages)

    def _owe(self, count):
        self._owed += count
        if self._owed < _CREDIT_STEP:
            return 0
        credit, self._owed = self._owed, 0
        return credit

    def _give(self, credit):
        if credit:
            self._channel.send(_CREDIT, 0, credit.to_bytes(4, "big"))


# --- What functions see -------------------------------------------------------------------------------------

class _Log:
    def __init__(self, channel):
        def line(level):
            def write(text):
                text = str(text)[:_LOG_CHARS_MAX]
                channel.send(_LOG, 0, _to_json({"level": level, "text": text}).encode())
            return write
        self.debug, self.info, self.warn, self.error = line("debug"), line("info"), line("warn"), line("error")


class Connection:
    """A TCP connection made by the box. `recv` returns b"" at the end."""

    def __init__(self, stream):
        self._stream = stream

    def send(self, data):
        self._stream.write(data)
        return len(data)

    def recv(self):
        data = self._stream.read()
        self._stream.consumed(len(data))
        return data

    def end(self):
        self._stream.end()

    def close(self):
        self._stream.close()


class Api:
    """`api`, a global of every function: messages of the session, and what the box granted."""

    def __init__(self, channel, messages, grant):
        lock = _thread.allocate_lock()
        self.log = _Log(channel)
        self.HostError = HostError

        def send(data):
            """Sends one message, str as UTF-8; waits while the client reads too slowly. Returns its bytes."""
            if isinstance(data, str):
                data = data.encode()
            elif not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError("api.send() takes str or bytes, not " + type(data).__name__)
            view = memoryview(data).cast("B")
            total = len(view)
            with lock:
                for at in range(0, total, _PAYLOAD_MAX):
                    part = view[at:at + _PAYLOAD_MAX]
                    channel.output_window.take(_HEADER + len(part))
                    channel.send(_OUTPUT_MORE if at + len(part) < total else _OUTPUT, 0, part)
            return total

        def recv():
            """The next whole message as bytes; waits for it. Raises EOFError when the client ended its input."""
            return messages.take()

        def poll():
            """Whether a message is there right now."""
            return messages.ready()

        self.send, self.recv, self.poll = send, recv, poll
        if "net" in grant:
            self.net_connect = _net_connect(channel)
        if "storage" in grant:
            self._add_storage(channel, lock)
        if "bento" in grant:
            _add_bento(self, channel)
        if grant["box"]:
            self.box_facts = lambda: channel.ask("box.facts", {})
        self.remove_function = lambda: channel.ask("self.remove", {})

    def _add_storage(self, channel, output_lock):
        def storage_put(key, value, create=False):
            """Stores str or bytes whole. Returns the number of bytes."""
            stream = channel.call("storage.put", {"key": key, "create": bool(create)})
            try:
                stream.write(value.encode() if isinstance(value, str) else value)
                stream.end()
                return stream.answer()["bytes"]
            finally:
                channel.streams.pop(stream.number, None)

        def storage_get(key, offset=0):
            """The value from `offset` on as bytes, None when there is no such key."""
            stream = channel.call("storage.get", {"key": key, "offset": offset})
            try:
                if stream.answer() is None:
                    return None
                parts = []
                while part := stream.read():
                    stream.consumed(len(part))
                    parts.append(part)
                return b"".join(parts)
            finally:
                channel.streams.pop(stream.number, None)

        def storage_send(key, offset=0, count=None):
            """Sends the value from `offset` on, at most `count` bytes, as one message; the box does it. Returns its bytes
            when the client has taken it, None when there is no such key."""
            params = {"key": key, "offset": offset}
            with output_lock:
                stream = channel.call("storage.send", params if count is None else {**params, "bytes": count})
            try:
                sent = stream.answer()
                return None if sent is None else sent["bytes"]
            finally:
                channel.streams.pop(stream.number, None)

        def storage_delete(key):
            """Whether there was such a key."""
            return channel.ask("storage.delete", {"key": key})

        def storage_list(prefix=""):
            """Yields (key, bytes) in order."""
            params = {"prefix": prefix, "limit": _LIST_MAX}
            while True:
                page = channel.ask("storage.list", params)
                for entry in page["keys"]:
                    yield entry["key"], entry["bytes"]
                    params["after"] = entry["key"]
                if not page["more"] or not page["keys"]:
                    return

        self.storage_put, self.storage_get, self.storage_send = storage_put, storage_get, storage_send
        self.storage_delete, self.storage_list = storage_delete, storage_list


def _net_connect(channel):
    def net_connect(host, port):
        """Opens a TCP connection; the box resolves and decides. Raises HostError."""
        stream = channel.call("net.connect", {"host": host, "port": port})
        try:
            stream.answer()
        except BaseException:
            channel.streams.pop(stream.number, None)
            raise
        return Connection(stream)
    return net_connect


_MESSAGE, _MESSAGE_MORE, _PACKAGE, _PACKAGE_MORE, _DEPLOYED, _RESUMED, _ENDED = 1, 2, 3, 4, 5, 6, 7
_RECORD_MAX = 60 * 1024


class FarSession:
    """A session with an instance of another function: whole messages, kept apart by records (wire/guest-record.ts).
    `deployment` has the tokens of what `bento_run` installed; `outcome` is there when `recv` has raised EOFError."""

    def __init__(self, channel, box, stream):
        self._channel = channel
        self._box = box
        self._stream = stream
        self._lock = _thread.allocate_lock()
        self._buffer = bytearray()
        self.outcome = None
        self.interruptions = 0
        answer = stream.answer()
        self.instance, self.offset = answer["instance"], answer["offset"]
        self.deployment = _from_json(self._record()[1])

    def send(self, data):
        """Sends one message, str as UTF-8, at most 1 MiB. Returns its bytes."""
        data = data.encode() if isinstance(data, str) else data
        with self._lock:
            if self.outcome is not None:
                raise HostError("already-ended", "Cannot send: the instance has ended")
            _write_records(self._stream, data, _MESSAGE_MORE, _MESSAGE)
        return len(data)

    def recv(self):
        """The next message. Raises EOFError when the instance has ended, HostError when the session broke."""
        parts = []
        while self.outcome is None:
            kind, payload = self._record()
            if kind == _ENDED:
                self.outcome = _from_json(payload)
                self._stream.window.fail(HostError("already-ended", "Cannot send: the instance has ended"))
                self._channel.streams.pop(self._stream.number, None)
            elif kind == _RESUMED:
                self.interruptions += 1
            elif payload or parts:
                self.offset += len(payload)
                parts.append(payload)
                if kind == _MESSAGE:
                    return b"".join(parts)
        if parts:
            return b"".join(parts)
        raise EOFError("the instance has ended")

    def end(self):
        """No more messages."""
        self._stream.end()

    def detach(self):
        """Leaves. The instance goes on."""
        if self.outcome is None:
            self._stream.close()

    def close(self):
        """Ends the instance. Whether it still ran."""
        return self._channel.ask("bento.close", {"box": self._box, "instance": self.instance})

    def _record(self):
        buffer = self._buffer
        while len(buffer) < 5 or len(buffer) < 5 + int.from_bytes(buffer[1:5], "big"):
            data = self._stream.read()
            if not data:
                raise HostError("closed", "Cannot go on: the session was closed")
            self._stream.consumed(len(data))
            buffer += data
        end = 5 + int.from_bytes(buffer[1:5], "big")
        kind, payload = buffer[0], bytes(memoryview(buffer)[5:end])
        del buffer[:end]
        return kind, payload


def _write_records(stream, data, more, last):
    view = memoryview(data).cast("B")
    at = 0
    while True:
        part = view[at:at + _RECORD_MAX]
        at += len(part)
        kind = more if at < len(view) else last
        stream.write(bytes((kind,)) + len(part).to_bytes(4, "big") + part)
        if at >= len(view):
            return


def _add_bento(api, channel):
    """`api.bento_*`: functions on this box ("self") and on others, within the grant (spec/guest 5.2)."""

    def whole(stream):
        try:
            stream.answer()
            parts = []
            while part := stream.read():
                stream.consumed(len(part))
                parts.append(part)
            return _from_json(b"".join(parts))
        finally:
            channel.streams.pop(stream.number, None)

    def invocation(args, call):
        return {"args": list(args)} if call is None else {"call": call}

    def session(box, stream):
        try:
            return FarSession(channel, box, stream)
        except BaseException:
            channel.streams.pop(stream.number, None)
            raise

    def sending(send):
        try:
            send()
        except HostError:
            pass  # the box refused meanwhile: its answer says why

    def package(manifest, source):
        return _to_json({"manifest": manifest, "source": source}).encode()

    def bento_deploy(box, manifest, source, linked=False):
        """Installs a function: {box, name, invocationToken, shutdownToken, expiresAt, sourceHash, grant}."""
        data = package(manifest, source)
        stream = channel.call("bento.deploy", {"box": box, "linked": linked})

        def send():
            stream.write(data)
            stream.end()
        sending(send)
        return whole(stream)

    def bento_run(box, token=None, manifest=None, source=None, args=(), call=None, linked=False):
        """Starts an instance, of the function with this invocation token or of a package, and attaches: FarSession."""
        params = {"box": box, "invocation": invocation(args, call), "linked": linked}
        if token is not None:
            return session(box, channel.call("bento.run", {**params, "token": token}))
        data = package(manifest, source)
        stream = channel.call("bento.run", params)
        sending(lambda: _write_records(stream, data, _PACKAGE_MORE, _PACKAGE))
        return session(box, stream)

    def bento_open(box, instance, offset=None):
        """Attaches to an instance: FarSession."""
        at = {} if offset is None else {"offset": offset}
        return session(box, channel.call("bento.open", {"box": box, "instance": instance, **at}))

    def bento_exec(box, token, args=(), call=None):
        """Starts an instance without attaching: its id."""
        params = {"box": box, "token": token, "invocation": invocation(args, call)}
        return channel.ask("bento.exec", params)["instance"]

    def bento_choose(boxes, manifest=None, **constraints):
        """{chosen: [{box, ...}], left: [{box, reason}]}; count, distinct, regions, avoidRegions, not."""
        params = {"boxes": list(boxes), "constraints": constraints}
        return whole(channel.call("bento.choose", params if manifest is None else {**params, "manifest": manifest}))

    api.bento_deploy, api.bento_run, api.bento_open, api.bento_exec = bento_deploy, bento_run, bento_open, bento_exec
    api.bento_choose = bento_choose
    api.bento_info = lambda box: channel.ask("bento.info", {"box": box})
    api.bento_policy = lambda box: whole(channel.call("bento.policy", {"box": box}))
    api.bento_close = lambda box, instance: channel.ask("bento.close", {"box": box, "instance": instance})
    api.bento_shutdown = lambda box, token: channel.ask("bento.shutdown", {"box": box, "token": token})


class _LogWriter:
    """sys.stdout and sys.stderr: whole lines become log lines."""

    encoding = "utf-8"
    errors = "replace"
    closed = False

    def __init__(self, write_line):
        self._write_line = write_line
        self._held = ""

    def write(self, text):
        *lines, self._held = (self._held + str(text)).split("\n")
        for line in lines:
            self._write_line(line)
        if len(self._held) >= _LOG_CHARS_MAX:
            self.flush()
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        if self._held:
            held, self._held = self._held, ""
            self._write_line(held)

    def isatty(self):
        return False

    def fileno(self):
        raise OSError("this is not a file: it becomes log lines")


# --- Sockets: a way out for libraries that open them themselves ---------------------------------------------

class _SocketPatch:
    """A sys.meta_path finder that changes `socket` right after it is imported, whoever imports it."""

    def __init__(self, channel, granted, bridged, tor):
        self._patched = (channel, granted, bridged, tor)

    def find_spec(self, name, path=None, target=None):
        if name != "socket":
            return None
        sys.meta_path.remove(self)
        from _frozen_importlib_external import PathFinder
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _patch_socket(module, *self._patched)

        spec.loader.exec_module = exec_module
        return spec


class _Names:
    """Stand-in IPv4 addresses for names, since only the box resolves, and for IPv6 addresses, since the sandbox
    has IPv4 sockets alone. 198.18.0.0/15 (RFC 2544) is never routed."""

    def __init__(self):
        self._by_name = {}
        self._by_address = {}

    def address(self, name):
        name = name.rstrip(".").lower()
        if name not in self._by_name:
            if len(self._by_name) >= 4096:
                self._by_name.clear()
                self._by_address.clear()
            number = len(self._by_name) + 1
            address = "198.18.%d.%d" % (number >> 8, number & 255)
            self._by_name[name] = address
            self._by_address[address] = name
        return self._by_name[name]

    def name(self, address):
        return self._by_address.get(address, address)


def _patch_socket(module, channel, granted, bridged, tor):
    names = _Names()
    real_connect = module.socket.connect
    own_names = ("", "localhost", "localhost.localdomain", _HOST_NAME)

    def literal(host):
        """`host` as an address, None when it is a name."""
        for family in (module.AF_INET, module.AF_INET6):
            try:
                return module.inet_ntop(family, module.inet_pton(family, host))
            except (OSError, ValueError):
                pass
        return None

    def address_of(host):
        if isinstance(host, (bytes, bytearray)):
            host = host.decode("idna" if not host.isascii() else "ascii")
        if host.lower() in own_names:
            return "127.0.0.1"
        address = literal(host)
        if address == "::1":
            return "127.0.0.1"
        if address is not None:
            return names.address(address) if ":" in address else address
        if not granted:
            raise module.gaierror(module.EAI_NONAME, "Cannot resolve: the function was not granted net")
        return names.address(host)

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        if isinstance(port, (str, bytes)):
            if not port.isdigit() and port not in ("http", "https"):
                raise module.gaierror(module.EAI_SERVICE, "Servname not supported for ai_socktype")
            port = int(port) if port.isdigit() else 80 if port == "http" else 443
        passive = "0.0.0.0" if flags & module.AI_PASSIVE else "127.0.0.1"
        address = passive if host is None else address_of(host)
        if family not in (0, module.AF_INET):
            raise module.gaierror(module.EAI_ADDRFAMILY, "Address family for hostname not supported")
        kind = module.SocketKind(type or module.SOCK_STREAM)
        return [(module.AF_INET, kind, proto or 6, "", (address, port or 0))]

    def connect(self, address):
        if self.family != module.AF_INET:
            return real_connect(self, address)
        host, port = address_of(address[0]), address[1]
        # The sandbox's own loopback. Private networks live in the rest of 127/8: there the box decides, as in deno.
        if host.startswith("127.0."):
            if tor and not tor_ports and port in _TOR_PORTS:
                tor_ports.append(_tor_control(module, channel, real_connect, bridge()))
            return real_connect(self, address)
        if self.type != module.SOCK_STREAM:
            raise PermissionError(1, "Cannot connect: only TCP leaves the box")
        if not granted:
            raise PermissionError(1, "Cannot connect: the function was not granted net")
        if not bridged:
            raise PermissionError(1, "Cannot connect: sockets need the system call group loopback; use api.net_connect")
        bridge().connect(self, names.name(host), port)

    def connect_ex(self, address):
        try:
            connect(self, address)
        except OSError as error:
            if error.errno is None:
                raise
            return error.errno
        return 0

    real_init = module.socket.__init__

    def init(self, *args, **kwargs):
        try:
            real_init(self, *args, **kwargs)
        except PermissionError:
            why = "it needs the system call group loopback" if granted else "the function was not granted net"
            raise PermissionError(1, "Cannot open a socket: " + why) from None

    bridges, tor_ports = [], []

    def bridge():
        if not bridges:
            bridges.append(_Bridge(module, channel, real_connect))
        return bridges[0]

    def gethostbyname(name):
        return address_of(name)

    module.socket.__init__ = init
    module.socket.connect, module.socket.connect_ex = connect, connect_ex
    module.getaddrinfo = getaddrinfo
    module.gethostname = lambda: _HOST_NAME
    module.getfqdn = lambda name="": _HOST_NAME if name in own_names else name
    module.gethostbyname = gethostbyname
    module.gethostbyname_ex = lambda name: (name, [], [address_of(name)])
    module.gethostbyaddr = lambda address: (names.name(address), [], [address])


def _tor_control(module, channel, real_connect, bridge):
    """Opens the ports for programs that speak with tor themselves: few do, so what does it is loaded here."""
    from _frozen_importlib_external import SourcelessFileLoader
    path = __file__.rpartition("/")[0] + "/" + _TOR_CONTROL
    namespace = {"__name__": "tor_control", "__builtins__": __builtins__}
    exec(SourcelessFileLoader("tor_control", path).get_code("tor_control"), namespace)
    channel.from_json = _from_json
    return namespace["TorControl"](channel, module, real_connect, bridge.adopt, HostError)


class _Bridge:
    """Carries sockets over the channel. Each is connected to a socket of ours on the sandbox's loopback; one
    thread moves bytes between those and the box."""

    def __init__(self, module, channel, real_connect):
        import select
        self._select = select
        self._module = module
        self._channel = channel
        self._real_connect = real_connect
        self._lock = _thread.allocate_lock()
        self._listener = module.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1)
        self._pairs = {}
        self._new = _deque()
        self._wake_read, self._wake_write = _posix.pipe()
        _posix.set_blocking(self._wake_read, False)
        _posix.set_blocking(self._wake_write, False)
        _thread.start_new_thread(self._run, ())

    def connect(self, socket, host, port):
        """Connects `socket` to `host`, or raises what a real connect would raise."""
        timeout = socket.gettimeout()
        stream = self._channel.call("net.connect", {"host": host, "port": port})
        try:
            # A non-blocking connect waits here: what it waits for has no file descriptor.
            stream.answer(timeout if timeout else -1)
            ours = self._join(socket, timeout)
        except HostError as error:
            self._channel.streams.pop(stream.number, None)
            if error.code == "net-timeout":
                raise TimeoutError("timed out") from None
            if error.code == "net-unreachable":
                raise ConnectionRefusedError(111, str(error)) from None
            raise PermissionError(1, str(error)) from None
        except BaseException:
            stream.close()
            raise
        self.adopt(ours, stream)

    def adopt(self, ours, stream, on_end=None):
        """Moves bytes between the two from here on. `on_end` hears of their end."""
        ours.setblocking(False)
        self._new.append(_Pair(ours, stream, self._wake, on_end))
        self._wake()

    def _join(self, socket, timeout):
        """A socket of ours connected to `socket`."""
        target = self._listener.getsockname()
        with self._lock:
            socket.settimeout(None)
            try:
                self._real_connect(socket, target)
                while True:
                    ours, peer = self._listener.accept()
                    if peer == socket.getsockname():
                        break
                    ours.close()
            finally:
                socket.settimeout(timeout)
        return ours

    def _wake(self):
        try:
            _posix.write(self._wake_write, b"\0")
        except BlockingIOError:
            pass  # enough wake-ups wait already

    def _run(self):
        poll = self._select.poll()
        poll.register(self._wake_read, self._select.POLLIN)
        while True:
            for number, _events in poll.poll():
                if number == self._wake_read:
                    try:
                        _posix.read(self._wake_read, 4096)
                    except BlockingIOError:
                        pass
            while self._new:
                pair = self._new.popleft()
                self._pairs[pair.number] = pair
            for pair in list(self._pairs.values()):
                pair.move(self._select)
                if pair.over:
                    if pair.registered:
                        poll.unregister(pair.number)
                    del self._pairs[pair.number]
                    pair.close()
                elif pair.events != pair.registered:
                    if pair.registered:
                        poll.unregister(pair.number)
                    if pair.events:
                        poll.register(pair.number, pair.events)
                    pair.registered = pair.events


class _Pair:
    """One bridged connection: our socket and its stream. `move` does what can be done without waiting."""

    def __init__(self, socket, stream, wake, on_end=None):
        self._on_end = on_end
        self.number = socket.fileno()
        self.registered = 0
        self.events = 0
        self.over = False
        self._socket = socket
        self._stream = stream
        self._to_socket = b""
        self._to_socket_size = 0
        self._to_host = b""
        self._socket_ended = False
        self._host_ended = False
        stream.on_change = wake
        stream.window.on_change = wake

    def move(self, select):
        try:
            self._move_to_socket()
            self._move_to_host()
        except (HostError, OSError):
            self.over = True
            return
        self.over = self._socket_ended and self._host_ended
        self.events = 0
        if not self._socket_ended and not self._to_host:
            self.events |= select.POLLIN
        if self._to_socket:
            self.events |= select.POLLOUT

    def _move_to_socket(self):
        while not self._host_ended:
            if not self._to_socket:
                data = self._stream.try_read()
                if data is None:
                    return
                if not data:
                    self._host_ended = True
                    self._socket.shutdown(1)
                    return
                self._to_socket = memoryview(data)
                self._to_socket_size = len(data)
            try:
                self._to_socket = self._to_socket[self._socket.send(self._to_socket):]
            except BlockingIOError:
                return
            if not self._to_socket:
                self._stream.consumed(self._to_socket_size)

    def _move_to_host(self):
        while not self._socket_ended:
            if not self._to_host:
                try:
                    self._to_host = self._socket.recv(_PAYLOAD_MAX)
                except BlockingIOError:
                    return
                if not self._to_host:
                    self._socket_ended = True
                    self._stream.end()
                    return
            if not self._stream.window.try_take(_HEADER + len(self._to_host)):
                return
            self._stream.send(self._to_host)
            self._to_host = b""

    def close(self):
        self._socket.close()
        self._stream.close()
        if self._on_end is not None:
            self._on_end()


# --- Running ------------------------------------------------------------------------------------------------

def _failure(error, source):
    """name, message and traceback of the function's own frames."""
    import linecache
    import traceback
    linecache.cache[_FILE] = (len(source), None, source.splitlines(True), _FILE)
    report = traceback.TracebackException(type(error), error, error.__traceback__)
    seen = set()

    def keep_own(part):
        while part is not None and id(part) not in seen:
            seen.add(id(part))
            part.stack = traceback.StackSummary.from_list(
                [frame for frame in part.stack if frame.filename == _FILE]
            )
            for inner in part.exceptions or ():
                keep_own(inner)
            keep_own(part.__cause__)
            part = part.__context__

    keep_own(report)
    try:
        message = str(error)
    except BaseException:
        message = ""
    return {
        "name": type(error).__name__[:200],
        "message": message[:_MESSAGE_CHARS_MAX],
        "traceback": "".join(report.format())[-_TRACEBACK_CHARS_MAX:].rstrip("\n"),
    }


def _read_on(channel, messages):
    """The reader thread: the only one that reads the channel."""
    try:
        while True:
            kind, number, payload = channel.receive()
            if channel.on_frame(kind, number, payload):
                continue
            if kind == _INPUT or kind == _INPUT_MORE:
                messages.receive(payload, kind == _INPUT)
            elif kind == _INPUT_END or kind == _STOP:
                messages.end()
    except BaseException:
        # The box is gone: nobody is left to work for.
        _posix._exit(0)


def _run(channel, messages, start):
    grant, invocation, source = start["grant"], start["invocation"], start["source"]
    api = Api(channel, messages, grant)
    sys.stdout, sys.stderr = _LogWriter(api.log.info), _LogWriter(api.log.warn)
    sys.path.append(_LIBRARIES)
    granted, loopback = "net" in grant, "loopback" in grant["syscalls"]
    sys.meta_path.insert(0, _SocketPatch(channel, granted, granted and loopback, "tor" in grant and loopback))
    namespace = {"__name__": "function", "__builtins__": __builtins__, "api": api}
    try:
        exec(compile(source, _FILE, "exec", dont_inherit=True), namespace)
        if "call" in invocation:
            value = eval(compile(invocation["call"].strip(), "<call>", "eval", dont_inherit=True), namespace)
        else:
            entry = start.get("entry", "main")
            if not callable(namespace.get(entry)):
                raise TypeError("Cannot start: the function defines no %s()" % entry)
            value = namespace[entry](*invocation["args"])
        if value:
            api.send(value if isinstance(value, (bytes, bytearray, memoryview)) else str(value))
        return None
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            return None
        return _failure(error, source)


def _replace(descriptor, end):
    """Puts one end of a pipe whose other end is closed at `descriptor`: reads end, writes fail."""
    ends = _posix.pipe()
    _posix.close(ends[1 - end])
    _posix.dup2(ends[end], descriptor)
    _posix.close(ends[end])


def _main():
    # The channel moves out of the way of print(), input() and of descriptors 0 and 1.
    source, sink = _posix.dup(0), _posix.dup(1)
    _replace(0, 0)
    _replace(1, 1)
    channel = _Channel(source, sink)
    messages = _Input(channel)
    channel.send(_READY, 0)
    try:
        while True:
            kind, _number, payload = channel.receive()
            if kind == _START:
                break
    except EOFError:
        _posix._exit(0)
    start = _from_json(payload)
    _thread.stack_size(256 * 1024)
    _thread.start_new_thread(_read_on, (channel, messages))
    _thread.stack_size(0)
    failure = _run(channel, messages, start)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        pass  # the function put something else there
    try:
        if failure is None:
            channel.send(_DONE, 0)
        else:
            channel.send(_FAILED, 0, _to_json(failure).encode())
    finally:
        _posix._exit(0)


_main()
