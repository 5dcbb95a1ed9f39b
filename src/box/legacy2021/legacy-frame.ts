// The binary protocol of the 2021 release, as bytes (spec/protocol-2021 2). Its peers are clients of that release:
// untrusted, and not written by us. Integers are big-endian. There is no version and no length limit in the
// protocol; the limits here are ours.
//
//   client -> box   [type u8] [length u32] [payload]
//     00 store     JSON {"name", "code"}           02 open    execution id, 36 characters
//     01 execute   JSON {"call", "token"}          03 close   execution id
//   box -> client   [type u8] [status u8: 0 ok, 1 error] [length u32] [text]      answers to store and execute
//   both ways       [type u8] [length u32] [execution id: 36 bytes] [data]
//     04 data, one whole message                   05 error or end, as text       (box -> client only)
//
//   02 00 00 00 24 "0d8f…"                          open

import { ByteQueue } from "../../base/byte-queue.ts";
import { concat, fromUtf8, utf8, view } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { Limits } from "../../wire/limits.ts";

export const LEGACY_TYPE = { store: 0, execute: 1, open: 2, close: 3, data: 4, error: 5 } as const;

const REQUEST_HEADER_BYTES = 5;
const ID_BYTES = 36;
/** JSON escapes may make text longer than what it says, at most six times for the ASCII that this client sends. */
const JSON_OVERHEAD = 6;

/** Largest payload of each request: bytes. */
const PAYLOAD_BYTES_MAX: Readonly<Record<number, number>> = {
  [LEGACY_TYPE.store]: 2 * Limits.packageBytesMax,
  [LEGACY_TYPE.execute]: JSON_OVERHEAD * Limits.argumentBytesMax,
  [LEGACY_TYPE.open]: ID_BYTES,
  [LEGACY_TYPE.close]: ID_BYTES,
  [LEGACY_TYPE.data]: ID_BYTES + Limits.inputMessageBytesMax,
};

export type LegacyRequest =
  | { readonly kind: "store"; readonly name: string; readonly code: string }
  | { readonly kind: "execute"; readonly call: string; readonly token: string }
  | { readonly kind: "open" | "close"; readonly id: string }
  | { readonly kind: "data"; readonly id: string; readonly data: Uint8Array };

/** Cuts what a client sends into requests. Holds at most one. */
export class LegacySplitter {
  readonly #held = new ByteQueue();

  /** Whether a request has begun and not ended. */
  get isInside(): boolean {
    return this.#held.length > 0;
  }

  /** Throws ProtocolError on an unknown type, a length above the limit, or a payload of another form. */
  *push(chunk: Uint8Array): Generator<LegacyRequest> {
    this.#held.push(chunk);
    for (;;) {
      const header = this.#held.peek(REQUEST_HEADER_BYTES);
      if (!header) return;
      const type = header[0] ?? 0;
      const length = view(header).getUint32(1);
      const bytesMax = PAYLOAD_BYTES_MAX[type];
      if (bytesMax === undefined) throw new ProtocolError("bad-request", "invalid request");
      if (length > bytesMax) {
        throw new ProtocolError("too-large", `request of ${length} bytes, at most ${bytesMax} are taken`);
      }
      const whole = this.#held.take(REQUEST_HEADER_BYTES + length);
      if (!whole) return;
      yield parseRequest(type, whole.subarray(REQUEST_HEADER_BYTES));
    }
  }
}

/** An answer to store or execute. */
export function encodeAnswer(type: number, isError: boolean, text: string): Uint8Array {
  const body = utf8(text);
  const header = new Uint8Array(6);
  header[0] = type;
  header[1] = isError ? 1 : 0;
  view(header).setUint32(2, body.length);
  return concat([header, body]);
}

/** What precedes `length` bytes of a message. */
export function encodeMessageHeader(type: 4 | 5, id: string, length: number): Uint8Array {
  const header = new Uint8Array(REQUEST_HEADER_BYTES);
  header[0] = type;
  view(header).setUint32(1, ID_BYTES + length);
  return concat([header, utf8(id)]);
}

function parseRequest(type: number, payload: Uint8Array): LegacyRequest {
  switch (type) {
    case LEGACY_TYPE.store: {
      const [name, code] = strings(payload, ["name", "code"]);
      return { kind: "store", name, code };
    }
    case LEGACY_TYPE.execute: {
      const [call, token] = strings(payload, ["call", "token"]);
      return { kind: "execute", call, token };
    }
    case LEGACY_TYPE.open:
      return { kind: "open", id: idOf(payload) };
    case LEGACY_TYPE.close:
      return { kind: "close", id: idOf(payload) };
    default:
      return { kind: "data", id: idOf(payload.subarray(0, ID_BYTES)), data: payload.subarray(ID_BYTES) };
  }
}

/** Two string members of a JSON object. */
function strings(payload: Uint8Array, names: readonly [string, string]): [string, string] {
  let value: unknown;
  try {
    value = JSON.parse(fromUtf8(payload));
  } catch (cause) {
    throw new ProtocolError("bad-request", "request is not JSON", { cause });
  }
  const member = (name: string): string => {
    const found: unknown =
      typeof value === "object" && value !== null && Object.hasOwn(value, name) && Reflect.get(value, name);
    if (typeof found !== "string") throw new ProtocolError("bad-request", `request lacks ${name}`);
    return found;
  };
  return [member(names[0]), member(names[1])];
}

/** Text of 36 bytes; whether it names anything is for the caller to find out. */
function idOf(bytes: Uint8Array): string {
  if (bytes.length !== ID_BYTES) throw new ProtocolError("bad-request", "execution id is not 36 bytes");
  return Buffer.from(bytes).toString("latin1");
}
