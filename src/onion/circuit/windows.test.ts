import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { random } from "../crypto/primitives.ts";
import { Vegas, vegasParameters } from "./vegas.ts";
import { CIRCUIT_WINDOW, ReceiveWindow, SendWindow } from "./windows.ts";

function sendMany(window: SendWindow, count: number): Uint8Array[] {
  return Array.from({ length: count }, () => {
    const digest = random(20);
    window.sent(digest);
    return digest;
  });
}

test("a fixed window lets 1000 cells out and opens by 100 with each proof", () => {
  const window = new SendWindow();
  const digests = sendMany(window, CIRCUIT_WINDOW);
  assert.equal(window.room, 0);
  window.acknowledged(digests[99], false);
  assert.equal(window.room, 100);
  assert.throws(() => {
    window.acknowledged(digests[198], false);
  }, /proves nothing/u);
});

test("a SENDME that is not due, without digest or with another is refused", () => {
  const fresh = () => {
    const window = new SendWindow();
    return { window, digests: sendMany(window, 100) };
  };
  const refused = { code: "onion-window" };
  assert.throws(() => {
    new SendWindow().acknowledged(random(20), false);
  }, refused);
  assert.throws(() => {
    fresh().window.acknowledged(undefined, false);
  }, refused);
  assert.throws(() => {
    fresh().window.acknowledged(random(20), false);
  }, refused);
  const { window, digests } = fresh();
  window.acknowledged(digests[99], false);
  assert.throws(() => {
    window.acknowledged(digests[99], false);
  }, refused);
});

test("a SENDME is due with each 100th cell, or as agreed", () => {
  const due = (window: ReceiveWindow, cells: number) =>
    Array.from({ length: cells }, (_, index) => (window.received() ? index + 1 : 0)).filter((at) => at > 0);
  assert.deepEqual(due(new ReceiveWindow(), 350), [100, 200, 300]);
  assert.deepEqual(due(new ReceiveWindow(31), 100), [31, 62, 93]);
});

/** A path that carries `cellsPerMs` with `delayMs` both ways: what Vegas should fill without queues. */
function simulate(options: { cellsPerMs: number; delayMs: number; acks: number }): Vegas {
  const parameters = vegasParameters(new Map(), "exit");
  const vegas = new Vegas(parameters);
  const product = options.cellsPerMs * options.delayMs;
  for (let left = options.acks; left > 0; left--) {
    const queue = Math.max(0, vegas.window - product);
    vegas.acknowledged({
      roundTripUs: Math.round((options.delayMs + queue / options.cellsPerMs) * 1000),
      inFlight: vegas.window,
      isBlocked: false,
    });
  }
  return vegas;
}

test("Vegas leaves slow start and settles near what the path carries, plus the queue that it allows", () => {
  for (const [cellsPerMs, delayMs] of [
    [10, 100],
    [2, 200],
    [20, 20],
  ] as const) {
    const vegas = simulate({ cellsPerMs, delayMs, acks: 4000 });
    const product = cellsPerMs * delayMs;
    assert.equal(vegas.isSlowStart, false);
    assert.ok(vegas.window >= product * 0.9, `${String(vegas.window)} for ${String(product)}`);
    assert.ok(vegas.window <= product + 6 * 62, `${String(vegas.window)} for ${String(product)}`);
  }
});

test("Vegas does not grow while the window is not used, and shrinks when the link is blocked", () => {
  const parameters = vegasParameters(new Map(), "exit");
  const idle = new Vegas(parameters);
  for (let left = 100; left > 0; left--)
    idle.acknowledged({ roundTripUs: 50_000, inFlight: 0, isBlocked: false });
  // One step is the slack that proposal 324 leaves (cc_cwnd_full_gap).
  assert.ok(idle.window <= parameters.windowInitial + parameters.sendmeIncrement);
  const blocked = simulate({ cellsPerMs: 10, delayMs: 100, acks: 4000 });
  const before = blocked.window;
  for (let left = 300; left > 0; left--)
    blocked.acknowledged({ roundTripUs: 100_000, inFlight: blocked.window, isBlocked: true });
  assert.ok(blocked.window < before);
});

test("a clock that stands still or jumps changes nothing", () => {
  const vegas = simulate({ cellsPerMs: 10, delayMs: 100, acks: 4000 });
  const before = vegas.window;
  for (const roundTripUs of [0, -5, 1e12])
    vegas.acknowledged({ roundTripUs, inFlight: vegas.window, isBlocked: false });
  assert.equal(vegas.window, before);
});

test("whatever the peer's timing and the consensus say, the window keeps to its bounds", () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.integer({ min: -10, max: 1e9 }), fc.nat(20_000), fc.boolean()), {
        maxLength: 300,
      }),
      fc.dictionary(
        fc.constantFrom("cc_cwnd_init", "cc_cwnd_min", "cc_sendme_inc", "cc_cwnd_inc_rate", "cc_ss_max"),
        fc.integer(),
      ),
      (acks, consensus) => {
        const parameters = vegasParameters(new Map(Object.entries(consensus)), "onion");
        const vegas = new Vegas(parameters);
        for (const [roundTripUs, inFlight, isBlocked] of acks) {
          vegas.acknowledged({ roundTripUs, inFlight, isBlocked });
          assert.ok(Number.isSafeInteger(vegas.window));
          assert.ok(vegas.window >= Math.min(parameters.windowMin, parameters.windowInitial));
          assert.ok(vegas.window <= parameters.windowMax);
        }
      },
    ),
  );
});
