import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../src/base/clock.ts";
import type { Circuit } from "../../src/onion/circuit/circuit.ts";
import type { RendezvousMaterial } from "../../src/onion/service/handover.ts";
import {
  MEET_MS,
  MEETINGS_AT_ONCE,
  MEETINGS_WAITING_MAX,
  Meetings,
  NUMBERS_MAX,
  PATH_MS,
  RETRY_MS,
} from "./meetings.ts";

const material = { cookie: new Uint8Array(20), handshake: new Uint8Array(64), keySeed: new Uint8Array(32) };
/** The first one and C tor's two more. */
const PATHS = 3;

/** An open circuit: of what is said to it only the kinds of messages are kept. */
function openCircuit(): Circuit & { readonly sent: number[] } {
  const sent: number[] = [];
  const circuit = {
    hopCount: 4,
    sent,
    sendTo: (_hop: number, command: number) => sent.push(command),
    addOnionHop: () => undefined,
    onStream: () => undefined,
    destroy: () => undefined,
  };
  return circuit as unknown as Circuit & { readonly sent: number[] };
}

/** Paths that are never built, until a test says what becomes of them. */
function meetingsWith(parameters: ReadonlyMap<string, number> = new Map()) {
  const clock = new TestClock();
  const asked: PromiseWithResolvers<Circuit>[] = [];
  const done: { readonly number: number; readonly failure: string | undefined }[] = [];
  const fate = { refuses: false };
  const meetings = new Meetings({
    clock,
    circuitTo: async (_end, signal) => {
      const answer = Promise.withResolvers<Circuit>();
      asked.push(answer);
      if (fate.refuses) answer.reject(new Error("refused"));
      signal.addEventListener("abort", () => answer.reject(signal.reason), { once: true });
      return answer.promise;
    },
    parameters: () => parameters,
    add: () => () => undefined,
    onDone: ({ number }, failure) => done.push({ number, failure }),
  });
  const take = (number: number, epoch = 1) =>
    meetings.take({ epoch, number, material: material as unknown as RendezvousMaterial });
  return { clock, asked, done, fate, meetings, take };
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
  asked[0]?.resolve(openCircuit());
  await settled();
  assert.deepEqual(done.at(-1), { number: 0, failure: undefined });
  assert.equal(asked.length, MEETINGS_AT_ONCE + 1);
  meetings.close();
});

test("a path that fails is no lost client: there are others, and the answer goes out once", async () => {
  const { clock, asked, done, meetings, take } = meetingsWith();
  meetings.open();
  take(7);
  for (let path = 0; path < PATHS - 1; path++) {
    asked[path]?.reject(new Error("a relay has left"));
    await settled();
    assert.equal(asked.length, path + 1, "not at once: it may be the first relay, which comes back");
    await clock.advance(RETRY_MS);
  }
  assert.equal(asked.length, PATHS);
  const circuit = openCircuit();
  asked.at(-1)?.resolve(circuit);
  await settled();
  assert.deepEqual(done, [{ number: 7, failure: undefined }]);
  assert.deepEqual([meetings.met, meetings.failed, circuit.sent.length], [1, 0, 1]);
});

test("a path that is never built gives way to another", async () => {
  const { clock, asked, done, meetings, take } = meetingsWith();
  meetings.open();
  take(7);
  await clock.advance(PATH_MS - 1);
  assert.equal(asked.length, 1);
  await clock.advance(1 + RETRY_MS);
  assert.equal(asked.length, 2);
  asked.at(-1)?.resolve(openCircuit());
  await settled();
  assert.deepEqual(done, [{ number: 7, failure: undefined }]);
});

test("paths are as many as the consensus says, and no more than C tor allows it to say", async () => {
  const wanted = [
    [undefined, PATHS],
    [0, 2],
    [1, 2],
    [10, 11],
    [11, 11],
  ] as const;
  for (const [asks, paths] of wanted) {
    const { clock, asked, done, fate, meetings, take } = meetingsWith(
      new Map(asks === undefined ? [] : [["hs_service_max_rdv_failures", asks]]),
    );
    fate.refuses = true;
    meetings.open();
    take(7);
    await settled();
    await clock.advance(20 * RETRY_MS);
    assert.equal(asked.length, paths, String(asks));
    assert.deepEqual(done, [{ number: 7, failure: "refused" }]);
  }
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
    asked.at(-1)?.resolve(openCircuit());
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
