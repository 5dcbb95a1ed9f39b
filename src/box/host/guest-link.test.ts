// The box's end of the channel against a guest written by the test: what it says, and what a hostile one may not.

import assert from "node:assert/strict";
import { once } from "node:events";
import { duplexPair, PassThrough } from "node:stream";
import { describe, test } from "node:test";
import * as fc from "fast-check";
import { LEAST_GRANT } from "../../../test/support/least-grant.ts";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { silentLog } from "../../base/log.ts";
import { BrowseLimits, CELL_BYTES } from "../../wire/browse.ts";
import {
  encodeGuestFrame,
  GUEST_FRAME as F,
  GUEST_PAYLOAD_BYTES_MAX,
  type GuestFrame,
  GuestFrameSplitter,
  type GuestStart,
  guestFrameCost,
} from "../../wire/guest-frame.ts";
import { Limits } from "../../wire/limits.ts";
import { GuestLink, type OutputFragment } from "./guest-link.ts";
import type { FunctionStorage, HeldValue, HostServices } from "./services.ts";

const START: GuestStart = { name: "test", source: "", invocation: { args: [] }, grant: LEAST_GRANT };

/** A guest in the hands of the test, started unless asked otherwise. */
async function setUp(
  options: {
    services?: HostServices;
    started?: boolean;
    stdin?: PassThrough;
    onValue?: (value: HeldValue) => Promise<void>;
  } = {},
) {
  const stdin = options.stdin ?? new PassThrough({ highWaterMark: 1 << 20 });
  const stdout = new PassThrough({ highWaterMark: 1 << 20 });
  const clock = new TestClock();
  const link = new GuestLink({ stdin, stdout, log: silentLog, clock, paceClock: clock });
  const output: OutputFragment[] = [];
  const logs: string[] = [];
  const splitter = new GuestFrameSplitter(8 << 20);
  const received: GuestFrame[] = [];
  const say = (type: number, id: number, value?: unknown) => {
    const payload =
      value instanceof Uint8Array ? value : Buffer.from(value === undefined ? "" : JSON.stringify(value));
    stdout.write(encodeGuestFrame(type, id, payload));
  };
  if (options.started ?? true) {
    say(F.ready, 0);
    await link.ready;
    link.start(START, options.services ?? {}, {
      onOutput: (fragment) => output.push(fragment),
      onValue: options.onValue ?? (async (value) => value.release()),
      onLog: (line) => logs.push(line.text),
    });
  }
  /** The next frame that the box sent, of one type when given. */
  const hear = async (type?: number): Promise<GuestFrame> => {
    for (;;) {
      const found = received.findIndex((frame) => type === undefined || frame.type === type);
      if (found >= 0) return received.splice(found, 1)[0] ?? assert.fail();
      const chunk = stdin.read() as Uint8Array | null;
      if (chunk) received.push(...splitter.push(chunk));
      else await once(stdin, "readable");
    }
  };
  const hearJson = async (type: number) =>
    JSON.parse(Buffer.from((await hear(type)).payload).toString()) as unknown;
  return { link, stdin, stdout, clock, output, logs, say, hear, hearJson };
}

const settle = () => new Promise((resolve) => setImmediate(resolve));
const call = (method: string, params: unknown) => ({ method, params });
const credit = (bytes: number) => {
  const payload = Buffer.alloc(4);
  payload.writeUInt32BE(bytes);
  return payload;
};

async function lostBy(link: GuestLink, code: string): Promise<void> {
  const end = await link.ended;
  assert.ok(end.kind === "lost", `ended as ${end.kind}`);
  assert.equal(end.error.code, code);
}

