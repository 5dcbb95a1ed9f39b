// The consensus, microdescriptor flavour: which relays there are, and the parameters all of Tor goes by.
// Comes from any directory cache: nothing in it counts before `verifyConsensus` has counted the authorities' signatures.
// Spec: dir-spec 3.4.1 (format), 3.9.2 (microdescriptor flavour), 3.4.1 "directory-signature".

import { ProtocolError } from "../../base/errors.ts";
import { equal, rsaSigned, sha256 } from "../crypto/primitives.ts";
import { fromBase64, fromHex, hex } from "../fields.ts";
import { CONSENSUS_BYTES_MAX, RELAYS_MAX } from "../limits.ts";
import type { AuthorityCertificate } from "./authority-certificate.ts";
import { documentText, type Item, malformed, parseNumbers, parseTime, readItems } from "./document.ts";

export interface ConsensusRelay {
  readonly nickname: string;
  /** Fingerprint, 20 bytes. */
  readonly rsa: Uint8Array;
  /** IPv4. */
  readonly host: string;
  readonly port: number;
  readonly flags: ReadonlySet<string>;
  /** SHA-256 of the microdescriptor, base64 without padding. */
  readonly microdescriptor: string;
  /** Subprotocol versions by name. */
  readonly protocols: ReadonlyMap<string, readonly (readonly [from: number, to: number])[]>;
  /** In kilobytes a second, as measured; 0 when nobody measured it. */
  readonly bandwidth: number;
}

export interface Consensus {
  readonly validAfterMs: number;
  readonly freshUntilMs: number;
  readonly validUntilMs: number;
  readonly parameters: ReadonlyMap<string, number>;
  /** Shared random values, 32 bytes each. */
  readonly sharedRandom: {
    readonly previous: Uint8Array | undefined;
    readonly current: Uint8Array | undefined;
  };
  readonly relays: readonly ConsensusRelay[];
  /** bandwidth-weights: Wgg, Wmm, ... in ten-thousandths. */
  readonly weights: ReadonlyMap<string, number>;
  readonly signatures: readonly ConsensusSignature[];
  /** SHA-256 of what is signed. */
  readonly digest: Uint8Array;
}

interface ConsensusSignature {
  /** Hex, lower case, of the authority's identity key and of its signing key. */
  readonly identity: string;
  readonly signingKey: string;
  readonly signature: Uint8Array;
}

/** Directory authorities sign; whoever configures the network says which there are (dir-spec 1.1). */
export interface Authority {
  /** v3ident: 40 hex digits. */
  readonly identity: string;
}

const SIGNATURES_MAX = 64;
const SIGNATURE_KEYWORD = "directory-signature ";

/** Reads a consensus. Throws ProtocolError `onion-document`. Signatures are not checked yet. */
export function parseConsensus(bytes: Uint8Array): Consensus {
  if (bytes.length > CONSENSUS_BYTES_MAX) throw malformed(`a consensus of ${String(bytes.length)} bytes`);
  const text = documentText(bytes);
  const draft = new Draft();
  for (const item of readItems(text)) draft.take(item);
  // "up to and including the space" after the first directory-signature.
  const start = text.startsWith("network-status-version ") ? 0 : -1;
  const end = text.indexOf(`\n${SIGNATURE_KEYWORD}`);
  if (start < 0 || end < 0) throw malformed("a consensus without beginning or signature");
  return draft.finish(sha256(bytes.subarray(0, end + 1 + SIGNATURE_KEYWORD.length)));
}

class Draft {
  readonly #first = new Map<string, Item>();
  readonly #relays: ConsensusRelay[] = [];
  readonly #signatures: ConsensusSignature[] = [];
  #relay: Item[] = [];
  #isSigned = false;

