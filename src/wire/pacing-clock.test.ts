import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { pacingClock } from "./pacing-clock.ts";

test("pacingClock: sleeps leave nothing on their signal; an aborted one rejects with the reason", async () => {
  const stop = new AbortController();
  for (let times = 0; times < 20; times++) await pacingClock.sleep(0, stop.signal);
  assert.equal(getEventListeners(stop.signal, "abort").length, 0);
  const reason = new Error("enough");
  const sleeping = pacingClock.sleep(60_000, stop.signal);
  stop.abort(reason);
  await assert.rejects(sleeping, reason);
  await assert.rejects(pacingClock.sleep(0, stop.signal), reason);
  assert.equal(getEventListeners(stop.signal, "abort").length, 0);
});
