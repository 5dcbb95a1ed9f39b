// What a load balancer and its replicas say to each other: one short message each, [kind u8] and fields. Numbers are
// big-endian. Travels in a session between two boxes, which hides and authenticates it; parsed strictly on both sides.
// Whoever balances has an epoch: a replica listens to the highest that it has heard of, so that a load balancer that was
// replaced, and may not know it yet, changes nothing any more.

import { concat, fromUtf8, utf8 } from "../../src/base/bytes.ts";
import { ProtocolError } from "../../src/base/errors.ts";
import { FieldReader, u8, u16, u32, u64 } from "../../src/onion/fields.ts";
import { decodeMaterial, encodeMaterial, type RendezvousMaterial } from "../../src/onion/service/handover.ts";
import { LoadBalancerLimits as Limits, type Serve } from "../../src/wire/loadbalancer.ts";

/** The argument that a replica is started with. */
export type ReplicaStart = {
  readonly version: 1;
  readonly epoch: number;
  /** The port that clients name. */
  readonly virtualPort: number;
  /** Takes the site and ends: so that a replica that is started here later has it at once. */
  readonly isRehearsal?: boolean;
  readonly serve: /** The site's bytes follow where the replica says that it has them not. */
    | { readonly kind: "files"; readonly siteBytes: number; readonly siteDigest: string }
    | Extract<Serve, { kind: "target" }>;
};

export type ReplicaCommand =
  /** The next bytes of the site. */
  | { readonly kind: "site"; readonly bytes: Uint8Array }
  | {
      readonly kind: "meet";
      readonly epoch: number;
      readonly number: number;
      readonly material: RendezvousMaterial;
    }
  /** Says who balances from now on, and whether reports tell of each client. */
  | { readonly kind: "settings"; readonly epoch: number; readonly tellsClients: boolean }
  /** End when the last client has gone. */
  | { readonly kind: "retire"; readonly epoch: number }
  /** End now. */
  | { readonly kind: "end"; readonly epoch: number };

export interface ClientLoad {
  readonly id: number;
  readonly bytesPerSecond: number;
  readonly bytesTotal: number;
  readonly ageMs: number;
}

export interface ReplicaLoad {
  readonly connections: number;
  readonly bytesPerSecond: number;
  readonly bytesTotal: number;
  readonly cpuPercent: number;
  /** Clients met and not met since the replica began. */
  readonly met: number;
  readonly failed: number;
  /** Introductions of this epoch that it has done with: what was given beyond is still to come. */
  readonly answered: number;
  readonly clients: readonly ClientLoad[];
}

/** Each with the highest epoch that the replica has heard of. */
export type ReplicaMessage = { readonly epoch: number } & (
  | { readonly kind: "hello"; readonly needsSite: boolean }
  | { readonly kind: "serving" }
  | { readonly kind: "load"; readonly load: ReplicaLoad }
  | { readonly kind: "met"; readonly number: number }
  | { readonly kind: "failed"; readonly number: number; readonly reason: string }
  /** The last one: it was asked to end, and has no client. */
  | { readonly kind: "done" }
);

const COMMAND = { site: 1, meet: 2, settings: 3, retire: 4, end: 5 } as const;
const MESSAGE = { hello: 1, serving: 2, load: 3, met: 4, failed: 5, done: 6 } as const;
/** Bytes of a reason on the wire. */
const REASON_BYTES_MAX = 200;

export function encodeCommand(command: ReplicaCommand): Uint8Array {
  const head = u8(COMMAND[command.kind]);
  switch (command.kind) {
    case "site":
      return concat([head, command.bytes]);
    case "meet":
      return concat([head, u32(command.epoch), u32(command.number), encodeMaterial(command.material)]);
    case "settings":
      return concat([head, u32(command.epoch), u8(command.tellsClients ? 1 : 0)]);
    case "retire":
    case "end":
      return concat([head, u32(command.epoch)]);
  }
}

/** Throws ProtocolError. */
export function decodeCommand(bytes: Uint8Array): ReplicaCommand {
  const reader = new FieldReader(bytes, "replica command");
  const kind = reader.u8();
  if (kind === COMMAND.site) return { kind: "site", bytes: reader.rest() };
  const epoch = reader.u32();
  switch (kind) {
    case COMMAND.meet:
      return { kind: "meet", epoch, number: reader.u32(), material: decodeMaterial(reader.rest()) };
    case COMMAND.settings: {
      const flags = reader.u8();
      reader.end();
      if (flags > 1) throw malformed(`flags ${flags}`);
      return { kind: "settings", epoch, tellsClients: flags === 1 };
    }
    case COMMAND.retire:
    case COMMAND.end:
      reader.end();
      return { kind: kind === COMMAND.end ? "end" : "retire", epoch };
    default:
      throw malformed(`command ${kind}`);
  }
}

