import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { LinkProxy, QUEUE_SLACK_BYTES, QUEUE_UNLIMITED_BYTES, queueBytesMax } from "./link-proxy.ts";

/** A server whose connections the test handles, and a port for the proxy in front of it. */
async function target(handle: (socket: Socket) => void) {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => socket.destroy());
    handle(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const free = createServer().listen(0, "127.0.0.1");
  await once(free, "listening");
  const { port } = free.address() as AddressInfo;
  await new Promise((resolve) => free.close(resolve));
  return {
    name: "r0",
    host: "127.0.0.1",
    port,
    targetPort: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

test("LinkProxy: many bytes arrive whole both ways, the end too, and the trace counts them", async () => {
  await using echo = await target((socket) => socket.pipe(socket));
  const dir = await mkdtemp(join(tmpdir(), "bento-link-"));
  try {
    const tracePath = join(dir, "trace");
    await using proxy = await LinkProxy.start({ ...echo, latencyMs: 2, rateMbit: 400, tracePath });
    const socket = connect(echo.port, "127.0.0.1");
    const sent = Buffer.alloc(2_000_000, "0123456789");
    socket.end(sent);
    const chunks: Buffer[] = [];
    for await (const chunk of socket as AsyncIterable<Buffer>) chunks.push(chunk);
    assert.ok(Buffer.concat(chunks).equals(sent));
    await proxy[Symbol.asyncDispose]();
    const lines = (await readFile(tracePath, "utf8")).trim().split("\n").slice(1);
    for (const direction of ["in", "out"])
      assert.equal(
        lines
          .map((line) => line.split("\t"))
          .filter((fields) => fields[4] === direction)
          .reduce((sum, fields) => sum + Number(fields[5]), 0),
        sent.length,
      );
  } finally {
    await rm(dir, { recursive: true });
  }
});

test("LinkProxy: a byte takes the latency each way", async () => {
  await using echo = await target((socket) => socket.pipe(socket));
  await using _proxy = await LinkProxy.start({ ...echo, latencyMs: 50, rateMbit: 0 });
  const socket = connect(echo.port, "127.0.0.1");
  const start = performance.now();
  socket.write("x");
  await once(socket, "data");
  // Connecting takes one round trip, the byte another; Node's timers may fire 1 ms early.
  assert.ok(performance.now() - start >= 196);
  socket.destroy();
});

test("LinkProxy: all links together share the rate into the relay", async () => {
  await using relay = await target((socket) => {
    socket.resume().once("end", () => socket.end());
  });
  await using _proxy = await LinkProxy.start({ ...relay, latencyMs: 0, rateMbit: 0, intoMbit: 8 });
  const start = performance.now();
  const bytes = 150_000;
  await Promise.all(
    [0, 1].map(async () => {
      const socket = connect(relay.port, "127.0.0.1");
      socket.resume().end(Buffer.alloc(bytes));
      // The relay's end comes back once all has arrived there.
      await once(socket, "end");
    }),
  );
  // A megabyte a second; Node's timers may fire 1 ms early.
  assert.ok(performance.now() - start >= (2 * bytes) / 1000 - 4);
});

test("LinkProxy: a receiver that does not read stops the sender within the queue's bound", async () => {
  await using deaf = await target((socket) => socket.pause());
  await using _proxy = await LinkProxy.start({ ...deaf, latencyMs: 1, rateMbit: 800 });
  const socket = connect(deaf.port, "127.0.0.1");
  const chunk = Buffer.alloc(1_000_000);
  let written = 0;
  // Until the sender's own buffer stays full; the kernel holds a few MB per socket, the proxy its bound.
  for (let stalled = false; !stalled; ) {
    if (socket.write(chunk)) {
      written += chunk.length;
      continue;
    }
    written += chunk.length;
    stalled = await Promise.race([
      once(socket, "drain").then(() => false),
      new Promise<boolean>((resolve) => setTimeout(() => resolve(true), 300)),
    ]);
  }
  assert.ok(written < 40_000_000);
  socket.destroy();
});

test("queueBytesMax: the product of rate and delay and some slack, never more than the bound", () => {
  assert.equal(queueBytesMax({ latencyMs: 100, rateMbit: 8 }), 100_000 + QUEUE_SLACK_BYTES);
  assert.equal(
    queueBytesMax({ latencyMs: 5000, rateMbit: 100_000 }),
    QUEUE_UNLIMITED_BYTES + QUEUE_SLACK_BYTES,
  );
  assert.equal(queueBytesMax({ latencyMs: 0, rateMbit: 0 }), QUEUE_UNLIMITED_BYTES);
});
