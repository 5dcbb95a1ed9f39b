import assert from "node:assert/strict";
import { test } from "node:test";
import { Room } from "./room.ts";

const never = new AbortController().signal;

test("Room: admits up to the last byte, then in the order of asking", async () => {
  const room = new Room(10);
  const first = await room.take(6, never);
  const second = await room.take(4, never);
  assert.equal(room.taken, 10);
  const entered: string[] = [];
  const enter = async (name: string, bytes: number) => {
    const leave = await room.take(bytes, never);
    entered.push(name);
    return leave;
  };
  const large = enter("large", 7);
  const small = enter("small", 1);
  second();
  second();
  assert.equal(room.taken, 6, "given back once");
  await Promise.resolve();
  assert.deepEqual(entered, [], "the small one does not pass the large one");
  first();
  await Promise.all([large, small]);
  assert.deepEqual(entered, ["large", "small"]);
  assert.equal(room.taken, 8);
});

test("Room: what is larger than all there is waits until it is alone", async () => {
  const room = new Room(10);
  const leave = await room.take(1, never);
  let isIn = false;
  const whole = room.take(100, never).then((out) => {
    isIn = true;
    return out;
  });
  await Promise.resolve();
  assert.equal(isIn, false);
  leave();
  (await whole)();
  assert.equal(room.taken, 0);
});

test("Room: who gives up waiting holds up nobody", async () => {
  const room = new Room(10);
  const leave = await room.take(10, never);
  const stop = new AbortController();
  const gone = room.take(10, stop.signal);
  const next = room.take(5, never);
  stop.abort(new Error("enough"));
  await assert.rejects(gone, /enough/);
  leave();
  (await next)();
  assert.equal(room.taken, 0);
});