export function encodeMessage(message: ReplicaMessage): Uint8Array {
  const head = concat([u8(MESSAGE[message.kind]), u32(message.epoch)]);
  switch (message.kind) {
    case "hello":
      return concat([head, u8(message.needsSite ? 1 : 0)]);
    case "serving":
    case "done":
      return head;
    case "met":
      return concat([head, u32(message.number)]);
    case "failed": {
      const reason = utf8(message.reason.replace(/[^\x20-\x7e]/gu, "?")).subarray(0, REASON_BYTES_MAX);
      return concat([head, u32(message.number), reason]);
    }
    case "load":
      return concat([head, ...encodeLoad(message.load)]);
  }
}

function encodeLoad(load: ReplicaLoad): Uint8Array[] {
  return [
    u32(load.connections),
    count(load.bytesPerSecond),
    u64(load.bytesTotal),
    u16(Math.min(0xffff, Math.round(load.cpuPercent * 10))),
    u32(load.met),
    u32(load.failed),
    u32(load.answered),
    u8(load.clients.length),
    ...load.clients.flatMap((client) => [
      u32(client.id),
      count(client.bytesPerSecond),
      u64(client.bytesTotal),
      count(client.ageMs),
    ]),
  ];
}

/** A whole number of 32 bits, or the largest. */
function count(value: number): Uint8Array {
  return u32(Math.min(0xffff_ffff, Math.max(0, Math.round(value))));
}

/** Throws ProtocolError. */
export function decodeMessage(bytes: Uint8Array): ReplicaMessage {
  const reader = new FieldReader(bytes, "replica message");
  const kind = reader.u8();
  const epoch = reader.u32();
  const message = decodeBody(kind, epoch, reader);
  reader.end();
  return message;
}

function decodeBody(kind: number, epoch: number, reader: FieldReader): ReplicaMessage {
  switch (kind) {
    case MESSAGE.hello:
      return { kind: "hello", epoch, needsSite: reader.u8() === 1 };
    case MESSAGE.serving:
      return { kind: "serving", epoch };
    case MESSAGE.done:
      return { kind: "done", epoch };
    case MESSAGE.met:
      return { kind: "met", epoch, number: reader.u32() };
    case MESSAGE.failed: {
      const number = reader.u32();
      if (reader.remaining > REASON_BYTES_MAX) throw malformed("a reason that is too long");
      return {
        kind: "failed",
        epoch,
        number,
        reason: fromUtf8(reader.rest()).replace(/[^\x20-\x7e]/gu, "?"),
      };
    }
    case MESSAGE.load:
      return { kind: "load", epoch, load: decodeLoad(reader) };
    default:
      throw malformed(`message ${kind}`);
  }
}

function decodeLoad(reader: FieldReader): ReplicaLoad {
  return {
    connections: reader.u32(),
    bytesPerSecond: reader.u32(),
    bytesTotal: wholeU64(reader),
    cpuPercent: reader.u16() / 10,
    met: reader.u32(),
    failed: reader.u32(),
    answered: reader.u32(),
    clients: decodeClients(reader),
  };
}

function decodeClients(reader: FieldReader): ClientLoad[] {
  const length = reader.u8();
  if (length > Limits.clientsShownMax) throw malformed(`${length} clients`);
  return Array.from({ length }, () => ({
    id: reader.u32(),
    bytesPerSecond: reader.u32(),
    bytesTotal: wholeU64(reader),
    ageMs: reader.u32(),
  }));
}

/** Above 2^53 it would not be exact, and is not believed. Throws ProtocolError. */
function wholeU64(reader: FieldReader): number {
  const value = reader.u32() * 2 ** 32 + reader.u32();
  if (!Number.isSafeInteger(value)) throw malformed("a number that is too large");
  return value;
}

function malformed(found: string): ProtocolError {
  return new ProtocolError("replica-protocol", `Cannot read message: ${found}`);
}

/** The argument of an invocation, which whoever holds the token chooses. Throws Error. */
export function checkedReplicaStart(given: unknown): ReplicaStart {
  const { version, epoch, virtualPort, serve, isRehearsal = false } = (given ?? {}) as Partial<ReplicaStart>;
  if (version !== 1 || !isWhole(epoch, 0, 0xffff_ffff) || !isWhole(virtualPort, 1, 0xffff) || !isServe(serve))
    throw new Error("Cannot serve: the request is malformed");
  return { version, epoch, virtualPort, serve, ...(isRehearsal ? { isRehearsal } : {}) };
}

function isServe(value: ReplicaStart["serve"] | undefined): value is ReplicaStart["serve"] {
  if (value?.kind === "files")
    return (
      isWhole(value.siteBytes, 0, Limits.siteBytesMax) &&
      typeof value.siteDigest === "string" &&
      /^[0-9a-f]{64}$/u.test(value.siteDigest)
    );
  return value?.kind === "target" && typeof value.host === "string" && isWhole(value.port, 1, 0xffff);
}

function isWhole(value: unknown, from: number, to: number): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= from && value <= to;
}
