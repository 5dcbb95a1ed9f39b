import assert from "node:assert/strict";
import { test } from "node:test";
import { BentoError } from "../../src/base/errors.ts";
import { random } from "../../src/onion/crypto/primitives.ts";
import { LoadBalancerLimits } from "../../src/wire/loadbalancer.ts";
import { MATERIAL } from "../../test/support/rendezvous-material.ts";
import {
  checkedReplicaStart,
  decodeCommand,
  decodeMessage,
  encodeCommand,
  encodeMessage,
  type ReplicaCommand,
  type ReplicaMessage,
} from "./protocol.ts";

const CLIENT = { id: 7, bytesPerSecond: 1000, bytesTotal: 2 ** 40, ageMs: 5 };
const LOAD = {
  connections: 3,
  bytesPerSecond: 70_000,
  bytesTotal: 2 ** 45 + 1,
  cpuPercent: 99.9,
  met: 10,
  failed: 2,
  answered: 11,
  clients: [CLIENT, { ...CLIENT, id: 8 }],
};

const COMMANDS: readonly ReplicaCommand[] = [
  { kind: "site", bytes: random(10) },
  { kind: "meet", epoch: 1, number: 0xffff_ffff, material: MATERIAL },
  { kind: "settings", epoch: 2, tellsClients: true },
  { kind: "settings", epoch: 2, tellsClients: false },
  { kind: "retire", epoch: 3 },
  { kind: "end", epoch: 0xffff_ffff },
];
const MESSAGES: readonly ReplicaMessage[] = [
  { kind: "hello", epoch: 1, needsSite: true },
  { kind: "serving", epoch: 1 },
  { kind: "load", epoch: 9, load: LOAD },
  { kind: "met", epoch: 1, number: 4 },
  { kind: "failed", epoch: 1, number: 4, reason: "no such relay" },
  { kind: "done", epoch: 1 },
];

test("commands and messages come back as they went", () => {
  for (const command of COMMANDS) assert.deepEqual(decodeCommand(encodeCommand(command)), command);
  for (const message of MESSAGES) assert.deepEqual(decodeMessage(encodeMessage(message)), message);
});

test("cut, lengthened and foreign ones are refused", () => {
  const refused = (decode: (bytes: Uint8Array) => unknown, bytes: Uint8Array) =>
    assert.throws(
      () => decode(bytes),
      (error) => error instanceof BentoError,
    );
  for (const command of COMMANDS.filter(({ kind }) => kind !== "site")) {
    const bytes = encodeCommand(command);
    for (let length = 0; length < bytes.length; length++) refused(decodeCommand, bytes.subarray(0, length));
    refused(decodeCommand, Uint8Array.of(...bytes, 0));
  }
  for (const message of MESSAGES) {
    const bytes = encodeMessage(message);
    // The reason of a failure may be of any length.
    const whole = message.kind === "failed" ? 9 : bytes.length;
    for (let length = 0; length < whole; length++) refused(decodeMessage, bytes.subarray(0, length));
    if (message.kind !== "failed") refused(decodeMessage, Uint8Array.of(...bytes, 0));
  }
  refused(decodeCommand, Uint8Array.of(99, 0, 0, 0, 0));
  refused(decodeMessage, Uint8Array.of(99, 0, 0, 0, 0));
});

test("a report tells of so many clients, and of no number that is not exact", () => {
  const most = LoadBalancerLimits.clientsShownMax;
  const load = (count: number) => ({ ...LOAD, clients: Array.from({ length: count }, () => CLIENT) });
  const bytes = encodeMessage({ kind: "load", epoch: 1, load: load(most) });
  assert.equal(decodeMessage(bytes).kind, "load");
  assert.throws(
    () => decodeMessage(encodeMessage({ kind: "load", epoch: 1, load: load(most + 1) })),
    /clients/u,
  );
  // The 8 bytes of bytesTotal.
  assert.throws(() => decodeMessage(bytes.fill(0xff, 13, 21)), /too large/u);
});

test("reasons are text of one line, and short", () => {
  const reason = `a\r\nb${"x".repeat(1000)}`;
  const message = decodeMessage(encodeMessage({ kind: "failed", epoch: 1, number: 1, reason }));
  assert.ok(message.kind === "failed" && message.reason.startsWith("a??b") && message.reason.length === 200);
});

test("what a replica is started with is checked", () => {
  const files = { kind: "files", siteBytes: 10, siteDigest: "ab".repeat(32) };
  const start = { version: 1, epoch: 1, virtualPort: 80, serve: files };
  assert.deepEqual(checkedReplicaStart(start), start);
  const target = { ...start, serve: { kind: "target", host: "127.0.0.1", port: 8080 } };
  assert.deepEqual(checkedReplicaStart(target), target);
  for (const wrong of [
    null,
    {},
    { ...start, version: 2 },
    { ...start, epoch: -1 },
    { ...start, virtualPort: 0 },
    { ...start, serve: { ...files, siteDigest: "../state" } },
    { ...start, serve: { ...files, siteBytes: LoadBalancerLimits.siteBytesMax + 1 } },
    { ...start, serve: { kind: "target", host: "x", port: 0 } },
  ])
    assert.throws(() => checkedReplicaStart(wrong), /malformed/u);
});
