import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../base/clock.ts";
import type { LoadBalancerReport, OwnerAnswer } from "../../wire/loadbalancer.ts";
import type { OutputChunk } from "../client.ts";
import { ANSWER_BYTES_MAX, type Answer, answersOf, parseAnswer } from "./answers.ts";
import { eventText } from "./event-text.ts";
import { CLIENTS_MAX, EVENTS_MAX, History, SAMPLES_MAX, WINDOW_MS } from "./history.ts";

const ADDRESS = `${"a".repeat(56)}.onion`;
const RELAY = "A".repeat(40);

/** As the function's own types have it: this compiles only while both sides mean the same. */
const REPORT: LoadBalancerReport = {
  id: 7,
  nowMs: 1,
  address: ADDRESS,
  role: "primary",
  introductionPoints: [{ relay: RELAY, introductions: 1 }],
  introductions: { total: 1, perSecond: 0.1, waiting: 0, dropped: 0, refused: 0 },
  scale: { replicasMin: 1, replicasMax: 4, high: { connections: 2 }, low: {}, choice: "random" },
  replicas: [
    {
      id: 1,
      box: "self",
      state: "serving",
      connections: 1,
      bytesPerSecond: 10,
      bytesTotal: 100,
      cpuPercent: 1,
      given: 1,
      met: 1,
      failed: 0,
      startedAtMs: 1,
      clients: [{ id: 1, bytesPerSecond: 10, bytesTotal: 100, ageMs: 5 }],
    },
  ],
  standby: { box: "b:1", isReady: true },
};
const atMs = 5;
const ALL: OwnerAnswer[] = [
  { started: { address: ADDRESS } },
  { standby: { box: "b:1", instance: "i", invocationToken: "t", shutdownToken: "s" } },
  { report: REPORT },
  { event: { kind: "replica-started", id: 1, box: "b", afterMs: 1500, atMs } },
  { event: { kind: "replica-refused", box: "b", code: "box-full", message: "m", atMs } },
  { event: { kind: "replica-lost", id: 1, box: "b", reason: "r", atMs } },
  { event: { kind: "replica-retired", id: 1, box: "b", atMs } },
  { event: { kind: "point-lost", relay: RELAY, atMs } },
  { event: { kind: "point-claimed", relay: RELAY, atMs } },
  { event: { kind: "standby-ready", box: "b", atMs } },
  { event: { kind: "standby-lost", box: "b", reason: "r", atMs } },
  { event: { kind: "took-over", afterMs: 20, atMs } },
  { event: { kind: "fenced-off", atMs } },
  { event: { kind: "renewed", atMs } },
  { event: { kind: "renew-failed", code: "box-full", message: "m", atMs } },
  { at: { instance: null } },
  { at: { instance: "i" } },
  { stopped: { replicasEnded: 2, left: ["b"] } },
];
const bytes = (answer: unknown) => Buffer.from(JSON.stringify(answer));

test("parseAnswer: whatever the function may say is read as it was said, and has words", () => {
  for (const answer of ALL) {
    const parsed = parseAnswer(bytes(answer));
    assert.deepEqual(parsed, answer);
    if ("event" in parsed) assert.ok(eventText(parsed.event).length > 10);
  }
});

test("parseAnswer: garbage is refused, and nothing else happens", () => {
  let seed = 1;
  const random = () => (seed = (seed * 1103515245 + 12345) % 2 ** 31) / 2 ** 31;
  const good = ALL.map((answer) => bytes(answer));
  for (let run = 0; run < 20_000; run++) {
    const one = Buffer.from(good[Math.floor(random() * good.length)] ?? []);
    for (let hit = 0; hit <= random() * 3; hit++)
      one[Math.floor(random() * one.length)] = Math.floor(random() * 256);
    try {
      parseAnswer(one);
    } catch (error) {
      assert.equal((error as { code?: string }).code, "bad-answer", `run ${run}`);
    }
  }
});

async function* cut(text: Uint8Array, size: number, from = 0): AsyncGenerator<OutputChunk> {
  for (let at = from; at < text.length; at += size)
    yield { offset: at, bytes: text.subarray(at, at + size), last: at + size >= text.length };
}

async function read(chunks: AsyncIterable<OutputChunk>, options = {}): Promise<Answer[]> {
  const answers: Answer[] = [];
  for await (const answer of answersOf(chunks, options)) answers.push(answer);
  return answers;
}

