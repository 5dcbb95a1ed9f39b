import assert from "node:assert/strict";
import { test } from "node:test";
import { settle, TestRelay } from "../circuit/test-relay.ts";
import { CIRCUITS_PER_LINK_MAX, LINK_OUTPUT_BYTES_MAX } from "../limits.ts";
import { CELL, CELL_BYTES, fixedCell } from "./cell.ts";
import { TestSink } from "./test-sink.ts";

test("cells reach the circuit that they name, padding and unknown commands nobody", () => {
  const { link } = new TestRelay();
  const [a, b] = [new TestSink(), new TestSink()];
  const slotA = link.attach(a);
  const slotB = link.attach(b);
  assert.notEqual(slotA.id, slotB.id);
  assert.ok(slotA.id >= 0x8000_0000);
  for (const command of [CELL.relay, CELL.destroy, CELL.padding, CELL.create2, 77, CELL.netinfo])
    link.receive(fixedCell(slotA.id, command, new Uint8Array(0)));
  link.receive(fixedCell(5, CELL.relay, new Uint8Array(0)));
  assert.deepEqual(
    a.cells.map(({ command }) => command),
    [CELL.relay, CELL.destroy],
  );
  assert.equal(b.cells.length, 0);
  slotA.release();
  link.receive(fixedCell(slotA.id, CELL.relay, new Uint8Array(0)));
  assert.equal(a.cells.length, 2);
});

test("cells of one turn leave in one write", async () => {
  const relay = new TestRelay();
  const slot = relay.link.attach(new TestSink());
  for (let left = 5; left > 0; left--) slot.send(fixedCell(slot.id, CELL.padding, new Uint8Array(0)));
  assert.equal(relay.writes, 0);
  await settle();
  assert.equal(relay.writes, 1);
  assert.equal(relay.cells.length, 5);
});

test("a full socket stops data, a drained one starts it, a stuck one ends the link", async () => {
  const relay = new TestRelay();
  const sink = new TestSink();
  const slot = relay.link.attach(sink);
  const send = async () => {
    slot.send(fixedCell(slot.id, CELL.padding, new Uint8Array(0)));
    await settle();
  };
  relay.takes = false;
  await send();
  assert.equal(slot.isWritable, false);
  relay.takes = true;
  relay.link.drained();
  assert.equal(slot.isWritable, true);
  assert.equal(sink.writable, 1);

  relay.takes = false;
  await send();
  const most = Math.floor(LINK_OUTPUT_BYTES_MAX / CELL_BYTES);
  for (let left = most; left > 0; left--) slot.send(fixedCell(slot.id, CELL.padding, new Uint8Array(0)));
  await settle();
  assert.ok(relay.link.isOpen);
  await send();
  assert.equal((await relay.link.closed).code, "onion-link-stuck");
  assert.equal(sink.closed, 1);
  assert.ok(relay.isClosed);
});

test("a link holds CIRCUITS_PER_LINK_MAX circuits and not one more", () => {
  const { link } = new TestRelay();
  const slots = Array.from({ length: CIRCUITS_PER_LINK_MAX }, () => link.attach(new TestSink()));
  assert.throws(() => link.attach(new TestSink()), { code: "onion-link-full" });
  slots[0]?.release();
  link.attach(new TestSink());
  assert.equal(new Set(slots.map(({ id }) => id)).size, CIRCUITS_PER_LINK_MAX);
});

test("a cell that no link has ends all circuits once", async () => {
  const relay = new TestRelay();
  const sink = new TestSink();
  const slot = relay.link.attach(sink);
  relay.link.receive(Uint8Array.of(0, 0, 0, 0, 200, 0xff, 0xff));
  assert.equal((await relay.link.closed).code, "onion-cell");
  relay.link.receive(fixedCell(slot.id, CELL.relay, new Uint8Array(0)));
  relay.link[Symbol.dispose]();
  assert.equal(sink.closed, 1);
  assert.equal(sink.cells.length, 0);
  assert.throws(() => relay.link.attach(new TestSink()), { code: "onion-cell" });
});
