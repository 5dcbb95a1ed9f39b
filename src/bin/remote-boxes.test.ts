// Where connections of functions really go: to Tor's SOCKS port with the name as it stands, whatever it names, or to
// the box's own listener; never anywhere else from this machine.

import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { test } from "node:test";
import { systemClock } from "../base/clock.ts";
import { parseAddress } from "../wire/box-address.ts";
import { remoteBoxes } from "./remote-boxes.ts";

interface Listener extends AsyncDisposable {
  readonly port: number;
  readonly received: string[];
}

async function listener(onData: (socket: Socket) => void = (socket) => socket.destroy()): Promise<Listener> {
  const received: string[] = [];
  const server = createServer((socket) => {
    received.push("");
    const index = received.length - 1;
    socket.on("error", () => undefined);
    socket.on("data", (chunk) => {
      received[index] += chunk.toString("latin1");
      onData(socket);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    received,
    async [Symbol.asyncDispose]() {
      server.close();
    },
  };
}

test("remoteBoxes: an address goes to Tor as it stands, also one of this machine; nothing is connected to here", async () => {
  await using victim = await listener();
  await using socks = await listener();
  const boxes = remoteBoxes({
    clock: systemClock,
    socks: async () => ({ host: "127.0.0.1", port: socks.port }),
    self: () => assert.fail("the box itself was not meant"),
  });
  const addresses = [`127.0.0.1:${victim.port}`, `localhost:${victim.port}`, "169.254.169.254:80"];
  for (const text of addresses) {
    using box = boxes({ address: parseAddress(text), isolation: "function-a", route: "tor" });
    await assert.rejects(box.info({}));
    assert.equal(box.wasReached, false);
  }
  assert.equal(victim.received.length, 0);
  assert.deepEqual(
    socks.received.map((bytes) =>
      ["127.0.0.1", "localhost", "169.254.169.254"].find((host) => bytes.includes(host)),
    ),
    ["127.0.0.1", "localhost", "169.254.169.254"],
  );
  // The isolation of the function is the user name of its streams.
  assert.ok(socks.received.every((bytes) => bytes.includes("function-a")));
  // It could have been reached.
  const socket = connect(victim.port, "127.0.0.1");
  socket.write("x");
  await once(socket, "close").catch(() => undefined);
  assert.equal(victim.received.length, 1);
});

test("remoteBoxes: the box itself is its own listener, and Tor is not asked", async () => {
  await using own = await listener((socket) => {
    socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
  });
  const boxes = remoteBoxes({
    clock: systemClock,
    socks: () => assert.fail("Tor was asked"),
    self: () => ({ kind: "tcp", host: "127.0.0.1", port: own.port }),
  });
  using box = boxes({ address: { host: "self", port: 1 }, isolation: "x", route: "self" });
  await assert.rejects(box.info({}), { code: "bad-answer" });
  assert.equal(box.wasReached, true);
  assert.match(own.received[0] ?? "", /^GET \/v1\/info HTTP\/1\.1\r\n/);
});
