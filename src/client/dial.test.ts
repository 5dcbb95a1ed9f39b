import assert from "node:assert/strict";
import { Duplex, PassThrough } from "node:stream";
import { test } from "node:test";
import { TestClock } from "../base/clock.ts";
import { type Dial, DialedStream, type DialOptions, hedgedDial } from "./dial.ts";

const TARGET = { host: "box.example", port: 80 };

class Attempt {
  readonly options: DialOptions;
  readonly result = Promise.withResolvers<Duplex>();
  constructor(options: DialOptions) {
    this.options = options;
    options.signal.addEventListener("abort", () => {
      this.result.reject(options.signal.reason);
    });
  }
}

function manualDial(): { dial: Dial; attempts: Attempt[] } {
  const attempts: Attempt[] = [];
  const dial: Dial = (_target, options) => {
    const attempt = new Attempt(options);
    attempts.push(attempt);
    return attempt.result.promise;
  };
  return { dial, attempts };
}

function options(): DialOptions {
  return { isolation: "one", signal: new AbortController().signal };
}

test("hedgedDial: a fast first attempt stays alone", async () => {
  const { dial, attempts } = manualDial();
  const clock = new TestClock();
  const stream = hedgedDial(dial, clock)(TARGET, options());
  const socket = new PassThrough();
  attempts[0]?.result.resolve(socket);
  assert.equal(await stream, socket);
  await clock.advance(60_000);
  assert.equal(attempts.length, 1);
  assert.equal(attempts[0]?.options.signal.aborted, false);
});

test("hedgedDial: a slow first attempt gets a rival on another isolation; the loser is given up", async () => {
  const { dial, attempts } = manualDial();
  const clock = new TestClock();
  const stream = hedgedDial(dial, clock)(TARGET, options());
  await clock.advance(20_000);
  assert.deepEqual(
    attempts.map((attempt) => attempt.options.isolation),
    ["one", "one-hedge"],
  );
  const socket = new PassThrough();
  attempts[1]?.result.resolve(socket);
  assert.equal(await stream, socket);
  assert.equal(attempts[0]?.options.signal.aborted, true);
  assert.equal(attempts[1]?.options.signal.aborted, false);
});

test("hedgedDial: a first attempt that fails before the second begins is reported at once", async () => {
  const { dial, attempts } = manualDial();
  const stream = hedgedDial(dial, new TestClock())(TARGET, options());
  attempts[0]?.result.reject(new Error("refused"));
  await assert.rejects(stream, /refused/);
});

test("hedgedDial: fails when both attempts fail", async () => {
  const { dial, attempts } = manualDial();
  const clock = new TestClock();
  const stream = hedgedDial(dial, clock)(TARGET, options());
  const failed = assert.rejects(stream, /refused/);
  await clock.advance(20_000);
  attempts[0]?.result.reject(new Error("refused"));
  attempts[1]?.result.reject(new Error("refused"));
  await failed;
});

test("DialedStream: what is written in one turn travels with the dial, the rest after it", async () => {
  const { dial, attempts } = manualDial();
  const stream = new DialedStream(TARGET, dial, "one");
  stream.write("head ");
  stream.write("body");
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(Buffer.from(attempts[0]?.options.firstBytes ?? []).toString(), "head body");
  stream.write(" later");
  stream.end();
  const sent: string[] = [];
  const ended = Promise.withResolvers<void>();
  const socket = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      sent.push(chunk.toString());
      done();
    },
    final(done) {
      ended.resolve();
      done();
    },
  });
  attempts[0]?.result.resolve(socket);
  await ended.promise;
  assert.deepEqual(sent, [" later"]);
  stream.destroy();
});

test("DialedStream: destroying it gives up the dial", async () => {
  const { dial, attempts } = manualDial();
  const stream = new DialedStream(TARGET, dial, "one");
  stream.write("x");
  await new Promise((resolve) => setImmediate(resolve));
  stream.destroy();
  assert.equal(attempts[0]?.options.signal.aborted, true);
});

test("DialedStream: a failed dial is the stream's error", async () => {
  const { dial, attempts } = manualDial();
  const stream = new DialedStream(TARGET, dial, "one");
  const failed = new Promise((resolve) => stream.once("error", resolve));
  stream.write("x");
  await new Promise((resolve) => setImmediate(resolve));
  attempts[0]?.result.reject(new Error("refused"));
  assert.match(String(await failed), /refused/);
});
