import assert from "node:assert/strict";
import { createPrivateKey, createPublicKey } from "node:crypto";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { readOnionAddress } from "../../onion/service/onion-address.ts";
import { makeOnionKey, readOnionKey } from "./onion-key.ts";

const dir = await mkdtemp(path.join(tmpdir(), "bento-onion-key-"));
after(() => rm(dir, { recursive: true }));

test("a new key is kept in tor's format, for its owner alone, under its address", async () => {
  const key = await makeOnionKey(dir);
  assert.equal(key.file, path.join(dir, key.address, "hs_ed25519_secret_key"));
  assert.equal((await stat(key.file)).mode & 0o777, 0o600);
  assert.equal((await stat(path.dirname(key.file))).mode & 0o777, 0o700);
  const bytes = await readFile(key.file);
  assert.equal(bytes.length, 96);
  assert.equal(bytes.subarray(0, 32).toString("latin1"), "== ed25519v1-secret: type0 ==\0\0\0");
  assert.deepEqual(Buffer.from(key.secret), bytes.subarray(32));
  assert.equal((await makeOnionKey(dir)).address === key.address, false);
});

test("a key is read back from its file and from tor's folder, with its address", async () => {
  const made = await makeOnionKey(dir);
  for (const given of [made.file, path.dirname(made.file)]) {
    const read = await readOnionKey(given);
    assert.deepEqual(
      { ...read, secret: Buffer.from(read.secret) },
      { ...made, secret: Buffer.from(made.secret), isNew: false },
    );
  }
});

test("the address is that of the public key: RFC 8032, test 1", async () => {
  const seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
  const der = Buffer.from(`302e020100300506032b657004220420${seed}`, "hex");
  const jwk = createPublicKey(createPrivateKey({ key: der, format: "der", type: "pkcs8" })).export({
    format: "jwk",
  });
  const { createHash } = await import("node:crypto");
  const expanded = createHash("sha512").update(Buffer.from(seed, "hex")).digest();
  expanded[0] = (expanded[0] ?? 0) & 248;
  expanded[31] = ((expanded[31] ?? 0) & 63) | 64;
  const file = path.join(dir, "vector");
  await writeFile(
    file,
    Buffer.concat([Buffer.from("== ed25519v1-secret: type0 ==\0\0\0", "latin1"), expanded]),
  );
  const { address } = await readOnionKey(file);
  assert.equal(Buffer.from(readOnionAddress(address)).toString("base64url"), jwk.x);
});

test("what is no key is refused, and never shown", async () => {
  const file = path.join(dir, "bad");
  for (const bytes of [
    Buffer.alloc(0),
    Buffer.alloc(95, 1),
    Buffer.alloc(96, 1),
    Buffer.alloc(97),
    Buffer.alloc(5000),
  ]) {
    await writeFile(file, bytes);
    await assert.rejects(readOnionKey(file), { code: "bad-config" });
  }
  await assert.rejects(readOnionKey(path.join(dir, "none")), { code: "usage" });
});
