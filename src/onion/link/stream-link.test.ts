import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../base/clock.ts";
import { ProtocolError } from "../../base/errors.ts";
import { settle } from "../circuit/test-relay.ts";
import { hex } from "../fields.ts";
import { CELL, CELL_BYTES, fixedCell } from "./cell.ts";
import { type CellStream, linkOver, openGrantedLink } from "./stream-link.ts";
import { TestSink } from "./test-sink.ts";

const RSA = new Uint8Array(20).fill(0xab);
const ED25519 = new Uint8Array(32).fill(0xcd);

/** A stream of cells whose far end is in the test's hands. */
class FarEnd implements CellStream {
  readonly fingerprint = hex(RSA).toUpperCase();
  readonly ed25519 = hex(ED25519);
  readonly version = 5;
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  readonly written: Uint8Array[] = [];
  closes = 0;
  isEnded = false;
  /** While set, writes wait for it. */
  hold: PromiseWithResolvers<void> | undefined;
  #relay: ReadableStreamDefaultController<Uint8Array> | undefined;

  constructor() {
    this.readable = new ReadableStream({
      start: (controller) => {
        this.#relay = controller;
      },
    });
    this.writable = new WritableStream({
      write: async (bytes) => {
        await this.hold?.promise;
        this.written.push(bytes);
      },
      close: () => {
        this.isEnded = true;
      },
    });
  }

  say(bytes: Uint8Array): void {
    this.#relay?.enqueue(bytes);
  }

  end(): void {
    this.#relay?.close();
  }

  break(error: Error): void {
    this.#relay?.error(error);
  }

  async close(): Promise<void> {
    this.closes++;
  }
}

const wanted = { identity: { rsa: RSA, ed25519: ED25519 } };

test("openGrantedLink: asks for the fingerprint, and takes only the relay that was wanted", async () => {
  const asked: string[] = [];
  const far = new FarEnd();
  const link = await openGrantedLink(
    {
      link: async (fingerprint) => {
        asked.push(fingerprint);
        return far;
      },
    },
    wanted,
  );
  assert.deepEqual(asked, [hex(RSA).toUpperCase()]);
  assert.deepEqual([link.peer.rsa, link.peer.ed25519, link.version], [RSA, ED25519, 5]);

  const other = new FarEnd();
  const opening = openGrantedLink(
    { link: async () => other },
    { identity: { rsa: RSA, ed25519: new Uint8Array(32) } },
  );
  await assert.rejects(
    opening,
    (error) => error instanceof ProtocolError && error.code === "onion-wrong-relay",
  );
  assert.equal(other.closes, 1);
});

test("openGrantedLink: a stream that comes after the wait was given up is closed", async () => {
  const far = new FarEnd();
  const gate = Promise.withResolvers<CellStream>();
  const gaveUp = new AbortController();
  const opening = openGrantedLink({ link: async () => gate.promise }, wanted, gaveUp.signal);
  gaveUp.abort(new Error("enough"));
  gate.resolve(far);
  await assert.rejects(opening, /enough/u);
  assert.equal(far.closes, 1);
});

test("linkOver: cells reach their circuits however they are cut; those of one turn leave in one piece", async () => {
  const far = new FarEnd();
  const link = linkOver(far, { clock: new TestClock() });
  await settle();
  // Link padding is declined first (padding-spec 2.2).
  assert.equal(far.written.length, 1);
  const sink = new TestSink();
  const slot = link.attach(sink);
  const cells = Buffer.concat(
    [0, 1, 2].map(() => fixedCell(slot.id, CELL.relay, new Uint8Array(509).fill(9))),
  );
  for (let at = 0; at < cells.length; at += 100) far.say(cells.subarray(at, at + 100));
  await settle();
  assert.equal(sink.cells.length, 3);
  assert.ok(sink.cells.every(({ body }) => body.every((byte) => byte === 9)));
  for (let left = 4; left > 0; left--) slot.send(fixedCell(slot.id, CELL.relay, new Uint8Array(0)));
  await settle();
  assert.equal(far.written.length, 2);
  assert.equal(far.written[1]?.length, 4 * CELL_BYTES);
});

test("linkOver: a stream that takes nothing holds data back until it does", async () => {
  const far = new FarEnd();
  far.hold = Promise.withResolvers();
  const link = linkOver(far, { clock: new TestClock() });
  const sink = new TestSink();
  const slot = link.attach(sink);
  let sent = 0;
  while (slot.isWritable && sent < 10_000) {
    slot.send(fixedCell(slot.id, CELL.relay, new Uint8Array(0)));
    sent++;
    if (sent % 31 === 0) await settle();
  }
  assert.ok(sent < 600, String(sent));
  assert.equal(sink.writable, 0);
  far.hold.resolve();
  await settle();
  assert.ok(slot.isWritable);
  assert.equal(sink.writable, 1);
  assert.ok(link.isOpen);
});

test("linkOver: the end of the stream ends the link, also when it broke", async () => {
  for (const end of [(far: FarEnd) => far.end(), (far: FarEnd) => far.break(new Error("relays-limit"))]) {
    const far = new FarEnd();
    const link = linkOver(far, { clock: new TestClock() });
    const sink = new TestSink();
    link.attach(sink);
    end(far);
    assert.equal((await link.closed).code, "onion-link-closed");
    await settle();
    assert.equal(sink.closed, 1);
    assert.equal(far.closes, 1);
  }
});

test("linkOver: closing sends what waits and ends the stream; a relay that takes nothing is left after five seconds", async () => {
  const far = new FarEnd();
  const link = linkOver(far, { clock: new TestClock() });
  const slot = link.attach(new TestSink());
  slot.send(fixedCell(slot.id, CELL.destroy, new Uint8Array(0)));
  link[Symbol.dispose]();
  await settle();
  assert.equal(Buffer.concat(far.written).at(-CELL_BYTES + 4), CELL.destroy);
  assert.ok(far.isEnded);
  far.end();
  await settle();
  assert.equal(far.closes, 1);

  const clock = new TestClock();
  const stuck = new FarEnd();
  stuck.hold = Promise.withResolvers();
  linkOver(stuck, { clock })[Symbol.dispose]();
  await settle();
  assert.equal(stuck.closes, 0);
  await clock.advance(5_000);
  assert.equal(stuck.closes, 1);
});
