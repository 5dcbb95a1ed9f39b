"""A client of the 2021 protocol, written from docs/spec/protocol-2021.md alone. Prints one JSON line of findings."""

import json
import socket
import struct
import sys


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def request(self, kind, payload):
        self.socket.sendall(struct.pack(">BI", kind, len(payload)) + payload)

    def answer(self, kind):
        got, status, length = struct.unpack(">BBI", self.exactly(6))
        assert got == kind, (got, kind)
        return status == 0, self.exactly(length).decode()

    def store(self, name, code):
        self.request(0, json.dumps({"name": name, "code": code}).encode())
        return self.answer(0)

    def execute(self, call, token):
        self.request(1, json.dumps({"call": call, "token": token}).encode())
        return self.answer(1)

    def open(self, identity):
        self.request(2, identity.encode())

    def close(self, identity):
        self.request(3, identity.encode())

    def send(self, identity, data):
        self.request(4, identity.encode() + data)

    def message(self):
        kind, length = struct.unpack(">BI", self.exactly(5))
        payload = self.exactly(length)
        assert kind in (4, 5), kind
        return kind == 5, payload[:36].decode(), payload[36:]


ECHO = """
def echo():
    while True:
        data = api.recv()
        if data == b'stop':
            return 'stopped'
        api.send(data)

def large(count):
    api.send(bytes(range(256)) * (count // 256))

def wrong():
    raise ValueError('as asked')
"""


def main(port):
    found = {}
    client = Client(port)
    ok, token = client.store("My Echo", ECHO)
    found["token"] = [ok, len(token)]
    ok, one = client.execute("echo()", token)
    found["execution"] = [ok, len(one)]
    client.open(one)
    client.send(one, b"first")
    found["echo"] = client.message()[2].decode()
    client.send(one, b"x" * 300_000)
    found["long"] = len(client.message()[2])

    # Detached, it goes on: output waits for whoever opens it next, on another connection.
    client.close(one)
    client.send(one, b"while away")
    other = Client(port)
    other.open(one)
    found["reopened"] = other.message()[2].decode()

    # Two executions over one connection.
    _, two = other.execute("large(1000192)", token)
    other.open(two)
    error, identity, data = other.message()
    found["large"] = [identity == two, len(data), data[:256] == bytes(range(256))]
    error, identity, data = other.message()
    found["end"] = [error, identity == two, data.decode()]
    other.send(one, b"stop")
    found["returned"] = other.message()[2].decode()
    found["terminated"] = other.message()[2].decode()
    other.send(one, b"too late")
    error, _, data = other.message()
    found["dead"] = [error, data.decode()]

    _, three = other.execute("wrong()", token)
    other.open(three)
    error, _, data = other.message()
    found["failure"] = [error, "ValueError" in data.decode() and "as asked" in data.decode()]

    found["unknown token"] = other.execute("echo()", "0" * 36)
    other.open("1" * 36)
    error, identity, data = other.message()
    found["unknown id"] = [error, identity, data.decode()]
    found["refused"] = other.execute("", token)[0]
    print(json.dumps(found))


main(int(sys.argv[1]))
