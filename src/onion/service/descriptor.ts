// Onion service descriptors: the signed document that directories keep, two layers of encryption deep.
// A service writes them; clients read what any directory gives them: hostile until signatures and MACs were checked.
// Spec: rend-spec-v3 2.4 [DESC-OUTER], 2.5.1 (first layer, client authorization), 2.5.2 (second layer).

import { concat, utf8 } from "../../base/bytes.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import { type ExpandedKey, signExpanded } from "../crypto/blinding.ts";
import {
  CERT_TYPE,
  checkCertificate,
  issueCertificate,
  parseCertificate,
} from "../crypto/ed25519-certificate.ts";
import {
  aesCtr,
  equal,
  generateEd25519,
  generateX25519,
  random,
  shake256,
  signEd25519,
  verifyEd25519,
  type X25519Key,
  x25519,
} from "../crypto/primitives.ts";
import { armor, documentText, itemsByKeyword, readItems } from "../directory/document.ts";
import { base64, fromBase64 } from "../fields.ts";
import { AUTHORIZED_CLIENTS_MAX, DESCRIPTOR_BYTES_MAX } from "../limits.ts";
import { type DescriptorContent, encodeContent, parseContent } from "./descriptor-content.ts";
import { openLayer, sealLayer } from "./descriptor-layer.ts";

export interface DescriptorInput {
  /** The service's key, blinded for the period. */
  readonly blinded: ExpandedKey;
  readonly subcredential: Uint8Array;
  /** Only ever higher for one blinded key (rend-spec-v3 2.4 "revision-counter"). */
  readonly revision: number;
  readonly content: DescriptorContent;
  /** X25519 public keys of the clients that alone may read it; none: everybody who knows the address. */
  readonly clients?: readonly Uint8Array[];
  readonly nowMs: number;
}

/** Minutes that directories keep it. */
const LIFETIME_MINUTES = 180;
/** rend-spec-v3 2.4: the certificate of the signing key; as long as C tor gives it. */
const CERTIFICATE_MS = 54 * 3_600_000;
const SIGNATURE_PREFIX = utf8("Tor onion service descriptor sig v3");
/** 2.5.1.1: the first layer's plaintext is a multiple of this. */
const PAD_BYTES = 10_000;
/** 2.5.1.4: lines for clients come in multiples of this, so that nobody can count them. */
const CLIENT_LINES = 16;
const COOKIE_BYTES = 16;

/** The document to upload. Throws BentoError `onion-descriptor` when it would be too long for directories. */
export function encodeDescriptor(input: DescriptorInput): Uint8Array {
  const { blinded, subcredential, revision, clients = [], nowMs } = input;
  if (clients.length > AUTHORIZED_CLIENTS_MAX)
    throw new BentoError(
      "onion-descriptor",
      `Cannot make descriptor: ${String(clients.length)} clients, at most ${String(AUTHORIZED_CLIENTS_MAX)}`,
    );
  const signing = generateEd25519();
  const expiresMs = nowMs + CERTIFICATE_MS;
  const content = encodeContent(input.content, signing, expiresMs);
  const cookie = clients.length > 0 ? random(COOKIE_BYTES) : new Uint8Array(0);
  const layer = { subcredential, revision };
  const inner = sealLayer(
    { ...layer, name: "hsdir-encrypted-data", secretData: concat([blinded.publicKey, cookie]) },
    content,
  );
  const first = pad(utf8(firstLayer(inner, clients, cookie, subcredential)));
  const outer = sealLayer(
    { ...layer, name: "hsdir-superencrypted-data", secretData: blinded.publicKey },
    first,
  );
  const certificate = issueCertificate({
    type: CERT_TYPE.descriptorSigningKey,
    expiresMs,
    certified: signing.publicKey,
    signer: blinded.publicKey,
    sign: (message) => signExpanded(blinded, message),
  });
  const signed = utf8(
    `hs-descriptor 3\ndescriptor-lifetime ${String(LIFETIME_MINUTES)}\n` +
      `descriptor-signing-key-cert\n${armor("ED25519 CERT", certificate)}` +
      `revision-counter ${String(revision)}\nsuperencrypted\n${armor("MESSAGE", outer)}`,
  );
  const signature = signEd25519(signing, concat([SIGNATURE_PREFIX, signed]));
  const document = concat([signed, utf8(`signature ${base64(signature)}\n`)]);
  if (document.length > DESCRIPTOR_BYTES_MAX)
    throw new BentoError(
      "onion-descriptor",
      `Cannot make descriptor: ${String(document.length)} bytes, at most ${String(DESCRIPTOR_BYTES_MAX)}`,
      { advice: "Have fewer introduction points or authorized clients." },
    );
  return document;
}

/** 2.5.1.2, without a final newline, as C tor writes it. */
function firstLayer(
  inner: Uint8Array,
  clients: readonly Uint8Array[],
  cookie: Uint8Array,
  subcredential: Uint8Array,
): string {
  const ephemeral = generateX25519();
  const lines = clients.map((client) => {
    const { id, key } = clientKeys(x25519(ephemeral, client), subcredential);
    const iv = random(16);
    return { id, iv, cookie: aesCtr(key, iv).update(cookie) };
  });
  const count = Math.max(1, Math.ceil(clients.length / CLIENT_LINES)) * CLIENT_LINES;
  while (lines.length < count) lines.push({ id: random(8), iv: random(16), cookie: random(COOKIE_BYTES) });
  // Sorted by what looks random: the order must not tell which are real.
  const texts = lines.map(
    (line) => `auth-client ${base64(line.id)} ${base64(line.iv)} ${base64(line.cookie)}\n`,
  );
  return (
    `desc-auth-type x25519\ndesc-auth-ephemeral-key ${base64(ephemeral.publicKey)}\n` +
    `${texts.sort().join("")}encrypted\n${armor("MESSAGE", inner).trimEnd()}`
  );
}

