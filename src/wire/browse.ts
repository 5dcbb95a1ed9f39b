// What a client sends to a browser function and how answers are shaped (spec/browse): the settings of a session and
// its requests, both of constant size. Pure; used on both sides. The function does not trust the client, nor the
// client the function: each decoder is bounded and throws.
//
//   00 00 00 2a  {"id":1,"url":"http://a.test/","method":"GET"}  00 00 00 00  00 00 ...      2048 bytes
//   head length  head, JSON                                      body length  fill up to the step

import { concat, fromUtf8, utf8, view } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import { DigestLimits } from "./digest.ts";

/** Sizes of a request message: the smallest that holds it. What does not fit the last is not sent. */
export const REQUEST_STEPS = [2048, 16_384, 131_072, 1_048_576] as const;

/** A shaped answer consists of messages of exactly so many bytes. */
export const CELL_BYTES = 4096;

/** Rates that a client may choose for shaped answers, bytes per second: few, so that the choice tells little. */
export const RATES = [65_536, 131_072, 262_144, 524_288, 1_048_576, 2_097_152] as const;

export const BrowseLimits = {
  /** Sizes of one set. More would tell pages apart. */
  bucketsMax: 32,
  /** The largest size: an hour at the lowest rate would be twice as much. */
  bucketBytesMax: 128 * 1024 * 1024,
  /** Requests that wait at the box for the one before. */
  requestsWaitingMax: 8,
  /** Head of a request: two URLs and a media type as JSON, escapes included. */
  headBytesMax: 65_536,
  /** Media type of a body. */
  typeBytesMax: 256,
  /** Letters of `fill`. */
  fillLengthMax: 4096,
  deadlineMsMin: 1000,
  deadlineMsMax: 300_000,
  bytesMaxMin: 64 * 1024,
  bytesMaxMax: 64 * 1024 * 1024,
} as const;

/** How the bytes of an answer leave the box. */
export type Shape =
  /** As they come; the whole is a multiple of `pad` bytes, 0 for no padding. Load time and structure show. */
  | { readonly kind: "none"; readonly pad: number }
  /**
   * One cell every CELL_BYTES / rate seconds from the first moment on, as many as make up one of `bytes`: ascending
   * multiples of CELL_BYTES. The last is where every page ends.
   */
  | { readonly kind: "bucket"; readonly bytes: readonly number[]; readonly rate: number };

/** The only argument of an invocation in session mode. */
export interface BrowseSettings {
  readonly shape: Shape;
  /** "rendered" runs the page in a browser at the box: only boxes that offer one take its manifest. */
  readonly engine: "static" | "rendered";
  /** When fetching stops, whatever has come: milliseconds from the request. The last bucket may end it earlier. */
  readonly deadlineMs: number;
  /** All bodies of one page together: bytes. */
  readonly bytesMax: number;
  /** Whether scripts are fetched by the static engine. Written pages never hold them; an archive may. */
  readonly scripts: boolean;
  /** What servers are told; undefined for Tor Browser's. */
  readonly userAgent: string | undefined;
}

export interface BrowseRequest {
  /** Chosen by the client, counted up from 1: for its own use and for messages. Answers come in order of requests. */
  readonly id: number;
  /** http or https, without user and password. A fragment is not sent on. */
  readonly url: string;
  readonly method: "GET" | "POST";
  /** Of a POST: an encoded form. */
  readonly body: { readonly type: string; readonly bytes: Uint8Array } | undefined;
  /** The page whose link or form this is; decides Referer, Origin and which cookies go along. */
  readonly referrer: string | undefined;
  /** The requests before this one are no longer wanted: they fetch no more and end at their next size. */
  readonly stop: boolean;
}

export const BROWSE_DEFAULTS = {
  engine: "static",
  deadlineMs: 30_000,
  bytesMax: 32 * 1024 * 1024,
  scripts: true,
  userAgent: undefined,
} as const satisfies Omit<BrowseSettings, "shape">;