  take(item: Item): void {
    // What follows the first signature is signed by nobody.
    if (this.#isSigned && item.keyword !== "directory-signature")
      throw malformed(`${item.keyword} after the signatures`);
    switch (item.keyword) {
      case "r":
        this.#endRelay();
        this.#relay = [item];
        return;
      case "directory-footer":
      case "bandwidth-weights":
        this.#endRelay();
        break;
      case "directory-signature":
        this.#endRelay();
        this.#isSigned = true;
        this.#signatures.push(...readSignature(item));
        if (this.#signatures.length > SIGNATURES_MAX) throw malformed("too many signatures");
        return;
      default:
        if (this.#relay.length > 0) {
          this.#relay.push(item);
          return;
        }
    }
    if (!this.#first.has(item.keyword)) this.#first.set(item.keyword, item);
  }

  finish(digest: Uint8Array): Consensus {
    const args = (keyword: string): readonly string[] => this.#first.get(keyword)?.args ?? [];
    const [version, flavour] = args("network-status-version");
    if (version !== "3" || flavour !== "microdesc") throw malformed("no consensus of microdescriptors");
    if (args("vote-status")[0] !== "consensus") throw malformed("a vote");
    const time = (keyword: string): number => parseTime(...args(keyword));
    const [validAfterMs, freshUntilMs, validUntilMs] = [
      time("valid-after"),
      time("fresh-until"),
      time("valid-until"),
    ];
    if (!(validAfterMs < freshUntilMs && freshUntilMs <= validUntilMs))
      throw malformed("times that are out of order");
    const random = (keyword: string): Uint8Array | undefined => {
      const value = args(keyword)[1];
      return value === undefined ? undefined : fromBase64(value, 32);
    };
    return {
      validAfterMs,
      freshUntilMs,
      validUntilMs,
      digest,
      parameters: parseNumbers(args("params")),
      sharedRandom: {
        previous: random("shared-rand-previous-value"),
        current: random("shared-rand-current-value"),
      },
      relays: this.#relays,
      weights: parseNumbers(args("bandwidth-weights")),
      signatures: this.#signatures,
    };
  }

  #endRelay(): void {
    if (this.#relay.length === 0) return;
    if (this.#relays.length >= RELAYS_MAX) throw malformed(`more than ${String(RELAYS_MAX)} relays`);
    this.#relays.push(readRelay(this.#relay));
    this.#relay = [];
  }
}

// Sample:
//   r r2 Cjcd8uHW8kQfi7CR8uMCaqGZLRQ 2038-01-01 00:00:00 127.2.2.3 21001 0
//   m legyVxG9QaOD5CQimfwEvO58sasNxZi5tafYmbMkqW0
//   s Exit Fast Guard HSDir Running Stable V2Dir Valid
//   pr Conflux=1 Cons=1-2 FlowCtrl=1-2 Relay=2-6
//   w Bandwidth=10000
function readRelay(items: readonly Item[]): ConsensusRelay {
  const args = (keyword: string): readonly string[] =>
    items.find((item) => item.keyword === keyword)?.args ?? [];
  const [nickname = "", identity = "", , , host = "", port = ""] = args("r");
  const [microdescriptor = ""] = args("m");
  const portNumber = Number(port);
  if (!/^[A-Za-z0-9]{1,19}$/u.test(nickname)) throw malformed("a relay without name");
  if (!/^(?:[0-9]{1,3}\.){3}[0-9]{1,3}$/u.test(host)) throw malformed("a relay without address");
  if (!/^[0-9]{1,5}$/u.test(port) || portNumber > 65_535) throw malformed("a relay without port");
  fromBase64(microdescriptor, 32);
  return {
    nickname,
    rsa: fromBase64(identity, 20),
    host,
    port: portNumber,
    flags: new Set(args("s")),
    microdescriptor: microdescriptor.replace(/=$/u, ""),
    protocols: readProtocols(args("pr")),
    bandwidth: Math.max(0, parseNumbers(args("w")).get("Bandwidth") ?? 0),
  };
}

// Sample: FlowCtrl=1-2 Relay=1,3-6
function readProtocols(words: readonly string[]): ConsensusRelay["protocols"] {
  const protocols = new Map<string, (readonly [number, number])[]>();
  for (const word of words) {
    const [name = "", list = ""] = word.split("=");
    const ranges = [...list.matchAll(/(?:^|,)([0-9]{1,2})(?:-([0-9]{1,2}))?(?=,|$)/gu)];
    protocols.set(
      name,
      ranges.map(([, from, to]) => [Number(from), Number(to ?? from)] as const),
    );
  }
  return protocols;
}

/** Whether the relay lists this version of a subprotocol (tor-spec 9). */
export function supports(relay: Pick<ConsensusRelay, "protocols">, name: string, version: number): boolean {
  return (relay.protocols.get(name) ?? []).some(([from, to]) => from <= version && version <= to);
}

/** Only SHA-256 signatures count in this flavour; others are skipped (dir-spec 3.9.2). */
function readSignature({ args, object }: Item): ConsensusSignature[] {
  const [algorithm, identity = "", signingKey = ""] = args;
  if (args.length < 3 || algorithm !== "sha256") return [];
  if (!object) throw malformed("a signature line without signature");
  return [
    {
      identity: hex(fromHex(identity)),
      signingKey: hex(fromHex(signingKey)),
      signature: object.bytes,
    },
  ];
}

/**
 * Returns when more than half of the authorities have signed, and the consensus is of now.
 * Throws ProtocolError `onion-consensus` otherwise. `staleMsMax`: how long after its end it may still be used.
 */
export function verifyConsensus(
  consensus: Consensus,
  trust: {
    readonly authorities: readonly Authority[];
    readonly certificates: readonly AuthorityCertificate[];
    readonly nowMs: number;
    readonly staleMsMax?: number;
  },
): void {
  const { nowMs, staleMsMax = 0 } = trust;
  const known = new Set(trust.authorities.map(({ identity }) => identity.toLowerCase()));
  const signers = new Set<string>();
  for (const { identity, signingKey, signature } of consensus.signatures) {
    const certificate = trust.certificates.find(
      (one) => one.identity === identity && one.signingKeyDigest === signingKey,
    );
    if (!known.has(identity) || !certificate || certificate.expiresMs < nowMs) continue;
    const signed = rsaSigned(certificate.signingKey, signature);
    if (signed && equal(signed, consensus.digest)) signers.add(identity);
  }
  const wanted = Math.floor(known.size / 2) + 1;
  if (known.size === 0 || signers.size < wanted)
    throw new ProtocolError(
      "onion-consensus",
      `Cannot trust consensus: ${String(signers.size)} authorities signed it, wanted ${String(wanted)}`,
    );
  // Written so that a time that is no number fails.
  if (!(consensus.validAfterMs <= nowMs + CLOCK_SKEW_MS && nowMs <= consensus.validUntilMs + staleMsMax))
    throw new ProtocolError("onion-consensus", "Cannot trust consensus: it is not of now");
}

/** How far our clock may be behind the authorities'. */
const CLOCK_SKEW_MS = 60_000;
