import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { within } from "./within.ts";

const never = new Promise<string>(() => undefined);
const late = () => "late";
const stalled = (): never => {
  throw new Error("stalled");
};

test("within: what comes in time is the result, a failure too, and no timer is left", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let isLate = false;
  const tooLate = () => {
    isLate = true;
  };
  try {
    assert.equal(await within(100, Promise.resolve("in time"), tooLate), "in time");
    await assert.rejects(within(100, Promise.reject(new Error("broken")), tooLate), /broken/);
    mock.timers.tick(100);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(isLate, false);
  } finally {
    mock.timers.reset();
  }
});

test("within: waits for as long as it says, then the other one decides", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    let isOver = false;
    const given = within(100, never, late).finally(() => {
      isOver = true;
    });
    const thrown = assert.rejects(within(100, never, stalled), /stalled/);
    mock.timers.tick(99);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(isOver, false);
    mock.timers.tick(1);
    assert.equal(await given, "late");
    await thrown;
  } finally {
    mock.timers.reset();
  }
});
