import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../base/clock.ts";
import { Limits } from "../../wire/limits.ts";
import { FunctionLog } from "./function-log.ts";

const info = (text: string) => ({ level: "info", text }) as const;

test("FunctionLog.read: lines of all instances in order, each once, from any position", () => {
  const log = new FunctionLog(new TestClock());
  const [one, two] = [log.open(), log.open()];
  one.append(info("a"));
  two.append(info("b"));
  one.append(info("c"));
  const all = log.read(0);
  assert.deepEqual(
    all.lines.map(({ instance, text }) => `${instance}${text}`),
    ["1a", "2b", "1c"],
  );
  assert.deepEqual([all.more, all.missed], [false, false]);
  const second = log.read(all.lines[0]?.position ?? 0);
  assert.deepEqual(
    second.lines.map(({ text }) => text),
    ["b", "c"],
  );
  assert.deepEqual(log.read(all.next).lines, []);
  assert.equal(log.read(all.next).next, all.next, "the position stays where nothing is new");
});

test("FunctionLog: keeps logBytesMax of an instance; one byte more and the oldest line goes, which is said", () => {
  const log = new FunctionLog(new TestClock());
  const [full, quiet] = [log.open(), log.open()];
  const lineBytes = 1024;
  const count = Limits.logBytesMax / lineBytes;
  quiet.append(info("quiet"));
  for (let line = 0; line < count; line++) full.append(info("x".repeat(lineBytes - 64)));
  assert.equal(log.read(0).lines.length, count + 1);
  assert.equal(log.read(0).missed, false);
  full.append(info(""));
  const page = log.read(0);
  assert.equal(page.lines.length, count + 1, "one line made room for the new one");
  assert.equal(page.missed, true);
  assert.equal(page.lines[0]?.text, "quiet", "an instance's flood costs another one nothing");
  assert.equal(log.read(page.next).missed, false, "who has read on missed nothing");
});

test("FunctionLog.read: an answer holds logAnswerBytesMax, whatever the text becomes as JSON", () => {
  const log = new FunctionLog(new TestClock());
  for (let instance = 0; instance < 20; instance++) {
    const one = log.open();
    // Six bytes of JSON for each of text.
    for (let line = 0; line < 15; line++) one.append(info("\u0001".repeat(4000)));
  }
  let after = 0;
  let lines = 0;
  for (let page = log.read(after); page.lines.length > 0; page = log.read(after)) {
    assert.ok(JSON.stringify(page).length <= Limits.logAnswerBytesMax + 1024);
    assert.equal(page.more, lines + page.lines.length < 300);
    lines += page.lines.length;
    after = page.next;
  }
  assert.equal(lines, 300);
});

test("FunctionLog: a line is cut at logTextBytesMax", () => {
  const log = new FunctionLog(new TestClock());
  log.open().append(info("x".repeat(Limits.logTextBytesMax + 1)));
  assert.equal(log.read(0).lines[0]?.text.length, Limits.logTextBytesMax);
});

test("FunctionLog.changed: ends with a line, with an instance that goes, with its signal; leaves nobody waiting", async () => {
  const log = new FunctionLog(new TestClock());
  const instance = log.open();
  const never = new AbortController();
  const line = log.changed(0, never.signal);
  instance.append(info("a"));
  await line;
  await log.changed(0, never.signal);
  const gone = log.changed(log.read(0).next, never.signal);
  assert.equal(log.isUnused, false);
  instance[Symbol.dispose]();
  await gone;
  const stop = new AbortController();
  const aborted = log.changed(0, stop.signal);
  assert.equal(log.isUnused, false);
  stop.abort();
  await aborted;
  assert.equal(log.isUnused, true);
});

test("FunctionLog: positions of a log that began anew lie after those of the one before; one of the future begins anew", async () => {
  const clock = new TestClock();
  const before = new FunctionLog(clock);
  before.open().append(info("a"));
  const { next } = before.read(0);
  await clock.advance(1);
  const anew = new FunctionLog(clock);
  anew.open().append(info("b"));
  assert.equal(anew.read(next).lines[0]?.text, "b");
  assert.equal(anew.read(Number.MAX_SAFE_INTEGER).lines[0]?.text, "b");
});
