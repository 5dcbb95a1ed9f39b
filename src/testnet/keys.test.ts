import assert from "node:assert/strict";
import { constants, createHash, createPublicKey, publicDecrypt } from "node:crypto";
import test from "node:test";
import { makeAuthorityKeys, makeRelayKeys } from "./keys.ts";

function section(certificate: string, keyword: string): string {
  const block = new RegExp(`^${keyword}\n(-----BEGIN [^]*?-----END [A-Z ]+-----)`, "mu").exec(
    certificate,
  )?.[1];
  assert.ok(block, keyword);
  return block;
}

function bytesOf(armour: string): Buffer {
  return Buffer.from(armour.replaceAll(/-----.*-----|\s/gu, ""), "base64");
}

const sha1 = (bytes: Uint8Array | string) => createHash("sha1").update(bytes).digest();

test("makeRelayKeys: the fingerprint is the digest of the public key", async () => {
  const { fingerprint, identityPem } = await makeRelayKeys();
  const der = createPublicKey(identityPem).export({ type: "pkcs1", format: "der" });
  assert.equal(fingerprint, sha1(der).toString("hex").toUpperCase());
});

test("makeAuthorityKeys: both signatures of the certificate hold", async () => {
  const { certificate, v3Identity } = await makeAuthorityKeys(1_700_000_000_000);
  const open = (key: string, signature: string) =>
    publicDecrypt(
      { key: section(certificate, key), padding: constants.RSA_PKCS1_PADDING },
      bytesOf(section(certificate, signature)),
    );
  const identity = bytesOf(section(certificate, "dir-identity-key"));
  assert.equal(sha1(identity).toString("hex").toUpperCase(), v3Identity);
  assert.deepEqual(open("dir-signing-key", "dir-key-crosscert"), sha1(identity));
  const signed = certificate.slice(
    0,
    certificate.indexOf("dir-key-certification\n") + "dir-key-certification\n".length,
  );
  assert.deepEqual(open("dir-identity-key", "dir-key-certification"), sha1(signed));
  assert.match(certificate, /^dir-key-published 2023-11-14 21:13:20$/mu);
});
