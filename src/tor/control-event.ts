// Asynchronous events of the control port as typed values; fields we do not know stay readable in `keywords`.
// Spec: control-spec section 4.1.

import { parseArguments, type Reply } from "./control-reply.ts";

/** What every event carries: the line as sent, split, with unknown fields kept. */
interface EventFields {
  readonly name: string;
  readonly positional: readonly string[];
  readonly keywords: ReadonlyMap<string, string>;
  /** The data block of events such as HS_DESC_CONTENT and NS, else "". */
  readonly data: string;
}

export interface CircuitEvent extends EventFields {
  readonly kind: "CIRC";
  readonly circuitId: string;
  /** LAUNCHED, GUARD_WAIT, EXTENDED, BUILT, FAILED, CLOSED. */
  readonly status: string;
  /** Fingerprints, upper-case hex without `$`, from the guard on. */
  readonly path: readonly string[];
  readonly purpose: string | undefined;
  readonly reason: string | undefined;
  readonly remoteReason: string | undefined;
}

export interface StreamEvent extends EventFields {
  readonly kind: "STREAM";
  readonly streamId: string;
  /** NEW, NEWRESOLVE, REMAP, SENTCONNECT, SENTRESOLVE, SUCCEEDED, FAILED, CLOSED, DETACHED, CONTROLLER_WAIT. */
  readonly status: string;
  /** "0" when not attached. */
  readonly circuitId: string;
  /** `host:port` as asked for. */
  readonly target: string;
  readonly reason: string | undefined;
  readonly remoteReason: string | undefined;
  readonly purpose: string | undefined;
  readonly sourceAddress: string | undefined;
  readonly socksUsername: string | undefined;
}

export interface OnionDescriptorEvent extends EventFields {
  readonly kind: "HS_DESC";
  /** REQUESTED, UPLOAD, RECEIVED, UPLOADED, IGNORE, FAILED, CREATED. */
  readonly action: string;
  /** The onion address without ".onion"; UNKNOWN where tor does not know. */
  readonly address: string;
  readonly directory: string;
  readonly reason: string | undefined;
}

export interface StatusEvent extends EventFields {
  readonly kind: "STATUS";
  readonly severity: string;
  readonly action: string;
}

export interface BandwidthEvent extends EventFields {
  readonly kind: "BW";
  readonly readBytes: number;
  readonly writtenBytes: number;
}

export interface OtherEvent extends EventFields {
  readonly kind: "OTHER";
}

export type ControlEvent =
  | CircuitEvent
  | StreamEvent
  | OnionDescriptorEvent
  | StatusEvent
  | BandwidthEvent
  | OtherEvent;

// Samples (after "650 "):
//   CIRC 12 BUILT $AB..(40 hex)~a0,$CD..~e1 BUILD_FLAGS=NEED_CAPACITY PURPOSE=GENERAL TIME_CREATED=2026-11-20T..
//   STREAM 7 NEW 0 example.com:80 SOURCE_ADDR=127.0.0.1:4312 PURPOSE=USER SOCKS_USERNAME="x"
//   HS_DESC UPLOADED abc..(56) UNKNOWN $AB..~r0
//   STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"
//   BW 1024 2048
/** Reads an event reply (code 650). Missing fields become "". Throws ProtocolError on malformed quoting. */
export function parseEvent(reply: Reply): ControlEvent {
  const first = reply.lines[0];
  const { positional: all, keywords } = parseArguments(first?.text ?? "");
  const [name = "", ...positional] = all;
  const at = (index: number) => positional[index] ?? "";
  const fields = {
    name,
    positional,
    keywords,
    data: reply.lines.find((line) => line.data !== undefined)?.data ?? "",
  };
  switch (name) {
    case "CIRC":
      return {
        ...fields,
        kind: "CIRC",
        circuitId: at(0),
        status: at(1),
        path: parsePath(at(2)),
        purpose: keywords.get("PURPOSE"),
        reason: keywords.get("REASON"),
        remoteReason: keywords.get("REMOTE_REASON"),
      };
    case "STREAM":
      return {
        ...fields,
        kind: "STREAM",
        streamId: at(0),
        status: at(1),
        circuitId: at(2),
        target: at(3),
        reason: keywords.get("REASON"),
        remoteReason: keywords.get("REMOTE_REASON"),
        purpose: keywords.get("PURPOSE"),
        sourceAddress: keywords.get("SOURCE_ADDR"),
        socksUsername: keywords.get("SOCKS_USERNAME"),
      };
    case "HS_DESC":
      return {
        ...fields,
        kind: "HS_DESC",
        action: at(0),
        address: at(1),
        directory: at(3),
        reason: keywords.get("REASON"),
      };
    case "STATUS_CLIENT":
    case "STATUS_GENERAL":
    case "STATUS_SERVER":
      return { ...fields, kind: "STATUS", severity: at(0), action: at(1) };
    case "BW":
      return { ...fields, kind: "BW", readBytes: Number(at(0)), writtenBytes: Number(at(1)) };
    default:
      return { ...fields, kind: "OTHER" };
  }
}

// Sample: $9695DFC35FFEB861329B9F1AB04C46397020CE31~moria1,$847B...=old
function parsePath(text: string): string[] {
  return text
    .split(",")
    .map((relay) => /^\$([0-9A-Fa-f]{40})(?:[~=]|$)/u.exec(relay)?.[1]?.toUpperCase())
    .filter((fingerprint) => fingerprint !== undefined);
}
