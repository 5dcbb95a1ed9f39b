import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../base/clock.ts";
import { ProtocolError } from "../base/errors.ts";
import { CELL_SIZES, CellWriter, type CoverSettings, coverSettings, WINDOW_BYTES } from "./cover.ts";
import { CoverTunnel } from "./cover-tunnel.ts";

const SETTINGS = coverSettings(96_000);

/** Two ends, joined by lines that take every cell at once; the times of all cells from `a` to `b`. */
function joined(settings: CoverSettings = SETTINGS) {
  const clock = new TestClock(0);
  const a = new CoverTunnel(settings);
  const b = new CoverTunnel(settings);
  const times: number[] = [];
  const running = [
    a.run({
      clock,
      send: async (cell) => {
        times.push(clock.now());
        b.take(cell);
      },
    }),
    b.run({ clock, send: async (cell) => a.take(cell) }),
  ];
  return { clock, a, b, times, running };
}

test("CoverTunnel: frames pass both ways, in order, and the end ends both sides", async () => {
  const { clock, a, b, running } = joined();
  a.begin({ token: "t", start: { invocation: { args: [] } } });
  const sent = Array.from({ length: 50 }, (_, at) => new Uint8Array(at * 20 + 1).fill(at));
  for (const frame of sent) {
    await a.send(frame);
    await b.send(frame);
  }
  await clock.advance(2000);
  assert.deepEqual((await b.begun).start.invocation, { args: [] });
  for (const frame of sent) {
    assert.deepEqual(await a.receive(), frame);
    assert.deepEqual(await b.receive(), frame);
  }
  a.end();
  await clock.advance(1000);
  await Promise.all(running);
  assert.equal(await b.receive(), undefined);
});

test("CoverTunnel: cells leave at the same times whether there is content or none", async () => {
  const idle = joined();
  await idle.clock.advance(3000);
  const busy = joined();
  void (async () => {
    for (;;) {
      const frame = await busy.b.receive();
      if (!frame) return;
    }
  })();
  void (async () => {
    for (let at = 0; at < 300; at++) await busy.a.send(new Uint8Array(1000));
  })();
  await busy.clock.advance(3000);
  assert.ok(idle.times.length >= 590, `${idle.times.length} cells`);
  assert.deepEqual(busy.times, idle.times);
});

test("CoverTunnel: what nobody takes waits at its sender, and memory is bounded", async () => {
  const { clock, a, b } = joined(coverSettings(4 * 1024 * 1024));
  let sent = 0;
  const sending = (async () => {
    for (let at = 0; at < 64; at++) {
      await a.send(new Uint8Array(WINDOW_BYTES / 16));
      sent++;
    }
  })();
  await clock.advance(1000);
  assert.equal(sent, 16);
  for (let at = 0; at < 64; at++) {
    await clock.advance(20);
    assert.equal((await b.receive())?.length, WINDOW_BYTES / 16);
  }
  await clock.advance(1000);
  await sending;
});

test("CoverTunnel: a sender that ignores the window is stopped", () => {
  const [cellBytes] = CELL_SIZES;
  const tunnel = new CoverTunnel(SETTINGS);
  const writer = new CellWriter(cellBytes);
  assert.throws(() => {
    for (let at = 0; at < WINDOW_BYTES; at++) {
      writer.push({ kind: "session", frame: new Uint8Array(400) });
      tunnel.take(writer.next());
    }
  }, ProtocolError);
});

test("CoverTunnel: when the connection is gone, everybody who waits learns why", async () => {
  const tunnel = new CoverTunnel(SETTINGS);
  const gone = new Error("gone");
  const receiving = tunnel.receive();
  await tunnel.send(new Uint8Array(WINDOW_BYTES));
  const sending = tunnel.send(new Uint8Array(1));
  tunnel.fail(gone);
  await assert.rejects(receiving, gone);
  await assert.rejects(sending, gone);
  await assert.rejects(tunnel.begun, gone);
});

test("CoverTunnel: a receiver that is slow moves the schedule, and makes no burst after it", async () => {
  const clock = new TestClock(0);
  const tunnel = new CoverTunnel(SETTINGS);
  const times: number[] = [];
  const stalled = Promise.withResolvers<void>();
  void tunnel.run({
    clock,
    send: (cell) => {
      assert.equal(cell.length, SETTINGS.cellBytes);
      times.push(clock.now());
      return times.length < 20 ? Promise.resolve() : stalled.promise;
    },
  });
  await clock.advance(5000);
  const before = times.length;
  stalled.resolve();
  await new Promise((resolve) => setImmediate(resolve));
  await clock.advance(100);
  assert.ok(before < 20 + 110, `${before} cells while the receiver took none`);
  assert.ok(times.length > before, "it goes on");
  const gaps = times.slice(1).map((time, at) => time - (times[at] ?? 0));
  assert.ok(gaps.filter((gap) => gap === 0).length <= 4, "no more than the few cells that timers may owe");
});