/** KEYS = KDF(N_hs_subcred | SECRET_SEED, 40): CLIENT-ID and COOKIE-KEY. */
function clientKeys(shared: Uint8Array, subcredential: Uint8Array) {
  const keys = shake256(40, subcredential, shared);
  return { id: keys.subarray(0, 8), key: keys.subarray(8) };
}

/** Throws ProtocolError or BentoError unless it is the service's, of this period, and we may read it. */
export function openDescriptor(
  document: Uint8Array,
  trust: {
    readonly blindedKey: Uint8Array;
    readonly subcredential: Uint8Array;
    readonly nowMs: number;
    /** For services that only authorized clients may reach. */
    readonly client?: X25519Key | undefined;
  },
): { readonly content: DescriptorContent; readonly revision: number } {
  const { blindedKey, subcredential } = trust;
  const { sealed, revision } = openOuter(document, trust);
  const layer = { subcredential, revision };
  const first = openLayer({ ...layer, name: "hsdir-superencrypted-data", secretData: blindedKey }, sealed);
  const { inner, cookie } = readFirstLayer(first, subcredential, trust.client);
  const name = "hsdir-encrypted-data";
  let content: Uint8Array;
  try {
    content = openLayer({ ...layer, name, secretData: concat([blindedKey, cookie]) }, inner);
  } catch (cause) {
    throw new BentoError("onion-not-authorized", "Cannot read descriptor: this service wants authorization", {
      cause,
      advice: "Ask its operator to authorize your key.",
    });
  }
  return { content: parseContent(content), revision };
}

// Sample:
//   hs-descriptor 3
//   descriptor-lifetime 180
//   descriptor-signing-key-cert
//   -----BEGIN ED25519 CERT-----
//   ...
//   revision-counter 1
//   superencrypted
//   -----BEGIN MESSAGE-----
//   ...
//   signature aaaa...
function openOuter(
  document: Uint8Array,
  { blindedKey, nowMs }: { readonly blindedKey: Uint8Array; readonly nowMs: number },
): { readonly sealed: Uint8Array; readonly revision: number } {
  if (document.length > DESCRIPTOR_BYTES_MAX) throw malformed(`${String(document.length)} bytes`);
  const text = documentText(document);
  const items = itemsByKeyword(text, [
    "hs-descriptor",
    "descriptor-lifetime",
    "descriptor-signing-key-cert",
    "revision-counter",
    "superencrypted",
    "signature",
  ]);
  const arg = (keyword: string): string => items.get(keyword)?.args[0] ?? "";
  if (!text.startsWith("hs-descriptor 3")) throw malformed("another version than 3");
  const revision = Number(/^[0-9]{1,15}$/u.exec(arg("revision-counter"))?.[0] ?? Number.NaN);
  const sealed = items.get("superencrypted")?.object?.bytes;
  const certificate = items.get("descriptor-signing-key-cert")?.object?.bytes;
  const signature = items.get("signature");
  if (Number.isNaN(revision) || !sealed || !certificate || !signature) throw malformed("a part is missing");
  if (text.slice(signature.lineEnd) !== "") throw malformed("more after its signature");
  const signingKey = checkCertificate(parseCertificate(certificate), {
    type: CERT_TYPE.descriptorSigningKey,
    signer: blindedKey,
    nowMs,
  });
  const signed = concat([SIGNATURE_PREFIX, document.subarray(0, signature.from)]);
  if (!verifyEd25519(signingKey, signed, fromBase64(arg("signature"), 64)))
    throw malformed("its signature is wrong");
  return { sealed, revision };
}

function readFirstLayer(
  plaintext: Uint8Array,
  subcredential: Uint8Array,
  client: X25519Key | undefined,
): { readonly inner: Uint8Array; readonly cookie: Uint8Array } {
  const text = documentText(plaintext).replace(/\0+$/u, "");
  const items = itemsByKeyword(text, ["desc-auth-type", "desc-auth-ephemeral-key", "encrypted"]);
  const inner = items.get("encrypted")?.object?.bytes;
  if (!inner) throw malformed("no second layer");
  if (!client) return { inner, cookie: new Uint8Array(0) };
  const ephemeral = fromBase64(items.get("desc-auth-ephemeral-key")?.args[0] ?? "", 32);
  const { id, key } = clientKeys(x25519(client, ephemeral), subcredential);
  for (const { keyword, args } of readItems(text)) {
    if (keyword !== "auth-client" || !equal(fromBase64(args[0] ?? ""), id)) continue;
    const iv = fromBase64(args[1] ?? "", 16);
    return { inner, cookie: aesCtr(key, iv).update(fromBase64(args[2] ?? "", COOKIE_BYTES)) };
  }
  // A key that is not listed may still be no obstacle: the service may be open to all.
  return { inner, cookie: new Uint8Array(0) };
}

function pad(bytes: Uint8Array): Uint8Array {
  const padded = new Uint8Array(Math.ceil(bytes.length / PAD_BYTES) * PAD_BYTES);
  padded.set(bytes);
  return padded;
}

function malformed(found: string): ProtocolError {
  return new ProtocolError("onion-descriptor", `Cannot read descriptor: ${found}`);
}
