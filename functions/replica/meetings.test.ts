import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../src/base/clock.ts";
import type { RendezvousMaterial } from "../../src/onion/service/handover.ts";
import { MEET_MS, MEETINGS_AT_ONCE, MEETINGS_WAITING_MAX, Meetings, NUMBERS_MAX } from "./meetings.ts";

const material = {} as RendezvousMaterial;

/** Rendezvous points that never answer, until a test says that they refuse. */
function meetingsWith() {
  const clock = new TestClock();
  const asked: PromiseWithResolvers<never>[] = [];
  const done: { readonly number: number; readonly failure: string | undefined }[] = [];
  const meetings = new Meetings({
    clock,
    circuitTo: async (_end, signal) => {
      const answer = Promise.withResolvers<never>();
      asked.push(answer);
      signal.addEventListener("abort", () => answer.reject(signal.reason), { once: true });
      return answer.promise;
    },
    parameters: () => new Map(),
    add: () => undefined,
    onDone: ({ number }, failure) => done.push({ number, failure }),
  });
  const take = (number: number, epoch = 1) => meetings.take({ epoch, number, material });
  return { clock, asked, done, meetings, take };
}

const settled = async () => new Promise((resolve) => setImmediate(resolve));

test("so many at once, so many waiting, the rest told at once that they will not be met", async () => {
  const { asked, done, meetings, take } = meetingsWith();
  for (let number = 0; number < MEETINGS_WAITING_MAX; number++) take(number);
  assert.equal(asked.length, 0, "not before there is a network");
  meetings.open();
  assert.equal(asked.length, MEETINGS_AT_ONCE);
  for (let more = 0; more < MEETINGS_AT_ONCE; more++) take(MEETINGS_WAITING_MAX + more);
  assert.equal(done.length, 0);
  take(99_999);
  assert.deepEqual(
    done.map(({ number }) => number),
    [99_999],
  );
  asked[0]?.reject(new Error("refused"));
  await settled();
  assert.deepEqual(done.at(-1), { number: 0, failure: "refused" });
  assert.equal(asked.length, MEETINGS_AT_ONCE + 1);
  meetings.close();
});

test("what comes twice is met once; the same number of another load balancer is another one", () => {
  const { asked, meetings, take } = meetingsWith();
  meetings.open();
  take(1);
  take(1);
  assert.equal(asked.length, 1);
  take(1, 2);
  assert.equal(asked.length, 2);
  meetings.close();
});

test("numbers are remembered, but not for ever", async () => {
  const { asked, meetings, take } = meetingsWith();
  meetings.open();
  for (let number = 0; number <= NUMBERS_MAX; number++) {
    take(number);
    asked.at(-1)?.reject(new Error("no"));
    if (number % 32 === 0) await settled();
  }
  await settled();
  const before = asked.length;
  take(NUMBERS_MAX);
  assert.equal(asked.length, before);
  take(0);
  assert.equal(asked.length, before + 1);
  meetings.close();
});

test("a rendezvous point that never answers holds its place for so long and no longer", async () => {
  const { clock, done, meetings, take } = meetingsWith();
  meetings.open();
  take(7);
  await clock.advance(MEET_MS - 1);
  assert.equal(done.length, 0);
  await clock.advance(1);
  await settled();
  assert.deepEqual(done, [{ number: 7, failure: "the rendezvous point does not answer" }]);
  assert.deepEqual([meetings.met, meetings.failed], [0, 1]);
});
