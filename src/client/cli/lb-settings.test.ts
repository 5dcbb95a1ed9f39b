import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { formatBytes } from "../../base/bytes.ts";
import { LoadBalancerLimits } from "../../wire/loadbalancer.ts";
import { changesOf, clientKeysOf, scaleOf, targetOf, watermarkOf, watermarkText } from "./lb-settings.ts";

const { clientsMax } = LoadBalancerLimits;
const usage = { code: "usage" };

test("scaleOf: replicas, watermarks and choice; a high watermark brings a low one along", () => {
  assert.deepEqual(
    scaleOf({ replicas: "2..4", high: "connections=2,rate=1MiB/s,cpu=80%", choice: "random" }),
    {
      replicasMin: 2,
      replicasMax: 4,
      high: { connections: 2, bytesPerSecond: 2 ** 20, cpuPercent: 80 },
      low: { connections: 0.8, bytesPerSecond: 419430, cpuPercent: 32 },
      choice: "random",
    },
  );
  assert.deepEqual(changesOf({}), {});
  assert.deepEqual(changesOf({ replicas: "3" }), { replicasMin: 3, replicasMax: 3 });
  assert.deepEqual(changesOf({ low: "cpu=5%" }), { low: { cpuPercent: 5 } });
  assert.deepEqual(changesOf({ replicas: "64" }), { replicasMin: 64, replicasMax: 64 });
});

test("scaleOf: wrong input is refused", () => {
  for (const replicas of ["", "0", "0..4", "4..1", "65", "1..65", "1-4", "a", "1..", "9999"])
    assert.throws(() => scaleOf({ replicas }), usage, replicas);
  for (const high of [
    "",
    "connections",
    "connections=",
    "connections=0",
    "connections=-1",
    "cpu=80",
    "rate=1",
    "rate=0B/s",
    "connections=1,connections=2",
    "toString=1",
    "cpu=80%,",
    "connections=1e9",
  ])
    assert.throws(() => scaleOf({ high }), usage, high);
  for (const low of ["connections=2", "connections=3"])
    assert.throws(() => scaleOf({ high: "connections=2", low }), usage);
  assert.doesNotThrow(() => scaleOf({ high: "connections=2", low: "connections=1.99,rate=1GiB/s" }));
});

test("watermarkText: for people", () => {
  const mark = watermarkOf("--high", "rate=1MiB/s, connections=1");
  assert.equal(watermarkText(mark, formatBytes), "1 client or 1 MiB/s");
  assert.equal(watermarkText({}, formatBytes), "never");
});

test("targetOf: host and port", () => {
  assert.deepEqual(targetOf("example.com:80"), { host: "example.com", port: 80 });
  assert.deepEqual(targetOf("[::1]:8080"), { host: "::1", port: 8080 });
  for (const text of ["example.com", ":80", "a:0", "a:65536", "a b:80", "::1:80", "http://a:80", "[]:1"])
    assert.throws(() => targetOf(text), usage, text);
});

test("clientKeysOf: tor's base32, its .auth lines, files of them", async () => {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-keys-"));
  const raw = Buffer.from(
    generateKeyPairSync("x25519").publicKey.export({ format: "jwk" }).x ?? "",
    "base64url",
  );
  const base32 = toBase32(raw);
  const wanted = [raw.toString("base64")];
  assert.deepEqual(await clientKeysOf([base32]), wanted);
  assert.deepEqual(await clientKeysOf([base32.toLowerCase(), `descriptor:x25519:${base32}`]), wanted);
  const file = path.join(dir, "keys");
  await writeFile(file, `# alice\n\ndescriptor:x25519:${base32}\n`);
  assert.deepEqual(await clientKeysOf([`@${file}`]), wanted);
  for (const bad of ["", "x", base32.slice(1), `${base32}A`, `ed25519:${base32}`, `@${dir}/none`])
    await assert.rejects(clientKeysOf([bad]), usage, bad);
  const many = (count: number) =>
    Array.from({ length: count }, (_, index) => toBase32(Buffer.alloc(32, String(index).padStart(32, "0"))));
  assert.equal((await clientKeysOf(many(clientsMax))).length, clientsMax);
  await assert.rejects(clientKeysOf(many(clientsMax + 1)), usage);
  await rm(dir, { recursive: true });
});

function toBase32(bytes: Uint8Array): string {
  let bits = [...bytes].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  bits = bits.padEnd(Math.ceil(bits.length / 5) * 5, "0");
  return (bits.match(/.{5}/g) ?? [])
    .map((five) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[Number.parseInt(five, 2)])
    .join("");
}
