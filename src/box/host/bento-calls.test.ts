// Sessions with far functions over a guest's channel: a guest written by the test, hostile where it can be, and a
// service that does what the test says.

import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { LEAST_GRANT } from "../../../test/support/least-grant.ts";
import { silentLog } from "../../base/log.ts";
import {
  encodeGuestFrame,
  GUEST_FRAME as F,
  type GuestFrame,
  GuestFrameSplitter,
} from "../../wire/guest-frame.ts";
import { encodeRecord, RECORD, RECORD_BYTES_MAX, RecordSplitter } from "../../wire/guest-record.ts";
import { Limits } from "../../wire/limits.ts";
import { GuestLink } from "./guest-link.ts";
import type { FarSession, HostServices, InstanceBento } from "./services.ts";

const START = { name: "test", source: "", invocation: { args: [] }, grant: LEAST_GRANT };
const RUN = { box: "self", invocation: { args: [] } };

/** A started guest in the hands of the test. */
async function guest(services: HostServices) {
  const stdin = new PassThrough({ highWaterMark: 1 << 20 });
  const stdout = new PassThrough({ highWaterMark: 1 << 20 });
  const link = new GuestLink({ stdin, stdout, log: silentLog });
  const splitter = new GuestFrameSplitter(8 << 20);
  const received: GuestFrame[] = [];
  let arrived = Promise.withResolvers<void>();
  stdin.on("data", (chunk: Uint8Array) => {
    received.push(...splitter.push(chunk));
    arrived.resolve();
    arrived = Promise.withResolvers<void>();
  });
  const say = (type: number, id: number, payload: Uint8Array | object = Buffer.alloc(0)) => {
    const bytes = payload instanceof Uint8Array ? payload : Buffer.from(JSON.stringify(payload));
    stdout.write(encodeGuestFrame(type, id, bytes));
  };
  say(F.ready, 0);
  await link.ready;
  link.start(START, services, { onOutput: () => undefined, onValue: async (value) => value.release() });
  return {
    link,
    received,
    say,
    call: (id: number, method: string, params: object) => say(F.call, id, { method, params }),
    /** The first frame of one of these types on `id`. */
    next: async (id: number, ...types: number[]): Promise<GuestFrame> => {
      for (;;) {
        const found = received.find((frame) => frame.id === id && types.includes(frame.type));
        if (found) return found;
        await arrived.promise;
      }
    },
  };
}

const textOf = (frame: GuestFrame) => Buffer.from(frame.payload).toString();
const codeOf = (frame: GuestFrame) => (JSON.parse(textOf(frame)) as { code: string }).code;

function far(session: Partial<FarSession>): FarSession {
  return {
    instance: "instance",
    offset: 0,
    deployed: undefined,
    ended: Promise.resolve({ kind: "returned" }),
    send: async () => undefined,
    endInput: async () => undefined,
    async *chunks() {},
    onResumed: () => undefined,
    detach: async () => undefined,
    ...session,
  };
}

const service = (parts: Partial<InstanceBento>): HostServices => ({
  bento: { ...parts, [Symbol.asyncDispose]: async () => undefined } as InstanceBento,
});

test("bento.*: a function without the grant is refused each call, and lives on", async () => {
  const { call, next, link } = await guest({});
  const params = { box: "self", token: "t", instance: "i", invocation: { args: [] }, boxes: ["self"] };
  const wanted = {
    info: ["box"],
    policy: ["box"],
    deploy: ["box"],
    run: ["box", "invocation"],
    exec: ["box", "token", "invocation"],
    open: ["box", "instance"],
    close: ["box", "instance"],
    shutdown: ["box", "token"],
    choose: ["boxes"],
  };
  let id = 0;
  for (const [method, names] of Object.entries(wanted)) {
    id++;
    call(id, `bento.${method}`, Object.fromEntries(names.map((name) => [name, Reflect.get(params, name)])));
    assert.equal(codeOf(await next(id, F.refuse)), "not-granted", method);
  }
  await link[Symbol.asyncDispose]();
});

test("bento.*: parameters beyond their bounds reach no service", async () => {
  const { call, next, link } = await guest(service({ info: () => assert.fail("reached") }));
  const rows: [string, object][] = [
    ["info", { box: "x".repeat(301) }],
    ["info", { box: "" }],
    ["info", { box: "self", isolation: "another function's" }],
    ["exec", { box: "self", token: "t".repeat(201), invocation: { args: [] } }],
    ["choose", { boxes: Array(65).fill("self") }],
    ["open", { box: "self", instance: "i", offset: -1 }],
  ];
  for (const [at, [method, params]] of rows.entries()) {
    call(at + 1, `bento.${method}`, params);
    assert.equal(codeOf(await next(at + 1, F.refuse)), "bad-call", JSON.stringify(params).slice(0, 80));
  }
  await link[Symbol.asyncDispose]();
});

