import assert from "node:assert/strict";
import { test } from "node:test";
import { ANSWER_END_BYTES, type AnswerEnd, encodeAnswerEnd } from "../../wire/later.ts";
import { Answer } from "./answer.ts";

const text = (end: AnswerEnd) => JSON.parse(Buffer.from(encodeAnswerEnd(end)).toString()) as AnswerEnd;

test("encodeAnswerEnd: always of one size, whatever there is to say", () => {
  const long = 'é"\\\n'.repeat(20_000);
  const ends: AnswerEnd[] = [
    { kind: "returned" },
    { kind: "failed", name: "Error", message: "boom", traceback: "at f" },
    { kind: "failed", name: long, message: long, traceback: long },
    { kind: "killed", reason: "runtime-limit" },
    { kind: "killed", reason: "crashed", detail: long },
  ];
  for (const end of ends) {
    assert.equal(encodeAnswerEnd(end).length, ANSWER_END_BYTES);
    assert.equal(text(end).kind, end.kind);
  }
  assert.deepEqual(text(ends[1] as AnswerEnd), ends[1]);
});

async function read(pieces: Uint8Array[]): Promise<{ output: string; answer: Answer }> {
  const answer = new Answer();
  const from = async function* () {
    yield* pieces;
  };
  const output = Buffer.concat(await Array.fromAsync(answer.output(from())));
  return { output: output.toString(), answer };
}

test("Answer: output and outcome, however the bytes are cut", async () => {
  const whole = Buffer.concat([Buffer.from("what it said"), encodeAnswerEnd({ kind: "returned" })]);
  for (const step of [1, 7, 4095, 4096, 4097, whole.length]) {
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < whole.length; at += step) pieces.push(whole.subarray(at, at + step));
    const { output, answer } = await read(pieces);
    assert.equal(output, "what it said", `in steps of ${step}`);
    assert.deepEqual(answer.outcome, { kind: "returned" });
  }
  const silent = await read([encodeAnswerEnd({ kind: "killed", reason: "out-of-memory" })]);
  assert.equal(silent.output, "");
  assert.deepEqual(silent.answer.outcome, { kind: "killed", reason: "out-of-memory" });
});

test("Answer: an end that is missing, short or of no known kind is an error", async () => {
  const end = encodeAnswerEnd({ kind: "returned" });
  const unknown = new Uint8Array(ANSWER_END_BYTES).fill(0x20);
  unknown.set(Buffer.from('{"kind":"perhaps"}'));
  for (const bytes of [new Uint8Array(), end.subarray(1), new Uint8Array(ANSWER_END_BYTES), unknown])
    await assert.rejects(read([bytes]), { code: "bad-answer" });
});