/** The message for `request`: as long as the smallest step that holds it. Throws RangeError when none does. */
export function encodeRequest(request: BrowseRequest): Uint8Array {
  const { id, url, method, body, referrer, stop } = request;
  const head = utf8(
    JSON.stringify({ id, url, method, type: body?.type, referrer, ...(stop ? { stop } : {}) }),
  );
  const bytes = body?.bytes ?? new Uint8Array();
  const length = head.length + bytes.length + 8;
  const step = REQUEST_STEPS.find((one) => one >= length);
  if (step === undefined || head.length > BrowseLimits.headBytesMax) {
    throw new RangeError(
      `Cannot send request: found ${length} bytes, expected at most ${REQUEST_STEPS.at(-1)}`,
    );
  }
  return concat([u32(head.length), head, u32(bytes.length), bytes, new Uint8Array(step - length)]);
}

/** Throws ProtocolError. The body is a view of `message`. */
export function decodeRequest(message: Uint8Array): BrowseRequest {
  if (!REQUEST_STEPS.some((one) => one === message.length)) throw bad(`a message of ${message.length} bytes`);
  const headLength = view(message).getUint32(0);
  if (headLength > Math.min(BrowseLimits.headBytesMax, message.length - 8)) {
    throw bad(`a head of ${headLength} bytes`);
  }
  const bodyLength = view(message).getUint32(4 + headLength);
  if (bodyLength > message.length - 8 - headLength) throw bad(`a body of ${bodyLength} bytes`);
  const bodyAt = 8 + headLength;
  return checkHead(
    parseHead(message.subarray(4, 4 + headLength)),
    message.subarray(bodyAt, bodyAt + bodyLength),
  );
}

function parseHead(bytes: Uint8Array): object {
  let head: unknown;
  try {
    head = JSON.parse(fromUtf8(bytes));
  } catch (cause) {
    throw new ProtocolError("bad-request", "Cannot read request: found a head that is not JSON", { cause });
  }
  if (typeof head !== "object" || head === null || Array.isArray(head)) throw bad("a head that is no object");
  return head;
}

function checkHead(head: object, bytes: Uint8Array): BrowseRequest {
  const get = (name: string): unknown => Reflect.get(head, name);
  const [id, url, method, type, referrer] = ["id", "url", "method", "type", "referrer"].map(get);
  if (typeof id !== "number" || !Number.isSafeInteger(id) || id < 1) throw bad("no id");
  if (!isFetchable(url)) throw bad("no http: or https: URL");
  if (method !== "GET" && method !== "POST") throw bad("a method that is neither GET nor POST");
  if (referrer !== undefined && !isFetchable(referrer)) throw bad("a referrer that is no URL");
  if (method === "GET") {
    if (type !== undefined || bytes.length > 0) throw bad("a GET with a body");
    return { id, url, method, body: undefined, referrer, stop: get("stop") === true };
  }
  if (typeof type !== "string" || !/^[\x20-\x7e]{1,256}$/.test(type)) throw bad("a body without a type");
  return { id, url, method, body: { type, bytes }, referrer, stop: get("stop") === true };
}

/** http or https, without credentials, no longer than a digest can name. */
export function isFetchable(text: unknown): text is string {
  const url = typeof text === "string" && text.length <= DigestLimits.urlBytesMax ? URL.parse(text) : null;
  return (
    url !== null &&
    (url.protocol === "http:" || url.protocol === "https:") &&
    url.username === "" &&
    url.password === "" &&
    utf8(url.href).length <= DigestLimits.urlBytesMax
  );
}

/**
 * The argument of the invocation, `{…settings, fill}`. `fill` is ignored by the function: it makes the JSON of argument
 * and `beside` (whatever else of variable length goes up with it: the manifest) a multiple of 2048 bytes.
 */