test("bento.run: a package in records, then messages; its output as records, then the outcome", async () => {
  const parts: string[] = [];
  const sent: string[] = [];
  const { call, say, next, received, link } = await guest(
    service({
      async run(_box, what) {
        assert.ok("package" in what);
        for await (const part of what.package) parts.push(Buffer.from(part).toString());
        const over = Promise.withResolvers<void>();
        return far({
          send: async (bytes, last) => void sent.push(`${Buffer.from(bytes).toString()}${last ? "." : ""}`),
          endInput: async () => over.resolve(),
          async *chunks() {
            await over.promise;
            yield { bytes: Buffer.from("out"), last: false };
            yield { bytes: Buffer.from("put"), last: true };
          },
        });
      },
    }),
  );
  call(1, "bento.run", RUN);
  const records = [
    [RECORD.packageMore, "pack"],
    [RECORD.package, "age"],
    [RECORD.messageMore, "hel"],
    [RECORD.message, "lo"],
  ] as const;
  const bytes = Buffer.concat(records.map(([kind, text]) => encodeRecord(kind, Buffer.from(text))));
  // Cut where it hurts.
  for (const byte of bytes) say(F.data, 1, Uint8Array.of(byte));
  say(F.dataEnd, 1);
  await next(1, F.dataEnd);
  assert.deepEqual(
    [parts, sent],
    [
      ["pack", "age"],
      ["hel", "lo."],
    ],
  );
  const splitter = new RecordSplitter();
  const answers = received
    .filter(({ type, id }) => type === F.data && id === 1)
    .flatMap(({ payload }) => [...splitter.push(payload)])
    .map(({ kind, payload }) => [kind, Buffer.from(payload).toString()]);
  assert.deepEqual(answers, [
    [RECORD.deployed, "null"],
    [RECORD.messageMore, "out"],
    [RECORD.message, "put"],
    [RECORD.ended, '{"kind":"returned"}'],
  ]);
  await link[Symbol.asyncDispose]();
});

test("bento.run: records that are none are refused, and end nothing but the call", async () => {
  const collecting: Partial<InstanceBento> = {
    async run(_box, what) {
      assert.ok("package" in what);
      for await (const _part of what.package);
      return far({
        chunks: () => ({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) }),
      });
    },
  };
  const { call, say, next, link } = await guest(service(collecting));
  const header = Buffer.from(encodeRecord(RECORD.package, new Uint8Array(RECORD_BYTES_MAX)));
  header.writeUInt32BE(RECORD_BYTES_MAX + 1, 1);
  const rows: [string, Uint8Array][] = [
    ["a message where the package is expected", encodeRecord(RECORD.message)],
    ["a record of the box", encodeRecord(RECORD.ended)],
    ["an unknown record", encodeRecord(99)],
    ["a record that is too long", header.subarray(0, 5)],
    ["an end in the middle", encodeRecord(RECORD.packageMore)],
  ];
  for (const [at, [what, bytes]] of rows.entries()) {
    call(at + 1, "bento.run", RUN);
    say(F.data, at + 1, bytes);
    say(F.dataEnd, at + 1);
    assert.equal(codeOf(await next(at + 1, F.refuse)), "bad-request", what);
  }
  const last = rows.length + 1;
  call(last, "bento.run", RUN);
  say(F.data, last, encodeRecord(RECORD.package));
  await next(last, F.reply);
  say(F.data, last, encodeRecord(RECORD.package));
  assert.equal(codeOf(await next(last, F.reset)), "bad-request");
  await link[Symbol.asyncDispose]();
});

test("bento.open: a guest that does not read stops the far function; a far box that does not, the guest", async () => {
  let produced = 0;
  const { call, say, next, received, link } = await guest(
    service({
      open: async () =>
        far({
          send: () => new Promise(() => undefined),
          async *chunks() {
            for (;;) {
              produced++;
              yield { bytes: new Uint8Array(50_000), last: true };
            }
          },
        }),
    }),
  );
  call(1, "bento.open", { box: "self", instance: "i" });
  await next(1, F.reply);
  const message = encodeRecord(RECORD.message, new Uint8Array(50_000));
  for (let count = 0; count < 5; count++) say(F.data, 1, message);
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
  assert.ok(produced * 50_000 <= Limits.streamWindowBytes + 50_000, `${produced} messages`);
  assert.ok(produced > 1);
  // Nothing of what waits was given back, so a guest that keeps to its window sends no more.
  assert.deepEqual(received.filter(({ type }) => type === F.credit).length, 0);
  await link[Symbol.asyncDispose]();
});

test("bento.open: leaving detaches once, and the guest's end does", async () => {
  for (const leave of ["reset", "reset after the end of the input", "end"]) {
    let left = 0;
    const detached = Promise.withResolvers<void>();
    const inputEnded = Promise.withResolvers<void>();
    const { call, say, next, link } = await guest(
      service({
        open: async () =>
          far({
            chunks: () => ({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => undefined) }) }),
            endInput: async () => inputEnded.resolve(),
            async detach() {
              left++;
              detached.resolve();
            },
          }),
      }),
    );
    call(1, "bento.open", { box: "self", instance: "i" });
    await next(1, F.reply);
    if (leave.includes("after")) {
      say(F.dataEnd, 1);
      await inputEnded.promise;
    }
    if (leave.startsWith("reset")) say(F.reset, 1, { code: "closed", message: "" });
    else say(F.done, 0);
    await detached.promise;
    assert.equal(left, 1, leave);
    await link[Symbol.asyncDispose]();
  }
});
