import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import * as fc from "fast-check";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { BoxError, ERROR_CODES } from "../../wire/error-code.ts";
import { nearest } from "../nearest.ts";
import { EXIT, exitCodeOf } from "./exit-code.ts";
import { Io, printable, table } from "./io.ts";
import { formatSeconds, Progress } from "./progress.ts";

function newIo(options: { tty?: boolean; json?: boolean; env?: NodeJS.ProcessEnv } = {}) {
  const stream = () => Object.assign(new PassThrough(), { isTTY: options.tty ?? false, columns: 60 });
  const [stdout, stderr] = [stream(), stream()];
  const io = new Io({
    stdin: new PassThrough(),
    stdout,
    stderr,
    json: options.json ?? false,
    env: options.env ?? {},
  });
  const read = (from: PassThrough) => (from.read() as Buffer | null)?.toString() ?? "";
  return { io, out: () => read(stdout), err: () => read(stderr) };
}

test("printable: no control characters but line feed and tab survive", () => {
  assert.equal(
    printable("a\u001b[31mb\u0007\r\n\tc\u202ed"),
    "ab\\x0d\n\tc\\x202ed".replace("ab", "ab\\x07"),
  );
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (text) => {
      assert.doesNotMatch(printable(text), /[^\P{Cc}\t\n]|[\u202a-\u202e\u2066-\u2069]/u);
    }),
  );
});

test("Io.report: message, each refused rule and advice; the code as exit code; nothing on stdout", () => {
  const { io, out, err } = newIo();
  const refusals = [{ rule: "memory", wanted: "1 GiB", limit: "at most\u001b[2J 64 MiB" }];
  assert.equal(
    io.report(new BoxError("policy-refused", "Cannot store function: no", { refusals })),
    EXIT.denied,
  );
  assert.match(
    err(),
    /^bento: Cannot store function: no\n {2}memory: wanted 1 GiB, granted at most 64 MiB\n {2}Ask for less/,
  );
  assert.equal(out(), "");
});

test("Io.report: what is not ours is an internal error without a stack", () => {
  const { io, err } = newIo();
  assert.equal(io.report(new TypeError("x is not a function")), EXIT.internal);
  assert.doesNotMatch(err(), /\n\s+at /);
});

test("Io.report: as JSON too when asked for", () => {
  const { io, out } = newIo({ json: true });
  io.report(new BentoError("usage", "Cannot", { advice: "Do" }));
  assert.deepEqual(JSON.parse(out()), { event: "error", code: "usage", message: "Cannot", advice: "Do" });
});

test("Io: colour only where a person watches and has not refused it", () => {
  assert.equal(newIo({ tty: true }).io.red("x"), "\u001b[31mx\u001b[39m");
  assert.equal(newIo({ tty: true, env: { NO_COLOR: "1" } }).io.red("x"), "x");
  assert.equal(newIo().io.red("x"), "x");
});

test("exitCodeOf: every code of a box has one beside 'function failed'", () => {
  for (const code of Object.keys(ERROR_CODES)) assert.notEqual(exitCodeOf(code), EXIT.functionFailed, code);
  assert.equal(exitCodeOf("tor-socks-unreachable"), EXIT.torNotReady);
  assert.equal(exitCodeOf("tor-onion-descriptor-not-found"), EXIT.unreachable);
});

test("Progress.line: amount, share, rate and time left", async () => {
  const clock = new TestClock();
  using progress = new Progress(newIo().io, "Receiving", { total: 4 * 2 ** 20, clock });
  assert.equal(progress.line(), "Receiving");
  progress.update(2 ** 20);
  await clock.advance(1000);
  assert.equal(progress.line(), "Receiving 1 MiB of 4 MiB (25 %), 1 MiB/s, 3 s left");
});

test("Progress: redraws one line for a person, writes plain lines elsewhere, nothing as JSON", async () => {
  for (const [options, wanted] of [
    [{ tty: true }, /^\rWaiting\P{L}*K\r/u],
    [{}, /^Waiting, 10 s\n$/],
    [{ json: true }, /^$/],
  ] as const) {
    const clock = new TestClock();
    const { io, err } = newIo(options);
    const progress = new Progress(io, "Waiting", { clock });
    await clock.advance(10_000);
    progress[Symbol.dispose]();
    assert.match(err(), wanted);
  }
});

test("Io.note: makes room for itself where a progress line is drawn, and only there", async () => {
  const clock = new TestClock();
  const { io, err } = newIo({ tty: true });
  using _progress = new Progress(io, "Waiting", { clock });
  io.note("before");
  await clock.advance(300);
  const drawn = err();
  io.note("one");
  io.note("two");
  assert.equal(drawn.split("\n")[0], "before");
  assert.equal(err(), "\r\u001b[Kone\ntwo\n");
});

test("formatSeconds: seconds, minutes, hours", () => {
  assert.deepEqual([0.4, 59, 75, 7260].map(formatSeconds), ["0 s", "59 s", "1 min 15 s", "2 h 1 min"]);
});

test("table: columns as wide as their widest cell, no trailing spaces", () => {
  assert.equal(
    table([
      ["a", "bb"],
      ["ccc", ""],
    ]),
    "a    bb\nccc",
  );
});

test("nearest: close words only", () => {
  assert.equal(nearest("rnu", ["run", "store"]), undefined);
  assert.equal(nearest("helo", ["hello", "echo"]), "hello");
  assert.equal(nearest("shel", ["shell", "shutdown"]), "shell");
});
