// The link handshake, initiator's side, as steps from bytes to bytes. We prove nothing about ourselves: clients and
// onion services have no identity on links.
// Boundary: the relay at the other end of the TLS connection, until its CERTS cell has proved who it is.
// Spec: tor-spec 4 "Negotiating and initializing connections".

import { concat } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { equal } from "../crypto/primitives.ts";
import { FieldReader, hex, u8, u32 } from "../fields.ts";
import { HANDSHAKE_CELLS_MAX } from "../limits.ts";
import { CELL, type Cell, CellParser, fixedCell, versionsCell } from "./cell.ts";
import { checkCerts, type RelayIdentity } from "./certs-cell.ts";

/** 4: circuit ids of 4 bytes. 5: link padding can be negotiated. */
export const LINK_VERSIONS = [4, 5] as const;
export type LinkVersion = (typeof LINK_VERSIONS)[number];

export interface HandshakeOptions {
  /** SHA-256 of the certificate that the peer showed in the TLS handshake. 32 bytes. */
  readonly tlsCertificate: Uint8Array;
  /** Whom we want to reach: each identity given must be proved. */
  readonly expect: Partial<RelayIdentity>;
  /** Unix milliseconds. */
  readonly nowMs: number;
}

export interface LinkOpened {
  readonly version: LinkVersion;
  readonly peer: RelayIdentity;
  /** The peer's clock minus ours, in seconds; undefined when it does not say. It may lie. */
  readonly clockSkewS: number | undefined;
  /** Goes on with what arrived after the handshake. */
  readonly parser: CellParser;
}

export interface HandshakeStep {
  /** To be sent now; may be empty. */
  readonly send: Uint8Array;
  /** Set by the step that completes the handshake. */
  readonly opened?: LinkOpened;
}

type Phase = "versions" | "certs" | "netinfo" | "done";

export class LinkHandshake {
  readonly #options: HandshakeOptions;
  readonly #parser = new CellParser();
  #phase: Phase = "versions";
  #version: LinkVersion = 4;
  #peer: RelayIdentity | undefined;
  #isChallenged = false;
  #cells = 0;

  constructor(options: HandshakeOptions) {
    this.#options = options;
  }

  /** tor-spec 4.1: the initiator's VERSIONS cell comes first. */
  start(): Uint8Array {
    return versionsCell(LINK_VERSIONS);
  }

  /** Takes any cut of the peer's bytes. Throws ProtocolError: the connection must be closed. */
  receive(chunk: Uint8Array): HandshakeStep {
    this.#parser.push(chunk);
    for (;;) {
      const cell = this.#parser.next();
      if (!cell) return { send: new Uint8Array(0) };
      if (++this.#cells > HANDSHAKE_CELLS_MAX)
        throw refused(`more than ${String(HANDSHAKE_CELLS_MAX)} cells before NETINFO`);
      const opened = this.#take(cell);
      if (opened) return { send: ownNetinfo(), opened };
    }
  }

  #take(cell: Cell): LinkOpened | undefined {
    // "either side may send VPADDING cells at any time"
    if (cell.command === CELL.vpadding) return undefined;
    if (cell.command === CELL.versions && this.#phase === "versions") {
      this.#version = agree(cell.body);
      this.#parser.widen();
      this.#phase = "certs";
      return undefined;
    }
    // "Any VERSIONS cells sent after the first VERSIONS cell MUST be ignored."
    if (cell.command === CELL.versions) return undefined;
    if (cell.command === CELL.certs && this.#phase === "certs") {
      this.#peer = this.#authenticate(cell.body);
      this.#phase = "netinfo";
      return undefined;
    }
    // tor-spec 4.3: the challenge is for initiators that prove an identity. It must be well formed all the same.
    if (cell.command === CELL.authChallenge && this.#phase === "netinfo" && !this.#isChallenged) {
      readAuthChallenge(cell.body);
      this.#isChallenged = true;
      return undefined;
    }
    if (cell.command === CELL.netinfo && this.#phase === "netinfo" && this.#peer) {
      this.#phase = "done";
      const clockSkewS = readNetinfo(cell.body, this.#options.nowMs);
      return { version: this.#version, peer: this.#peer, clockSkewS, parser: this.#parser };
    }
    throw refused(`cell ${String(cell.command)} while waiting for ${this.#phase.toUpperCase()}`);
  }

  #authenticate(body: Uint8Array): RelayIdentity {
    const { tlsCertificate, nowMs, expect } = this.#options;
    const peer = checkCerts(body, { tlsCertificate, nowMs });
    for (const kind of ["ed25519", "rsa"] as const) {
      const wanted = expect[kind];
      if (wanted && !equal(wanted, peer[kind]))
        throw new ProtocolError(
          "onion-wrong-relay",
          `Cannot open link: the relay has ${kind} identity ${hex(peer[kind])}, wanted ${hex(wanted)}`,
        );
    }
    return peer;
  }
}

/** tor-spec 4.1: the highest number in both lists. */
function agree(body: Uint8Array): LinkVersion {
  if (body.length % 2 !== 0) throw refused("an odd number of bytes in VERSIONS");
  const reader = new FieldReader(body, "VERSIONS cell");
  const theirs = new Set<number>();
  while (reader.remaining > 0) theirs.add(reader.u16());
  const version = LINK_VERSIONS.findLast((one) => theirs.has(one));
  if (version === undefined) throw refused(`link versions ${[...theirs].join(" ")}, wanted 4 or 5`);
  return version;
}

/** tor-spec 4.3: challenge, number of methods, methods. */
function readAuthChallenge(body: Uint8Array): void {
  const reader = new FieldReader(body, "AUTH_CHALLENGE cell");
  reader.bytes(32);
  reader.bytes(2 * reader.u16());
}

/** tor-spec 4.5. Addresses are parsed for form's sake: we trust none of them. */
function readNetinfo(body: Uint8Array, nowMs: number): number | undefined {
  const reader = new FieldReader(body, "NETINFO cell");
  const timestamp = reader.u32();
  readAddress(reader);
  for (let left = reader.u8(); left > 0; left--) readAddress(reader);
  return timestamp === 0 ? undefined : timestamp - Math.round(nowMs / 1000);
}

function readAddress(reader: FieldReader): void {
  reader.u8();
  reader.bytes(reader.u8());
}

/** tor-spec 4.5: "Clients SHOULD send 0 as their timestamp"; they also keep the address that they see to themselves. */
function ownNetinfo(): Uint8Array {
  const unspecified = concat([u8(4), u8(4), u32(0)]);
  return fixedCell(0, CELL.netinfo, concat([u32(0), unspecified, u8(0)]));
}

function refused(found: string): ProtocolError {
  return new ProtocolError("onion-link", `Cannot open link: ${found}`);
}
