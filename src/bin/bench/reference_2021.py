"""A stand-in for the process model of the 2021 release, to measure against; never part of a box.

One thread a client; store writes a file; execute starts a new interpreter with code and call in its argument list and
forks a process that copies the function's output to a file; open forks a process that polls that file every 10 ms and
writes to the client. Binary protocol as in docs/spec/protocol-2021.md. Prints the port it listens on.
"""

import json
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid

STORE, EXECUTE, OPEN, CLOSE, DATA, ERROR = range(6)
POLL_S = 0.01

GUEST = r"""
import json, struct, sys
work = json.loads(sys.argv[1])
class api:
    @staticmethod
    def send(data):
        data = data.encode() if isinstance(data, str) else data
        sys.stdout.buffer.write(struct.pack("Q", len(data)) + data)
        sys.stdout.buffer.flush()
scope = {"api": api}
exec(compile(work["code"], "<inline>", "exec"), scope)
result = eval(work["call"], scope)
if result:
    api.send(result)
"""


class Run:
    def __init__(self, directory, code, call):
        self.path = os.path.join(directory, str(uuid.uuid4()) + ".out")
        self.alive = multiprocessing.Value("i", 1)
        command = [sys.executable, "-c", GUEST, json.dumps({"code": code, "call": call})]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.copier = multiprocessing.Process(target=self.copy)
        self.copier.start()

    def copy(self):
        with open(self.path, "wb") as out:
            while True:
                header = self.process.stdout.read(8)
                if len(header) < 8:
                    break
                out.write(header + self.process.stdout.read(struct.unpack("Q", header)[0]))
                out.flush()
        self.alive.value = 0

    def deliver(self, connection, run_id):
        source = None
        while True:
            if source is None and os.path.exists(self.path):
                source = open(self.path, "rb")
            header = source.read(8) if source else b""
            if len(header) == 8:
                data = source.read(struct.unpack("Q", header)[0])
                connection.sendall(struct.pack(">BI", DATA, 36 + len(data)) + run_id.encode() + data)
            elif self.alive.value == 0:
                text = b"session terminated"
                connection.sendall(struct.pack(">BI", ERROR, 36 + len(text)) + run_id.encode() + text)
                return
            else:
                time.sleep(POLL_S)


def read(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def answer(connection, kind, text, error=0):
    connection.sendall(struct.pack(">BBI", kind, error, len(text)) + text.encode())


def serve(connection, directory, runs):
    workers = []
    try:
        while True:
            kind, length = struct.unpack(">BI", read(connection, 5))
            body = read(connection, length)
            if kind == STORE:
                token = str(uuid.uuid4())
                with open(os.path.join(directory, token + ".json"), "wb") as out:
                    out.write(body)
                answer(connection, STORE, token)
            elif kind == EXECUTE:
                request = json.loads(body)
                with open(os.path.join(directory, request["token"] + ".json")) as stored:
                    code = json.load(stored)["code"]
                run_id = str(uuid.uuid4())
                runs[run_id] = Run(directory, code, request["call"])
                answer(connection, EXECUTE, run_id)
            elif kind == OPEN:
                run_id = body.decode()
                worker = multiprocessing.Process(target=runs[run_id].deliver, args=(connection, run_id))
                worker.start()
                workers.append(worker)
    except (EOFError, OSError):
        for worker in workers:
            worker.join()


def end_with_input():
    """Ends this process and all that it forked when the starter closes our input. Not sys.stdin: its lock would be forked."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def main():
    multiprocessing.set_start_method("fork")
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        os.setpgid(0, 0)
        threading.Thread(target=end_with_input, daemon=True).start()
        runs = {}
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, directory, runs), daemon=True).start()


if __name__ == "__main__":
    main()
