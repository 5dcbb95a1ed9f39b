// Relay messages, what circuits carry: the header inside a cell's payload, and the bodies of the messages that we use.
// Bodies come from the hop that the digest proved, or from an onion service's client: parsed, bounded, hostile.
// Spec: tor-spec 6.1 (header), 6.2 (BEGIN, CONNECTED), 6.3 (END), 7.3 (SENDME), 5.1.2 (EXTEND2); proposal 324 4.1 (XON, XOFF).

import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { random } from "../crypto/primitives.ts";
import { FieldReader, u8, u16, u32 } from "../fields.ts";
import { CELL_BODY_BYTES } from "../link/cell.ts";

/** tor-spec 6.1 and rend-spec-v3 1.5 (32-40). */
export const RELAY = {
  begin: 1,
  data: 2,
  end: 3,
  connected: 4,
  sendme: 5,
  truncated: 9,
  drop: 10,
  resolve: 11,
  resolved: 12,
  beginDir: 13,
  extend2: 14,
  extended2: 15,
  establishIntro: 32,
  establishRendezvous: 33,
  introduce1: 34,
  introduce2: 35,
  rendezvous1: 36,
  rendezvous2: 37,
  introEstablished: 38,
  rendezvousEstablished: 39,
  introduceAck: 40,
  // The specification of 2023 has these two the other way round; relays and clients do as here.
  xoff: 43,
  xon: 44,
} as const;

const HEADER_BYTES = 11;
export const RELAY_DATA_BYTES = CELL_BODY_BYTES - HEADER_BYTES;

export interface RelayMessage {
  readonly command: number;
  readonly streamId: number;
  /** A view of the cell. */
  readonly data: Uint8Array;
}

/** A cell payload with zeros where the digest comes. */
export function encodeRelay(message: RelayMessage): Uint8Array {
  const body = new Uint8Array(CELL_BODY_BYTES);
  writeRelay(body, message);
  return body;
}

/** As `encodeRelay`, into CELL_BODY_BYTES that are zero. */
export function writeRelay(body: Uint8Array, { command, streamId, data }: RelayMessage): void {
  body[0] = command;
  body[3] = streamId >>> 8;
  body[4] = streamId;
  body[9] = data.length >>> 8;
  body[10] = data.length;
  body.set(data, HEADER_BYTES);
  // tor-spec 6.1: four zero bytes, then random ones, so that the cell's content cannot be predicted.
  const padFrom = HEADER_BYTES + data.length + 4;
  if (padFrom < body.length) body.set(random(body.length - padFrom), padFrom);
}

/** Reads a payload whose digest was right. Throws ProtocolError `onion-relay-cell`. */
export function decodeRelay(body: Uint8Array): RelayMessage {
  const length = ((body[9] ?? 0) << 8) | (body[10] ?? 0);
  if (length > RELAY_DATA_BYTES)
    throw new ProtocolError(
      "onion-relay-cell",
      `Cannot read relay cell: ${String(length)} bytes of data, at most ${String(RELAY_DATA_BYTES)}`,
    );
  return {
    command: body[0] ?? 0,
    streamId: ((body[3] ?? 0) << 8) | (body[4] ?? 0),
    data: body.subarray(HEADER_BYTES, HEADER_BYTES + length),
  };
}

/** tor-spec 6.3: why a stream ended. */
export const END_REASON = {
  misc: 1,
  resolveFailed: 2,
  connectRefused: 3,
  exitPolicy: 4,
  destroy: 5,
  done: 6,
  timeout: 7,
  noRoute: 8,
  hibernating: 9,
  internal: 10,
  resourceLimit: 11,
  connectionReset: 12,
  protocol: 13,
  notDirectory: 14,
} as const;
const END_REASON_NAMES = new Map<number, string>(
  Object.entries(END_REASON).map(([name, code]) => [code, name]),
);

export function endReasonName(code: number): string {
  return END_REASON_NAMES.get(code) ?? `reason ${String(code)}`;
}

/** tor-spec 5.4: why a circuit was destroyed. */
export const DESTROY_REASON = {
  none: 0,
  protocol: 1,
  internal: 2,
  requested: 3,
  hibernating: 4,
  resourceLimit: 5,
  connectFailed: 6,
  wrongIdentity: 7,
  channelClosed: 8,
  finished: 9,
  timeout: 10,
  destroyed: 11,
  noService: 12,
} as const;
const DESTROY_REASON_NAMES = new Map<number, string>(
  Object.entries(DESTROY_REASON).map(([name, code]) => [code, name]),
);

export function destroyReasonName(code: number): string {
  return DESTROY_REASON_NAMES.get(code) ?? `reason ${String(code)}`;
}

/** tor-spec 6.2. `host` is a name or an address; IPv6 without brackets. */
export function encodeBegin(host: string, port: number): Uint8Array {
  const address = host.includes(":") ? `[${host}]` : host;
  return concat([utf8(`${address.toLowerCase()}:${String(port)}`), u8(0), u32(0)]);
}

// Samples: "example.com:80\0" and four bytes of flags; to onion services ":80\0" (rend-spec-v3 4.3) without flags.
/** Throws ProtocolError. `host` is "" in what clients send to onion services. */
export function decodeBegin(data: Uint8Array): { readonly host: string; readonly port: number } {
  const nul = data.indexOf(0);
  const text = String.fromCharCode(...data.subarray(0, nul < 0 ? data.length : nul));
  const match = /^([\x21-\x7e]*):([0-9]{1,5})$/u.exec(text);
  const port = Number(match?.[2]);
  if (nul < 0 || !match || port < 1 || port > 65_535)
    throw new ProtocolError("onion-relay-cell", "Cannot read BEGIN: wanted host:port and a zero byte");
  return { host: (match[1] ?? "").replace(/^\[(.*)\]$/u, "$1").toLowerCase(), port };
}

/** Proposal 289: version 1, digest of the cell that made this SENDME due. */
export function encodeSendme(digest: Uint8Array): Uint8Array {
  return concat([u8(1), u16(20), digest.subarray(0, 20)]);
}

/** The digest of a version 1 SENDME; undefined for version 0, which proves nothing. */
export function decodeSendme(data: Uint8Array): Uint8Array | undefined {
  if (data.length === 0) return undefined;
  const reader = new FieldReader(data, "SENDME");
  if (reader.u8() !== 1) return undefined;
  const length = reader.u16();
  if (length < 20) throw new ProtocolError("onion-relay-cell", "Cannot read SENDME: its digest is cut");
  return reader.bytes(length).subarray(0, 20);
}

/** Proposal 324 4.1: version 0, and 1000 bytes a second; 0 means no limit. */
export function encodeXon(kilobytesPerS: number): Uint8Array {
  return concat([u8(0), u32(kilobytesPerS)]);
}

export function decodeXon(data: Uint8Array): number {
  const reader = new FieldReader(data, "XON");
  checkVersion(reader.u8(), "XON");
  return reader.u32();
}

export function encodeXoff(): Uint8Array {
  return u8(0);
}

export function checkXoff(data: Uint8Array): void {
  checkVersion(new FieldReader(data, "XOFF").u8(), "XOFF");
}

// "Parties SHOULD treat XON or XOFF cells with unrecognized versions as a protocol violation."
function checkVersion(version: number, what: string): void {
  if (version !== 0)
    throw new ProtocolError("onion-relay-cell", `Cannot read ${what}: version ${String(version)}, wanted 0`);
}