test("answersOf: fragments make one answer; the rest of one that was read before is passed over", async () => {
  const one = bytes(ALL[2]);
  assert.deepEqual(await read(cut(one, 7)), [ALL[2]]);
  async function* resumed(): AsyncGenerator<OutputChunk> {
    yield* cut(one, 1000, 50);
    yield* cut(bytes(ALL[0]), 1000);
  }
  assert.deepEqual(await read(resumed()), [ALL[0]]);
  // At the very beginning there is nothing that could have been read before.
  await assert.rejects(read(cut(bytes({ hello: 1 }), 1000)), { code: "bad-answer" });
  async function* later(): AsyncGenerator<OutputChunk> {
    yield* cut(one, 1000);
    yield { offset: 5000, bytes: bytes({ hello: 1 }), last: true };
  }
  await assert.rejects(read(later()), { code: "bad-answer" });
});

test("answersOf: of a standby, what is meant for its load balancer is passed over; broken answers are not", async () => {
  async function* standby(): AsyncGenerator<OutputChunk> {
    for (const message of [{ ready: 1 }, { beat: 2 }, { beat: 3 }, ALL[2]])
      yield { offset: 0, bytes: bytes(message), last: true };
  }
  assert.deepEqual(await read(standby(), { isStandby: true }), [ALL[2]]);
  await assert.rejects(read(standby()), { code: "bad-answer" });
  async function* after(): AsyncGenerator<OutputChunk> {
    yield* standby();
    yield { offset: 9000, bytes: bytes({ tookOver: { epoch: 4 } }), last: true };
    yield { offset: 9100, bytes: bytes({ report: {} }), last: true };
  }
  await assert.rejects(read(after(), { isStandby: true }), { code: "bad-answer" });
});

test("answersOf: an answer of the largest size is taken, one byte more is not, and never held", async () => {
  const answer = (size: number) => {
    const message = bytes({ ...ALL[0], x: "" }).length;
    return Buffer.from(JSON.stringify({ ...ALL[0] }).replace(/\}$/, " ".repeat(size - message + 7) + "}"));
  };
  const fits = answer(ANSWER_BYTES_MAX);
  assert.equal(fits.length, ANSWER_BYTES_MAX);
  assert.equal((await read(cut(fits, 65_536))).length, 1);
  await assert.rejects(read(cut(answer(ANSWER_BYTES_MAX + 1), 65_536)), { code: "bad-answer" });
  let sent = 0;
  async function* endless(): AsyncGenerator<OutputChunk> {
    for (;;) yield { offset: (sent += 65_536), bytes: new Uint8Array(65_536), last: false };
  }
  await assert.rejects(read(endless()), { code: "bad-answer" });
  assert.ok(sent <= ANSWER_BYTES_MAX + 2 * 65_536);
});

test("History: bounded in time, samples, clients and events, however much is reported", async () => {
  const clock = new TestClock();
  const history = new History(clock);
  const report = parseAnswer(bytes({ report: REPORT }));
  assert.ok("report" in report);
  const [replica] = report.report.replicas;
  assert.ok(replica);
  const many = (from: number) => ({
    ...report.report,
    replicas: Array.from({ length: 4 }, (_, id) => ({
      ...replica,
      id,
      clients: Array.from({ length: 64 }, (_unused, at) => ({
        id: from + at,
        bytesPerSecond: at,
        bytesTotal: 1,
        ageMs: 64 - at,
      })),
    })),
  });
  for (let step = 0; step < 3000; step++) {
    history.addReport(many(step));
    history.addEvent({ kind: "fenced-off", atMs: step });
    await clock.advance(step % 3 === 0 ? 0 : 77);
  }
  assert.ok(history.total().length <= SAMPLES_MAX);
  assert.ok(history.total().length > SAMPLES_MAX / 2);
  const [first, last] = [history.total()[0], history.total().at(-1)];
  assert.ok(first && last && last.atMs - first.atMs < WINDOW_MS);
  assert.equal(history.clients().length, CLIENTS_MAX);
  assert.equal(history.replicas().length, 4);
  assert.equal(history.events.length, EVENTS_MAX);
  // Time goes on: what is old is left out.
  await clock.advance(WINDOW_MS);
  history.addReport(report.report);
  assert.equal(history.total().length, 1);
});