describe("GuestLink", { timeout: 20_000 }, () => {
  test("answers: a message begins one before the guest has taken it; the guest's silence, noise and death change no size", async () => {
    const { link, clock, output, say, hear } = await setUp();
    const shape = { bytes: [2, 4].map((cells) => cells * CELL_BYTES), rate: 65_536, begins: "input" };
    say(F.call, 1, call("answers.shape", shape));
    await hear(F.reply);
    const cells = () => output.length;
    for (const behave of [
      () => undefined,
      () => {
        say(F.output, 0, Buffer.alloc(20_000));
        say(F.output, 0, Buffer.alloc(20_000));
      },
    ]) {
      const before = cells();
      // The guest reads nothing at all meanwhile.
      await link.sendInput(Buffer.from("go"), { last: true });
      assert.equal(cells(), before + 1);
      behave();
      await settle();
      await clock.advance(10_000);
      assert.equal(cells(), before + 4);
      say(F.call, 2 + before, call("answers.finish", {}));
      await hear(F.reply);
    }
    const before = cells();
    await link.sendInput(Buffer.from("go"), { last: true });
    say(F.failed, 0, { name: "Error", message: "no", traceback: "" });
    assert.equal((await link.ended).kind, "failed");
    assert.equal(cells(), before + 1);
    await clock.advance(10_000);
    await link.drained;
    assert.equal(cells(), before + 2);
    assert.ok(output.every(({ bytes, last }) => bytes.length === CELL_BYTES && last));
  });

  test("answers: sizes, rates and turns that there are not are refused; the window holds", async () => {
    const { link, say, hearJson } = await setUp();
    const { bucketsMax, bucketBytesMax } = BrowseLimits;
    const ladder = (count: number) => Array.from({ length: count }, (_, at) => (at + 1) * CELL_BYTES);
    const good = { bytes: ladder(bucketsMax), rate: 65_536, begins: "input" };
    const wrong = [
      { ...good, bytes: [] },
      { ...good, bytes: ladder(bucketsMax + 1) },
      { ...good, bytes: [CELL_BYTES + 1] },
      { ...good, bytes: [2 * CELL_BYTES, CELL_BYTES] },
      { ...good, bytes: [bucketBytesMax + CELL_BYTES] },
      { ...good, rate: 65_537 },
      { ...good, begins: "later" },
    ];
    let id = 0;
    for (const params of wrong) {
      say(F.call, ++id, call("answers.shape", params));
      assert.equal(((await hearJson(F.refuse)) as { code: string }).code, "bad-call", JSON.stringify(params));
    }
    say(F.call, ++id, call("answers.finish", {}));
    assert.equal(((await hearJson(F.refuse)) as { code: string }).code, "bad-call");
    say(F.call, ++id, call("answers.shape", { ...good, bytes: [bucketBytesMax] }));
    assert.deepEqual(await hearJson(F.reply), {});
    await link.sendInput(Buffer.from("go"), { last: true });
    for (let sent = 0; sent <= Limits.streamWindowBytes; sent += 65_000)
      say(F.output, 0, Buffer.alloc(65_000));
    await lostBy(link, "guest-frame");
    await link[Symbol.asyncDispose]();
    await link.drained;
  });

  test("GuestLink: start, output in order, done", async () => {
    const { link, output, say, hearJson } = await setUp();
    assert.equal(((await hearJson(F.start)) as GuestStart).name, "test");
    say(F.outputMore, 0, Buffer.from("he"));
    say(F.output, 0, Buffer.from("llo"));
    say(F.done, 0);
    assert.deepEqual(await link.ended, { kind: "returned" });
    assert.deepEqual(
      output.map(({ bytes, last }) => [Buffer.from(bytes).toString(), last]),
      [
        ["he", false],
        ["llo", true],
      ],
    );
  });

  test("GuestLink: failed carries the function's error, cut", async () => {
    const { link, say } = await setUp();
    say(F.failed, 0, { name: "n".repeat(500), message: "m".repeat(20_000), traceback: "t" });
    const end = await link.ended;
    assert.ok(end.kind === "failed");
    assert.equal(end.failure.name.length, 200);
    assert.ok(Buffer.byteLength(end.failure.message) <= Limits.errorTextBytesMax);
  });

  test("GuestLink: what breaks the order of the protocol ends the guest", async () => {
    const early = [F.output, F.call, F.done, F.log, F.credit, 0x7f];
    for (const type of early) {
      const { link, say } = await setUp({ started: false });
      say(type, 0, {});
      await lostBy(link, "guest-frame");
      await assert.rejects(link.ready, { code: "guest-frame" });
    }
    for (const type of [F.ready, F.start, F.input, F.reply, 0, 0xff]) {
      const { link, say } = await setUp();
      say(type, 0);
      await lostBy(link, "guest-frame");
    }
  });

  test("GuestLink: output before start ends the guest even when it is ready", async () => {
    const { link, say } = await setUp({ started: false });
    say(F.ready, 0);
    await link.ready;
    say(F.output, 0, Buffer.from("x"));
    await lostBy(link, "guest-frame");
  });

  test("GuestLink: nothing after done is taken", async () => {
    const { link, output, say } = await setUp();
    say(F.done, 0);
    say(F.output, 0, Buffer.from("late"));
    assert.deepEqual(await link.ended, { kind: "returned" });
    await settle();
    assert.equal(output.length, 0);
  });

  test("GuestLink: output may fill its window to the last byte, not one more", async () => {
    for (const [extra, kind] of [
      [0, "returned"],
      [1, "lost"],
    ] as const) {
      const { link, say } = await setUp();
      let left: number = Limits.streamWindowBytes;
      while (left > 0) {
        const payload = Math.min(left - guestFrameCost(0), GUEST_PAYLOAD_BYTES_MAX);
        say(F.output, 0, Buffer.alloc(payload));
        left -= guestFrameCost(payload);
        if (left > 0 && left < guestFrameCost(0)) assert.fail("the window does not divide");
      }
      if (extra) say(F.output, 0, Buffer.alloc(0));
      say(F.done, 0);
      assert.equal((await link.ended).kind, kind);
    }
  });

  test("GuestLink: consumed output is given back", async () => {
    const { link, output, say, hear } = await setUp();
    for (let round = 0; round < 50; round++) {
      say(F.output, 0, Buffer.alloc(60_000));
      while (output.length <= round) await settle();
      link.credit(output[round]?.cost ?? assert.fail());
    }
    const given = Buffer.from((await hear(F.credit)).payload).readUInt32BE();
    assert.ok(given >= Limits.streamWindowBytes / 4);
    say(F.done, 0);
    assert.deepEqual(await link.ended, { kind: "returned" });
  });

  test("GuestLink: a frame above the limit ends the guest at its header", async () => {
    const { link, stdout } = await setUp();
    stdout.write(Buffer.from("ffffffff2100000000", "hex"));
    await lostBy(link, "guest-frame");
  });

  test("GuestLink: the end of stdout without done is a lost guest", async () => {
    const { link, stdout } = await setUp();
    stdout.end();
    await lostBy(link, "guest-gone");
    await assert.rejects(link.sendInput(Buffer.from("x"), { last: true }), { code: "guest-gone" });
  });

  test("GuestLink: input waits for the window and goes on with credit", async () => {
    const { link, say, hear } = await setUp();
    let sent = 0;
    const sending = (async () => {
      for (; sent < 20; sent++) await link.sendInput(Buffer.alloc(60_000), { last: true });
    })();
    for (let at = 0; at < 4; at++) await hear(F.input);
    await settle();
    assert.equal(sent, 4);
    for (let at = 4; at < 20; at++) {
      say(F.credit, 0, credit(guestFrameCost(60_000)));
      await hear(F.input);
    }
    await sending;
  });

  test("GuestLink: input that waits is interrupted by its signal and by the guest's end", async () => {
    const { link, say } = await setUp();
    for (let at = 0; at < 4; at++) await link.sendInput(Buffer.alloc(60_000), { last: true });
    const abort = new AbortController();
    const waiting = link.sendInput(Buffer.alloc(60_000), { last: true, signal: abort.signal });
    abort.abort(new Error("enough"));
    await assert.rejects(waiting, { message: "enough" });
    const second = link.sendInput(Buffer.alloc(60_000), { last: true });
    say(F.done, 0);
    await assert.rejects(second, { code: "guest-gone" });
  });

  test("GuestLink: input to a guest that does not read waits in bounded memory", async () => {
    const stdin = new PassThrough({ highWaterMark: 1024 });
    const { link } = await setUp({ stdin });
    let sent = 0;
    const sending = (async () => {
      for (; sent < 4; sent++) await link.sendInput(Buffer.alloc(60_000), { last: true });
    })();
    for (let at = 0; at < 20; at++) await settle();
    assert.ok(sent < 3, `${sent} fragments were taken`);
    await link[Symbol.asyncDispose]();
    await assert.rejects(sending, { code: "guest-gone" });
  });

  test("GuestLink: credit for bytes that were never sent ends the guest", async () => {
    for (const payload of [credit(1), credit(0), credit(0xffffffff), Buffer.alloc(3)]) {
      const { link, say } = await setUp();
      say(F.credit, 0, payload);
      await lostBy(link, "guest-frame");
    }
  });

  test("GuestLink: attached is told when it changes", async () => {
    const { link, hearJson } = await setUp();
    link.setAttached(true);
    link.setAttached(true);
    link.setAttached(false);
    assert.deepEqual(await hearJson(F.session), { attached: true });
    assert.deepEqual(await hearJson(F.session), { attached: false });
  });

  test("GuestLink: calls are carried out, each answered on its id", async () => {
    const { say, hear } = await setUp({
      services: { box: async () => ({ load: 1 }) },
    });
    say(F.call, 1, call("box.facts", {}));
    say(F.call, 7, call("box.facts", {}));
    assert.deepEqual([(await hear(F.reply)).id, (await hear(F.reply)).id], [1, 7]);
  });

  test("GuestLink: ids go up and are never reused", async () => {
    for (const id of [0, 4, 5]) {
      const { link, say } = await setUp({ services: { box: async () => ({}) } });
      say(F.call, 5, call("box.facts", {}));
      say(F.call, id, call("box.facts", {}));
      await lostBy(link, "guest-frame");
    }
  });

  test("GuestLink: malformed calls are refused, calls that are no JSON end the guest", async () => {
    const { link, say, hearJson } = await setUp();
    const bad = [
      {},
      null,
      call("net.listen", {}),
      call("net.connect", { host: "x", port: 0 }),
      call("net.connect", { host: "x".repeat(256), port: 1 }),
      call("net.connect", { host: "x", port: 1, extra: 1 }),
      call("storage.get", { key: "k", offset: -1 }),
      call("storage.put", { key: "\ud800" }),
      call("storage.list", { prefix: "", limit: Limits.storageListMax + 1 }),
      JSON.parse('{"__proto__":{"method":"box.facts"},"params":{}}'),
    ];
    for (const [at, value] of bad.entries()) {
      say(F.call, at + 1, value);
      assert.equal(((await hearJson(F.refuse)) as { code: string }).code, "bad-call");
    }
    say(F.call, 100, Buffer.from("{"));
    await lostBy(link, "guest-frame");
    assert.equal(Reflect.get({}, "method"), undefined);
  });

  test("GuestLink: a service's own errors are told, others stay in the box", async () => {
    const errors = [
      new BentoError("net-refused", "no rule"),
      new Error("secret /path"),
      new BentoError("x", "y"),
    ];
    const { say, hearJson } = await setUp({
      services: {
        net: {
          connect: async () => {
            throw errors.shift() ?? assert.fail();
          },
          async [Symbol.asyncDispose]() {},
        },
      },
    });
    const expected = [
      { code: "net-refused", message: "no rule" },
      { code: "internal", message: "The box failed" },
      { code: "internal", message: "The box failed" },
    ];
    for (const [at, refusal] of expected.entries()) {
      say(F.call, at + 1, call("net.connect", { host: "h", port: 1 }));
      assert.deepEqual(await hearJson(F.refuse), refusal);
    }
  });

  test("GuestLink: as many calls at once as the limit, one more is refused", async () => {
    const pending = Promise.withResolvers<Record<string, never>>();
    const { say, hear, hearJson } = await setUp({ services: { box: () => pending.promise } });
    for (let id = 1; id <= Limits.guestStreamsMax + 1; id++) say(F.call, id, call("box.facts", {}));
    const refusal = await hear(F.refuse);
    assert.equal(refusal.id, Limits.guestStreamsMax + 1);
    pending.resolve({});
    for (let id = 1; id <= Limits.guestStreamsMax; id++) await hear(F.reply);
    say(F.call, 1000, call("box.facts", {}));
    assert.deepEqual(await hearJson(F.reply), {});
  });

  test("GuestLink: data where none belongs ends the guest, on an ended call it is dropped", async () => {
    const { link, say, hear } = await setUp({ services: { box: async () => ({}) } });
    say(F.call, 1, call("box.facts", {}));
    await hear(F.reply);
    for (const type of [F.data, F.dataEnd, F.reset]) say(type, 1, {});
    say(F.credit, 1, credit(5));
    await settle();
    say(F.data, 2, Buffer.from("x"));
    await lostBy(link, "guest-frame");
  });

  test("GuestLink: a stored value takes its place among the output, answered when it was taken", async () => {
    const order: string[] = [];
    const taken = Promise.withResolvers<void>();
    const { link, output, say, hear, hearJson } = await setUp({
      services: {
        storage: {
          ...storageOf(),
          hold: (key, { offset, bytes = 100 }) => {
            if (key === "none") return undefined;
            if (offset > 10) throw new BentoError("storage-offset", "too far");
            return heldValue(bytes);
          },
        },
      },
      onValue: async ({ bytes }) => {
        order.push(`value ${bytes} behind ${output.length}`);
        await taken.promise;
      },
    });
    const send = (key: string, range: object) => call("storage.send", { key, ...range });
    say(F.output, 0, Buffer.from("a"));
    say(F.call, 1, send("k", { bytes: 7 }));
    say(F.output, 0, Buffer.from("b"));
    say(F.call, 2, send("k", {}));
    say(F.call, 3, send("none", {}));
    say(F.call, 4, send("k", { offset: 11 }));
    say(F.output, 0, Buffer.from("c"));
    // The answers of those that wait for nobody come first.
    assert.equal((await hear(F.reply)).id, 3);
    assert.equal(((await hearJson(F.refuse)) as { code: string }).code, "storage-offset");
    while (output.length < 3) await settle();
    assert.deepEqual(order, ["value 7 behind 1", "value 100 behind 2"]);
    taken.resolve();
    assert.deepEqual([await hearJson(F.reply), await hearJson(F.reply)], [{ bytes: 7 }, { bytes: 100 }]);
    say(F.done, 0);
    assert.deepEqual(await link.ended, { kind: "returned" });
  });

  test("GuestLink: no value goes past a shape, and no shape comes after a value", async () => {
    const params = { bytes: [4096], rate: 65_536, begins: "now" };
    let [placed, released] = [0, 0];
    const storage = { ...storageOf(), hold: () => ({ ...heldValue(10), release: () => void released++ }) };
    const options = { services: { storage }, onValue: async () => void placed++ };
    const shaped = await setUp(options);
    shaped.say(F.call, 1, call("answers.shape", params));
    await shaped.hear(F.reply);
    shaped.say(F.call, 2, call("storage.send", { key: "k" }));
    assert.equal(((await shaped.hearJson(F.refuse)) as { code: string }).code, "bad-call");
    assert.deepEqual([placed, released], [0, 1]);
    await shaped.link[Symbol.asyncDispose]();
    const plain = await setUp(options);
    plain.say(F.call, 1, call("storage.send", { key: "k" }));
    await plain.hear(F.reply);
    assert.equal(placed, 1);
    plain.say(F.call, 2, call("answers.shape", params));
    assert.equal(((await plain.hearJson(F.refuse)) as { code: string }).code, "bad-call");
    await plain.link[Symbol.asyncDispose]();
  });

  test("GuestLink: values that nobody takes: as many as calls may be open; malformed and ungranted ones are refused", async () => {
    let placed = 0;
    const never = Promise.withResolvers<void>();
    const { link, say, hear, hearJson } = await setUp({
      services: { storage: storageOf() },
      onValue: async () => {
        placed++;
        await never.promise;
      },
    });
    const bad = [
      { offset: -1 },
      { offset: 0.5 },
      { offset: 2 ** 60 },
      { bytes: -1 },
      { key: "" },
      { more: 1 },
    ];
    for (const [at, change] of bad.entries()) {
      say(F.call, at + 1, call("storage.send", { key: "k", ...change }));
      assert.equal(((await hearJson(F.refuse)) as { code: string }).code, "bad-call");
    }
    for (let id = 100; id < 5100; id++) say(F.call, id, call("storage.send", { key: "k" }));
    const first = await hear(F.refuse);
    assert.equal(first.id, 100 + Limits.guestStreamsMax);
    assert.match(Buffer.from(first.payload).toString(), /too-many-calls/);
    for (let refused = 1; refused < 5000 - Limits.guestStreamsMax; refused++) await hear(F.refuse);
    assert.equal(placed, Limits.guestStreamsMax);
    // One that the guest gives up makes room for another; what was placed stays.
    say(F.reset, 100, {});
    await hear(F.refuse);
    say(F.call, 6000, call("storage.send", { key: "k" }));
    say(F.done, 0);
    assert.deepEqual(await link.ended, { kind: "returned" });
    assert.equal(placed, Limits.guestStreamsMax + 1);
    const without = await setUp({ onValue: () => assert.fail("nothing was granted") });
    without.say(F.call, 1, call("storage.send", { key: "k" }));
    assert.equal(((await without.hearJson(F.refuse)) as { code: string }).code, "not-granted");
  });

  test("GuestLink: a connection is closed when the guest resets its call, and when the guest ends", async () => {
    for (const how of ["reset", "end"]) {
      const [near, far] = duplexPair();
      const { link, say, hear } = await setUp({
        services: { net: { connect: async () => near, async [Symbol.asyncDispose]() {} } },
      });
      say(F.call, 1, call("net.connect", { host: "h", port: 1 }));
      say(F.data, 1, Buffer.from("early"));
      await hear(F.reply);
      const [chunk] = (await once(far, "data")) as [Buffer];
      assert.equal(chunk.toString(), "early");
      const closed = new Promise((resolve) => near.once("close", resolve));
      if (how === "reset") say(F.reset, 1, {});
      else await link[Symbol.asyncDispose]();
      await closed;
    }
  });

  test("GuestLink: a connection's bytes wait for the guest's credit", async () => {
    const [near, far] = duplexPair();
    const { say, hear } = await setUp({
      services: { net: { connect: async () => near, async [Symbol.asyncDispose]() {} } },
    });
    say(F.call, 1, call("net.connect", { host: "h", port: 1 }));
    await hear(F.reply);
    const writing = (async () => {
      for (let at = 0; at < 40; at++) if (!far.write(Buffer.alloc(50_000))) await once(far, "drain");
      far.end();
    })();
    let waiting = 0;
    let total = 0;
    const take = async () => {
      const { payload } = await hear(F.data);
      waiting += guestFrameCost(payload.length);
      return payload.length;
    };
    // A fragment that did not fit waits whole: the window is full but for less than one fragment.
    while (waiting + guestFrameCost(GUEST_PAYLOAD_BYTES_MAX) <= Limits.streamWindowBytes)
      total += await take();
    for (let at = 0; at < 20; at++) await settle();
    while (total < 40 * 50_000) {
      say(F.credit, 1, credit(waiting));
      waiting = 0;
      total += await take();
      assert.ok(waiting <= Limits.streamWindowBytes);
    }
    await writing;
    await hear(F.dataEnd);
  });

  test("GuestLink: log lines are cut, limited in rate, and their number told", async () => {
    const { clock, logs, say, link } = await setUp();
    for (let at = 0; at < 300; at++) say(F.log, 0, { level: "info", text: "ü".repeat(9000) });
    while (logs.length < 200) await settle();
    await settle();
    assert.equal(logs.length, 200);
    assert.ok(logs.every((text) => Buffer.byteLength(text) <= Limits.logTextBytesMax));
    await clock.advance(1000);
    say(F.log, 0, { level: "info", text: "after" });
    while (logs.length < 201) await settle();
    assert.match(logs[200] ?? "", /^\[100 lines dropped\] after$/);
    say(F.log, 0, { level: "fatal", text: "x" });
    await lostBy(link, "guest-frame");
  });

  test("GuestLink: a guest that neither reads nor stops calling is no longer read", async () => {
    const stdin = new PassThrough({ highWaterMark: 1024 });
    const { stdout, say } = await setUp({
      stdin,
      services: { box: async () => ({ pad: "x".repeat(60_000) }) },
    });
    for (let id = 1; id < 400 && !stdout.isPaused(); id++) {
      say(F.call, id, call("box.facts", {}));
      await settle();
    }
    assert.ok(stdout.isPaused());
    assert.ok(stdin.writableLength < 5 << 20);
    stdin.resume();
    while (stdout.isPaused()) await settle();
  });

  test("GuestLink: hostile frames never crash or hang it", async () => {
    const types = [...Object.values(F), 0, 0x7f];
    const frame = fc.record({
      type: fc.constantFrom(...types),
      id: fc.nat(4),
      payload: fc.oneof(
        fc.uint8Array({ maxLength: 40 }),
        fc
          .constantFrom(
            call("box.facts", {}),
            call("net.connect", { host: "h", port: 1 }),
            call("storage.put", { key: "k" }),
            call("storage.get", { key: "k" }),
            call("storage.send", { key: "k" }),
            { level: "info", text: "t" },
            { name: "n", message: "m", traceback: "t" },
          )
          .map((value) => Buffer.from(JSON.stringify(value))),
        fc.nat(500).map(credit),
      ),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(frame, { maxLength: 30 }), fc.boolean(), async (frames, cutShort) => {
        const { link, stdin, stdout, say } = await setUp({ services: fuzzServices() });
        stdin.resume();
        for (const { type, id, payload } of frames) say(type, id, payload);
        await settle();
        if (cutShort) stdout.write(Buffer.from([0, 0]));
        stdout.end();
        const end = await link.ended;
        assert.ok(["returned", "failed", "lost"].includes(end.kind));
        await link[Symbol.asyncDispose]();
      }),
      { numRuns: 300 },
    );
  });
});

function fuzzServices(): HostServices {
  return {
    box: async () => ({}),
    net: {
      connect: async () => {
        const [near, far] = duplexPair();
        far.on("error", () => {});
        far.pipe(far);
        return near;
      },
      async [Symbol.asyncDispose]() {},
    },
    storage: storageOf(),
  };
}

function heldValue(bytes: number): HeldValue {
  const { signal } = new AbortController();
  return { bytes, signal, read: async (from) => new Uint8Array(bytes - from), rest() {}, release() {} };
}

/** Takes everything, and gives the same for every key. */
function storageOf(): FunctionStorage {
  return {
    async put(_key, value) {
      let bytes = 0;
      for await (const part of value) bytes += part.length;
      return { bytes };
    },
    async get() {
      return {
        bytes: 100_000,
        value: (async function* () {
          yield new Uint8Array(100_000);
        })(),
      };
    },
    hold: () => heldValue(10),
    async delete() {
      return true;
    },
    async list() {
      return [];
    },
  };
}