export function encodeSettings(
  settings: BrowseSettings,
  beside = "",
): Readonly<Record<string, never>> & { readonly fill: string } {
  const plain = { ...settings, fill: "" };
  const length = utf8(JSON.stringify(plain)).length + utf8(beside).length;
  const step = REQUEST_STEPS[0];
  const missing = (step - (length % step)) % step;
  return JSON.parse(JSON.stringify({ ...plain, fill: "-".repeat(missing) }));
}

/** Checks what an invocation was given. Throws ProtocolError. */
export function decodeSettings(given: unknown): BrowseSettings {
  if (typeof given !== "object" || given === null || Array.isArray(given))
    throw bad("settings that are no object");
  const known = ["shape", "engine", "deadlineMs", "bytesMax", "scripts", "userAgent", "fill"];
  for (const name of Object.keys(given)) {
    if (!known.includes(name)) throw bad(`a setting ${JSON.stringify(name.slice(0, 40))}`);
  }
  const get = (name: string): unknown => Reflect.get(given, name);
  const engine = get("engine") ?? BROWSE_DEFAULTS.engine;
  if (engine !== "static" && engine !== "rendered")
    throw bad("an engine that is neither static nor rendered");
  const scripts = get("scripts") ?? BROWSE_DEFAULTS.scripts;
  if (typeof scripts !== "boolean") throw bad("scripts that is neither true nor false");
  const userAgent = get("userAgent");
  if (userAgent !== undefined && (typeof userAgent !== "string" || !/^[\x20-\x7e]{1,256}$/.test(userAgent))) {
    throw bad("a user agent that is not 1 to 256 printable ASCII characters");
  }
  const fill = get("fill") ?? "";
  if (typeof fill !== "string" || fill.length > BrowseLimits.fillLengthMax) throw bad("too much fill");
  const { deadlineMsMin, deadlineMsMax, bytesMaxMin, bytesMaxMax } = BrowseLimits;
  return {
    shape: checkShape(get("shape") ?? { kind: "none", pad: 0 }),
    engine,
    deadlineMs: integer(
      "deadlineMs",
      get("deadlineMs") ?? BROWSE_DEFAULTS.deadlineMs,
      deadlineMsMin,
      deadlineMsMax,
    ),
    bytesMax: integer("bytesMax", get("bytesMax") ?? BROWSE_DEFAULTS.bytesMax, bytesMaxMin, bytesMaxMax),
    scripts,
    userAgent,
  };
}

/** Throws ProtocolError. */
export function checkShape(given: unknown): Shape {
  if (typeof given !== "object" || given === null) throw bad("a shape that is no object");
  const get = (name: string): unknown => Reflect.get(given, name);
  const kind = get("kind");
  if (kind === "none") return { kind, pad: integer("pad", get("pad"), 0, DigestLimits.paddingBytesMax) };
  if (kind !== "bucket") throw bad("a shape that is neither none nor bucket");
  const rate = RATES.find((one) => one === get("rate"));
  if (rate === undefined) throw bad(`a rate that is none of ${RATES.join(", ")}`);
  const sizes: unknown = get("bytes");
  if (!Array.isArray(sizes) || sizes.length < 1 || sizes.length > BrowseLimits.bucketsMax) {
    throw bad(`no list of 1 to ${BrowseLimits.bucketsMax} sizes`);
  }
  let last = 0;
  const bytes = sizes.map((size: unknown) => {
    const checked = integer("size", size, last + 1, BrowseLimits.bucketBytesMax);
    if (checked % CELL_BYTES !== 0) throw bad(`a size of ${checked} bytes, no multiple of ${CELL_BYTES}`);
    last = checked;
    return checked;
  });
  return { kind, bytes, rate };
}

function integer(name: string, value: unknown, min: number, max: number): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max) return value;
  throw bad(`${name} ${String(value).slice(0, 40)}, expected a whole number from ${min} to ${max}`);
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  view(bytes).setUint32(0, value);
  return bytes;
}

function bad(found: string): ProtocolError {
  return new ProtocolError("bad-request", `Cannot browse: found ${found}`);
}
