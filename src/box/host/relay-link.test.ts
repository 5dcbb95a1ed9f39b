import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { test } from "node:test";
import type { TLSSocket } from "node:tls";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { CELL, CELL_BYTES, fixedCell } from "../../onion/link/cell.ts";
import { RelayAccount } from "./relay-account.ts";
import { RelayLinkStream } from "./relay-link.ts";

const cell = (command: number) => fixedCell(0x8000_0001, command, new Uint8Array(509).fill(3));
const MANY = 2 ** 30;

/** The stream over a real connection (TLS adds nothing to what is tested), and the relay's end of it. */
async function link(
  options: { readonly bytes?: number; readonly circuits?: number; readonly early?: Uint8Array } = {},
) {
  const { bytes = MANY, circuits = 10, early = new Uint8Array(0) } = options;
  const server = createServer({ allowHalfOpen: true }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  assert.ok(address !== null && typeof address === "object");
  const socket = connect(address.port, "127.0.0.1");
  const [relay] = (await once(server, "connection")) as [Socket];
  server.close();
  const clock = new TestClock();
  const account = new RelayAccount({ links: 1, circuitsPerMinute: circuits, bytes }, clock);
  const traffic = { receivedBytes: 0, sentBytes: 0 };
  const stream = new RelayLinkStream(socket as unknown as TLSSocket, early, { account, traffic, clock });
  const error = Promise.withResolvers<unknown>();
  stream.on("error", error.resolve);
  return {
    stream,
    relay,
    clock,
    traffic,
    error: error.promise,
    [Symbol.dispose]() {
      stream.destroy();
      relay.destroy();
    },
  };
}

/** What the relay gets until the connection ends. */
async function received(relay: Socket): Promise<Buffer> {
  const parts: Buffer[] = [];
  relay.on("data", (part: Buffer) => parts.push(part));
  relay.on("error", () => undefined);
  relay.on("end", () => relay.end());
  if (!relay.closed) await once(relay, "close");
  return Buffer.concat(parts);
}

test("RelayLinkStream: cells pass as they are, both ways, what came early first; all are counted", async () => {
  const early = cell(CELL.padding);
  using it = await link({ early });
  it.relay.write(cell(CELL.created2));
  const got: Buffer[] = [];
  for await (const part of it.stream.iterator({ destroyOnReturn: false })) {
    got.push(part as Buffer);
    if (Buffer.concat(got).length === 2 * CELL_BYTES) break;
  }
  assert.deepEqual(Buffer.concat(got), Buffer.concat([early, cell(CELL.created2)]));
  const seen = once(it.relay, "data");
  it.stream.write(cell(CELL.create2));
  assert.deepEqual(((await seen) as [Buffer])[0], Buffer.from(cell(CELL.create2)));
  assert.deepEqual(it.traffic, { receivedBytes: 2 * CELL_BYTES, sentBytes: CELL_BYTES });
});

test("RelayLinkStream: a cell that clients do not send ends the link, and no byte of its chunk leaves", async () => {
  using it = await link();
  const all = received(it.relay);
  it.stream.write(cell(CELL.create2));
  it.stream.write(Buffer.concat([cell(CELL.relay), cell(CELL.versions), cell(CELL.relay)]));
  const error = await it.error;
  assert.ok(error instanceof BentoError && error.code === "relays-refused", String(error));
  const bytes = await all;
  // What was written before may be lost with the connection, what was refused never arrives.
  assert.ok(bytes.length <= CELL_BYTES, String(bytes.length));
});

test("RelayLinkStream: circuits up to their number", async () => {
  for (const [count, code] of [
    [2, undefined],
    [3, "relays-limit"],
  ] as const) {
    using it = await link({ circuits: 2 });
    for (let left = count; left > 0; left--) it.stream.write(cell(CELL.create2));
    const arrived = (async () => {
      let bytes = 0;
      for await (const part of it.relay) {
        bytes += (part as Buffer).length;
        if (bytes >= 2 * CELL_BYTES) return undefined;
      }
      return "closed";
    })().catch(() => "closed");
    if (code) assert.equal(((await it.error) as BentoError).code, code);
    else assert.equal(await arrived, undefined);
  }
});

test("RelayLinkStream: bytes of both ways together up to the grant and not one more", async () => {
  using enough = await link({ bytes: 3 * CELL_BYTES });
  enough.stream.write(cell(CELL.create2));
  enough.relay.write(Buffer.concat([cell(CELL.created2), cell(CELL.relay)]));
  let got = 0;
  for await (const part of enough.stream.iterator({ destroyOnReturn: false })) {
    got += (part as Buffer).length;
    if (got === 2 * CELL_BYTES) break;
  }
  // Used up: one more byte, of either side, is too many.
  enough.stream.write(Uint8Array.of(0));
  assert.equal(((await enough.error) as BentoError).code, "relays-limit");

  using short = await link({ bytes: 3 * CELL_BYTES - 1 });
  short.stream.write(cell(CELL.create2));
  short.relay.write(Buffer.concat([cell(CELL.created2), cell(CELL.relay)]));
  short.stream.resume();
  assert.equal(((await short.error) as BentoError).code, "relays-limit");
});

test("RelayLinkStream: when the relay closes, what it sent is read first; destroying closes towards the relay", async () => {
  using it = await link();
  it.relay.end(cell(CELL.relay));
  const got: Buffer[] = [];
  for await (const part of it.stream) got.push(part as Buffer);
  assert.equal(Buffer.concat(got).length, CELL_BYTES);

  using other = await link();
  const all = received(other.relay);
  other.stream.destroy();
  assert.equal((await all).length, 0);
});

test("RelayLinkStream: a function that does not read holds the relay back; a relay that does not read, the function", async () => {
  using it = await link();
  const chunk = Buffer.concat(Array.from({ length: 100 }, () => cell(CELL.relay)));
  const limit = 64 * 2 ** 20;
  let sent = 0;
  while (sent < limit && it.relay.write(chunk)) sent += chunk.length;
  // Kernel buffers take some MiB; then nothing moves although nothing was lost.
  assert.ok(sent < limit, String(sent));
  assert.ok(it.stream.readableLength < 2 ** 20, String(it.stream.readableLength));
  let written = 0;
  while (written < limit && it.stream.write(chunk)) written += chunk.length;
  assert.ok(written < limit, String(written));
});

test("RelayLinkStream: ending sends what was written; a relay that takes none of it is left after five seconds", async () => {
  using it = await link();
  const all = received(it.relay);
  it.stream.resume();
  it.stream.end(cell(CELL.destroy));
  assert.deepEqual(await all, Buffer.from(cell(CELL.destroy)));

  using stuck = await link();
  stuck.stream.resume();
  // More than the kernel keeps for a peer that does not read.
  stuck.stream.write(Buffer.concat(Array.from({ length: 40_000 }, () => cell(CELL.relay))));
  stuck.stream.end();
  await stuck.clock.advance(4_999);
  assert.ok(!stuck.stream.destroyed);
  await stuck.clock.advance(1);
  assert.ok(stuck.stream.destroyed);
});
