// The thread of an observer (observed-link.ts): the SOCKS5 proxy, and what it saw. A thread of its own, so that neither the
// client's work nor that of a program that measures shows in the times.

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { parentPort } from "node:worker_threads";
import type { Passed } from "./observed-link.ts";

let passed: Passed[] = [];
let links = 0;

const server = createServer({ noDelay: true });
server.on("connection", (client) => {
  serve(client).catch(() => client.destroy());
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
tell((server.address() as AddressInfo).port);
parentPort?.on("message", () => {
  tell(passed);
  passed = [];
});

function tell(what: number | readonly Passed[]): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(what);
}

/** RFC 1928: `05 nmethods methods`, then `05 01 00 01 address(4) port(2)`; tor names relays by address. */
async function serve(client: Socket): Promise<void> {
  client.on("error", () => client.destroy());
  const [, methods = 0] = await take(client, 2);
  await take(client, methods);
  client.write(Uint8Array.of(5, 0));
  const request = await take(client, 10);
  if (request[1] !== 1 || request[3] !== 1) throw new Error("not a connection to an IPv4 address");
  const relay = connect({
    host: request.subarray(4, 8).join("."),
    port: request.readUInt16BE(8),
    noDelay: true,
  });
  relay.on("error", () => relay.destroy());
  client.once("close", () => relay.destroy());
  relay.once("close", () => client.destroy());
  await once(relay, "connect");
  client.write(Uint8Array.of(5, 0, 0, 1, 0, 0, 0, 0, 0, 0));
  const link = links++;
  for (const [from, to, direction] of [
    [client, relay, "up"],
    [relay, client, "down"],
  ] as const) {
    from.on("data", (chunk: Buffer) => {
      passed.push({ link, atMs: Date.now(), direction, bytes: chunk.length });
    });
    from.pipe(to);
  }
}

/** The next `count` bytes. */
async function take(socket: Socket, count: number): Promise<Buffer> {
  for (;;) {
    const bytes = socket.read(count) as Buffer | null;
    if (bytes) return bytes;
    if (socket.readableEnded || socket.destroyed) throw new Error("the client went away");
    await once(socket, "readable");
  }
}
