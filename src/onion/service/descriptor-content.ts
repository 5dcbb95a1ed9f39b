// What a descriptor's innermost layer says: where the introduction points are, and what the service can do.
// Written by us, or read from what a service that we do not know wrote.
// Spec: rend-spec-v3 2.5.2.2; proposal 324 9.1 ("flow-control").

import { utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import type { CircuitRelay } from "../circuit/circuit.ts";
import { decodeLinkSpecifiers, encodeLinkSpecifiers } from "../circuit/link-specifier.ts";
import { ed25519FromX25519 } from "../crypto/blinding.ts";
import { CERT_TYPE, issueCertificate, parseCertificate } from "../crypto/ed25519-certificate.ts";
import { type Ed25519Key, signEd25519 } from "../crypto/primitives.ts";
import { armor, documentText, type Item, readItems } from "../directory/document.ts";
import { FieldReader, fromBase64, plain } from "../fields.ts";
import { INTRODUCTION_POINTS_MAX } from "../limits.ts";
import type { IntroductionKeys } from "./hs-ntor.ts";

/** An introduction point, as clients know it. */
export interface IntroductionPointInfo extends IntroductionKeys {
  readonly relay: CircuitRelay;
}

export interface DescriptorContent {
  readonly introductionPoints: readonly IntroductionPointInfo[];
  /** The service takes congestion control, with this many cells between SENDMEs. */
  readonly sendmeIncrement: number | undefined;
  /** Single onion service: its operator does not hide where it is. */
  readonly isSingle: boolean;
}

/** @param signing the descriptor's signing key, which certifies the keys inside. */
export function encodeContent(
  { introductionPoints, sendmeIncrement, isSingle }: DescriptorContent,
  signing: Ed25519Key,
  expiresMs: number,
): Uint8Array {
  if (introductionPoints.length > INTRODUCTION_POINTS_MAX)
    throw malformed(`${String(introductionPoints.length)} introduction points`);
  const certify = (type: number, certified: Uint8Array) =>
    armor(
      "ED25519 CERT",
      issueCertificate({
        type,
        expiresMs,
        certified,
        signer: signing.publicKey,
        sign: (message) => signEd25519(signing, message),
      }),
    );
  const points = introductionPoints.map(
    ({ relay, authKey, encryptionKey }) =>
      `introduction-point ${padded(encodeLinkSpecifiers(relay))}\n` +
      `onion-key ntor ${padded(relay.ntorKey)}\n` +
      `auth-key\n${certify(CERT_TYPE.introductionAuthKey, authKey)}` +
      `enc-key ntor ${padded(encryptionKey)}\n` +
      `enc-key-cert\n${certify(CERT_TYPE.introductionEncryptionKey, ed25519FromX25519(encryptionKey))}`,
  );
  const flow = sendmeIncrement === undefined ? "" : `flow-control 1-2 ${String(sendmeIncrement)}\n`;
  return utf8(`create2-formats 2\n${isSingle ? "single-onion-service\n" : ""}${flow}${points.join("")}`);
}

/** C tor wants the padding of base64 in these lines. */
function padded(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64");
}

/** Throws ProtocolError `onion-descriptor`, `onion-document` or `onion-format`. */
export function parseContent(bytes: Uint8Array): DescriptorContent {
  const head = new Map<string, Item>();
  const points: Item[][] = [];
  for (const item of readItems(documentText(bytes).replace(/\0+$/u, ""))) {
    if (item.keyword === "introduction-point") {
      if (points.length >= INTRODUCTION_POINTS_MAX)
        throw malformed(`more than ${String(INTRODUCTION_POINTS_MAX)} introduction points`);
      points.push([item]);
    } else if (points.length > 0) points.at(-1)?.push(item);
    else head.set(item.keyword, item);
  }
  // 2 is ntor: the one handshake that everybody has.
  if (head.get("create2-formats")?.args.includes("2") !== true) throw malformed("no ntor among its formats");
  return {
    introductionPoints: points.map(readPoint),
    sendmeIncrement: readFlowControl(head.get("flow-control")?.args ?? []),
    isSingle: head.has("single-onion-service"),
  };
}

// Sample: flow-control 1-2 31
function readFlowControl([versions = "", increment = ""]: readonly string[]): number | undefined {
  const [from = 0, to = from] = versions.split("-").map(Number);
  const cells = Number(increment);
  return from <= 2 && to >= 2 && Number.isInteger(cells) && cells >= 1 && cells <= 255 ? cells : undefined;
}

function readPoint(items: readonly Item[]): IntroductionPointInfo {
  const find = (keyword: string, kind?: string): Item => {
    const found = items.find(
      (item) => item.keyword === keyword && (kind === undefined || item.args[0] === kind),
    );
    if (!found) throw malformed(`an introduction point without ${keyword}`);
    return found;
  };
  const specifiers = new FieldReader(fromBase64(find("introduction-point").args[0] ?? ""), "link specifiers");
  const address = decodeLinkSpecifiers(specifiers);
  specifiers.end();
  const certificate = find("auth-key").object?.bytes;
  if (!certificate) throw malformed("an introduction point without auth-key certificate");
  const auth = parseCertificate(certificate);
  if (auth.type !== CERT_TYPE.introductionAuthKey) throw malformed("a certificate of another kind");
  return {
    relay: { ...address, ntorKey: fromBase64(find("onion-key", "ntor").args[1] ?? "", 32) },
    authKey: plain(auth.certified),
    encryptionKey: fromBase64(find("enc-key", "ntor").args[1] ?? "", 32),
  };
}

function malformed(found: string): ProtocolError {
  return new ProtocolError("onion-descriptor", `Cannot read descriptor: ${found}`);
}
