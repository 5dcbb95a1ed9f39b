// Functions in the form that the 2021 papers print run as they are: module-level imports, `api` as a global, a
// call expression, a truthy result as output.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { after, before, describe, test } from "node:test";
import { inflateSync } from "node:zlib";
import { fakeNet, GuestBench, NET, PLACES } from "./guest-harness.ts";

const HELLO = `
def hello():
    api.send("hello world")
`;
const ADD = `
def add(x,y):
    sum=x+y
    return sum
`;
const BROWSE = `
import requests
import zlib
import os

def browse(url, padding):
    body= requests.get(url, timeout=1).content
    compressed= zlib.compress(body)
    final= compressed
    if padding - len(final) > 0:
        final= final + (os.urandom(padding - len(final)))
    else:
        final= final + (os.urandom((len(final) + padding) % padding))
    api.send(final)
`;
const IP_REVEAL = `
import socket
import zlib

def ip_reveal():
    host_name = socket.gethostname()
    ip_address = socket.gethostbyname(host_name)
    compressed= zlib.compress(ip_address)

    api.send(compressed)
`;

for (const place of PLACES) {
  describe(`functions of 2021, ${place}`, { timeout: 30_000 }, () => {
    let bench: GuestBench;
    before(async () => {
      bench = await GuestBench.open(place);
    });
    after(async () => {
      await bench[Symbol.asyncDispose]();
    });

    test("hello: sends its greeting", async () => {
      await using guest = await bench.run("python", HELLO, { invocation: { call: "hello()" } });
      assert.deepEqual(await guest.all(), ["hello world"]);
      assert.deepEqual(await guest.ended, { kind: "returned" });
    });

    test("add: its result is the output", async () => {
      await using guest = await bench.run("python", ADD, { invocation: { call: "add(5,12)" } });
      assert.deepEqual(await guest.all(), ["17"]);
    });

    test("a result that is not true is no output", async () => {
      await using guest = await bench.run("python", ADD, { invocation: { call: "add(5,-5)" } });
      assert.deepEqual(await guest.all(), []);
      assert.deepEqual(await guest.ended, { kind: "returned" });
    });

    test("browse: sends the page compressed and padded", async () => {
      const server = createServer((_, response) => response.end("<p>page</p>".repeat(100)));
      server.listen(0, "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address() as AddressInfo;
      const net = fakeNet({ "site.test:80": () => connect(port, "127.0.0.1") });
      try {
        await using guest = await bench.run("python", BROWSE, {
          invocation: { call: 'browse("http://site.test/", 1000)' },
          grant: { ...NET, syscalls: ["loopback"] },
          services: { net },
        });
        const output = (await guest.next()) ?? assert.fail("no output");
        assert.equal(output.length, 1000);
        assert.equal(inflateSync(output).toString(), "<p>page</p>".repeat(100));
        assert.deepEqual(await guest.ended, { kind: "returned" });
      } finally {
        server.close();
        server.closeAllConnections();
        await once(server, "close");
      }
    });

    test("ip_reveal: learns nothing of the host", async () => {
      await using guest = await bench.run("python", IP_REVEAL, { invocation: { call: "ip_reveal()" } });
      const end = await guest.ended;
      // Python 3 does not compress text: the caller sees the function's own mistake.
      assert.ok(end.kind === "failed");
      assert.equal(end.failure.name, "TypeError");
      assert.match(end.failure.traceback, /line 8, in ip_reveal/);

      await using fixed = await bench.run(
        "python",
        IP_REVEAL.replace("(ip_address)", "((host_name + ip_address).encode())"),
        {
          invocation: { call: "ip_reveal()" },
        },
      );
      assert.equal(inflateSync((await fixed.next()) ?? "").toString(), "bento127.0.0.1");
    });

    test("api: send counts bytes, an empty message is not sent, other types are refused", async () => {
      const source = `
def main():
    api.send(str([api.send("zwölf"), api.send(b""), api.send(""), api.poll()]))
    api.send(5)
`;
      await using guest = await bench.run("python", source);
      assert.deepEqual(await guest.all(), ["zwölf", "[6, 0, 0, False]"]);
      const end = await guest.ended;
      assert.ok(end.kind === "failed");
      assert.match(end.failure.message, /takes str or bytes, not int/);
    });
  });
}
