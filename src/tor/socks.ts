// Streams through Tor's SOCKS port. The name goes to tor as a name, so nothing is looked up here.
// Isolation: tor never puts streams with different user names or passwords on one circuit (RFC 1929 as a label).
// Optimistic data: greeting, credentials, request and the caller's first bytes leave in one write, which saves
// the round trip through the circuit that waiting for CONNECTED would cost.
// Spec: RFC 1928, RFC 1929, socks-extensions, proposals 174 and 304.

import { connect } from "node:net";
import { Duplex } from "node:stream";
import { concat, utf8 } from "../base/bytes.ts";
import { BentoError, ProtocolError } from "../base/errors.ts";
import { formatIp } from "../base/ip-address.ts";

/**
 * Where tor's SOCKS port listens: TCP, or a Unix socket's path (`SocksPort unix:/path`). The socket is faster for small
 * answers: over TCP tor's kernel holds back what follows the SOCKS reply until ours acknowledges it, 40 ms later.
 */
export type SocksAddress = { readonly host: string; readonly port: number } | { readonly path: string };

/** Each 1-255 bytes of UTF-8. Streams share a circuit only when both are equal. */
export interface Isolation {
  readonly username: string;
  readonly password: string;
}

export interface SocksOptions {
  readonly proxy: SocksAddress;
  /** A name (also .onion) or an address; goes to tor as text. At most 255 bytes. */
  readonly host: string;
  readonly port: number;
  readonly isolation?: Isolation | undefined;
  /** Aborts connecting; an established stream is not affected. */
  readonly signal?: AbortSignal | undefined;
}

const CONNECT = 0x01;
/** socks-extensions: tor's own. */
const RESOLVE = 0xf0;

/** Bytes kept of what the caller writes before the SOCKS port has taken them; more waits in the stream. */
const HIGH_WATER_BYTES = 65_536;

/**
 * Connects and resolves with the stream once the far end has accepted. `optimisticData` leaves with the request.
 * Throws BentoError `tor-socks-unreachable` (no tor here) or one of the codes of `socksFailure`.
 */
export async function socksConnect(
  options: SocksOptions & { readonly optimisticData?: Uint8Array | undefined },
): Promise<Duplex> {
  const { stream, connected } = socksStream(options);
  if (options.optimisticData && options.optimisticData.length > 0) stream.write(options.optimisticData);
  const onError = () => {
    // `connected` rejects with the same error, and that is what the caller sees.
  };
  stream.on("error", onError);
  await connected;
  stream.off("error", onError);
  return stream;
}

/**
 * The stream at once, before anything is connected: what is written to it by the time the SOCKS port accepts
 * the TCP connection leaves together with the request, later writes follow without waiting for the reply.
 * It is destroyed with the error when connecting fails; `connected` rejects with the same error, and may be ignored.
 */
export function socksStream(
  options: SocksOptions & { readonly command?: number },
  reply = new SocksReply(options),
): {
  readonly stream: Duplex;
  readonly connected: Promise<void>;
} {
  options.signal?.throwIfAborted();
  const request = encodeRequest(options);
  const socket = connect("path" in options.proxy ? options.proxy : { ...options.proxy, noDelay: true });
  socket.pause();
  const connected = Promise.withResolvers<void>();
  connected.promise.catch(() => {
    // The stream carries the same error; the promise is for those who want to wait.
  });
  let afterWrite: ((error?: Error | null) => void) | undefined;
  let isRequestSent = false;

  const stream: Duplex = new Duplex({
    allowHalfOpen: true,
    writableHighWaterMark: HIGH_WATER_BYTES,
    read() {
      if (reply.isDone) socket.resume();
    },
    // A first chunk that comes before the TCP connection stands waits for it, so that both leave in one write.
    writev(chunks, done) {
      const parts = chunks.map(({ chunk }) => chunk as Uint8Array);
      const bytes = isRequestSent ? concat(parts) : concat([request, ...parts]);
      isRequestSent = true;
      if (socket.write(bytes)) done();
      else afterWrite = done;
    },
    final(done) {
      socket.end(done);
    },
    destroy(error, done) {
      socket.destroy();
      options.signal?.removeEventListener("abort", onAbort);
      connected.reject(error ?? new BentoError("tor-stream-closed", "Cannot connect: the stream was closed"));
      done(error);
    },
  });
  // Corked until TCP is up: gathers the caller's first writes behind the request.
  stream.cork();
  const onAbort = () => {
    stream.destroy(abortReason(options.signal));
  };
  options.signal?.addEventListener("abort", onAbort, { once: true });

  socket.on("connect", () => {
    stream.uncork();
    // Nothing written yet: the far end may be the one to speak first.
    if (!isRequestSent) {
      isRequestSent = true;
      socket.write(request);
    }
    socket.resume();
  });
  socket.on("drain", () => {
    const done = afterWrite;
    afterWrite = undefined;
    done?.();
  });
  socket.on("data", (bytes: Buffer) => {
    if (reply.isDone) {
      if (!stream.push(bytes)) socket.pause();
      return;
    }
    try {
      const rest = reply.push(bytes);
      if (!rest) return;
      options.signal?.removeEventListener("abort", onAbort);
      connected.resolve();
      if (rest.length > 0 && !stream.push(rest)) socket.pause();
    } catch (error) {
      stream.destroy(error as Error);
    }
  });
  socket.on("end", () => {
    if (reply.isDone) stream.push(null);
    else
      stream.destroy(new BentoError("tor-stream-closed", "Cannot connect: tor closed the SOCKS connection"));
  });
  socket.on("error", (cause) => {
    stream.destroy(isRequestSent ? cause : unreachableProxy(options.proxy, cause));
  });
  socket.on("close", () => {
    // Bytes that came before a clean end may still wait for their reader: destroying now would drop them.
    if (socket.readableEnded && !stream.readableEnded) stream.once("end", () => stream.destroy());
    else stream.destroy();
  });
  return { stream, connected: connected.promise };
}

/**
 * The address of a name as an exit sees it (socks-extensions, RESOLVE), as text. Throws like `socksConnect`; onion
 * names have none.
 */
export async function socksResolve(options: Omit<SocksOptions, "port">): Promise<string> {
  const reply = new SocksReply({ ...options, port: 0 });
  const { stream, connected } = socksStream({ ...options, port: 0, command: RESOLVE }, reply);
  stream.on("error", () => {
    // `connected` rejects with the same error.
  });
  try {
    await connected;
  } finally {
    stream.destroy();
  }
  const address = reply.boundAddress;
  if (address === undefined) throw malformed("no address was resolved");
  return address;
}

/** Reply bytes at most: method 2, credentials 2, reply 4 + 1 + 255 + 2. */
export const SOCKS_REPLY_BYTES_MAX = 266;

// Samples, all three messages of an accepted request with credentials:
//   05 02                           method selection: VER METHOD
//   01 00                           RFC 1929: VER STATUS
//   05 00 00 01 00000000 0000       VER REP RSV ATYP BND.ADDR BND.PORT
// Tor 0.4.9 answers a pipelined greeting and credentials with the second message alone: both forms are read.
/** Incremental reader of the proxy's answers. Bounded by SOCKS_REPLY_BYTES_MAX. */
export class SocksReply {
  readonly #target: {
    readonly host: string;
    readonly port: number;
    readonly isolation?: Isolation | undefined;
  };
  #bytes: Uint8Array = new Uint8Array(0);
  #phase: "method" | "credentials" | "reply" | "done" = "method";
  /** BND.ADDR of the reply where it is an address: what RESOLVE found. */
  boundAddress: string | undefined;

  constructor(target: { host: string; port: number; isolation?: Isolation | undefined }) {
    this.#target = target;
  }

  get isDone(): boolean {
    return this.#phase === "done";
  }

  /** Returns the bytes that follow the last message once it is complete, else undefined. Throws on a refusal. */
  push(bytes: Uint8Array): Uint8Array | undefined {
    this.#bytes = concat([this.#bytes, bytes]);
    for (;;) {
      const all = this.#bytes;
      if (all.length < 2) return undefined;
      switch (this.#phase) {
        case "method":
          if (all[0] === 1 && this.#target.isolation) {
            this.#phase = "credentials";
            break;
          }
          if (all[0] !== 5 || all[1] !== (this.#target.isolation ? 2 : 0))
            throw malformed(`method selection is ${hex(all.subarray(0, 2))}`);
          this.#take(2, this.#target.isolation ? "credentials" : "reply");
          break;
        case "credentials":
          if (all[0] !== 1 || all[1] !== 0)
            throw malformed(`credentials answered ${hex(all.subarray(0, 2))}`);
          this.#take(2, "reply");
          break;
        case "reply": {
          if (all[0] !== 5) throw malformed(`reply version is ${String(all[0])}`);
          const code = all[1] ?? 0;
          if (code !== 0) throw socksFailure(code, this.#target);
          const length = replyLength(all);
          if (length === undefined || all.length < length) return undefined;
          this.boundAddress = boundAddress(all);
          this.#take(length, "done");
          return this.#bytes;
        }
        case "done":
          return this.#bytes;
      }
    }
  }

  #take(count: number, next: "credentials" | "reply" | "done"): void {
    this.#bytes = this.#bytes.subarray(count);
    this.#phase = next;
  }
}

function replyLength(all: Uint8Array): number | undefined {
  if (all.length < 5) return undefined;
  switch (all[3]) {
    case 1:
      return 4 + 4 + 2;
    case 3:
      return 4 + 1 + (all[4] ?? 0) + 2;
    case 4:
      return 4 + 16 + 2;
    default:
      throw malformed(`address type is ${String(all[3])}`);
  }
}

/** @param all at least a whole reply. */
function boundAddress(all: Uint8Array): string | undefined {
  const version = all[3] === 1 ? 4 : all[3] === 4 ? 6 : undefined;
  if (version === undefined) return undefined;
  const octets = all.subarray(4, version === 4 ? 8 : 20);
  return formatIp({ version, bits: BigInt(`0x${hex(octets)}`) });
}

// greeting 05 NMETHODS METHOD · credentials 01 ULEN UNAME PLEN PASSWD · request 05 01 00 03 LEN NAME PORT
/** Greeting, credentials and CONNECT as one string of bytes. Only one method is offered: there is nothing to wait for. */
export function encodeRequest(options: {
  readonly host: string;
  readonly port: number;
  readonly isolation?: Isolation | undefined;
  /** CONNECT unless told. RESOLVE goes with port 0. */
  readonly command?: number;
}): Uint8Array {
  const command = options.command ?? CONNECT;
  const host = counted("host name", options.host);
  if (
    !Number.isInteger(options.port) ||
    options.port < (command === CONNECT ? 1 : 0) ||
    options.port > 65_535
  )
    throw new BentoError("tor-bad-address", `Cannot connect: port ${String(options.port)} is not 1-65535`);
  const parts: Uint8Array[] = [Uint8Array.of(5, 1, options.isolation ? 2 : 0)];
  if (options.isolation) {
    // socks-extensions: user names that begin so have another meaning for tor.
    if (options.isolation.username.startsWith("<torS0X>"))
      throw new BentoError(
        "tor-bad-address",
        "Cannot connect: user name begins with <torS0X>, which tor reserves",
      );
    parts.push(
      Uint8Array.of(1),
      counted("user name", options.isolation.username),
      counted("password", options.isolation.password),
    );
  }
  parts.push(Uint8Array.of(5, command, 0, 3), host, Uint8Array.of(options.port >> 8, options.port & 255));
  return concat(parts);
}

function counted(what: string, text: string): Uint8Array {
  const bytes = utf8(text);
  if (bytes.length < 1 || bytes.length > 255)
    throw new BentoError(
      "tor-bad-address",
      `Cannot connect: ${what} has ${String(bytes.length)} bytes, wanted 1-255`,
    );
  return concat([Uint8Array.of(bytes.length), bytes]);
}

// RFC 1928 section 6; from 0xF0 on socks-extensions "Extended error codes" (SocksPort flag ExtendedErrors).
const FAILURES: Readonly<Record<number, readonly [code: string, what: string, advice?: string]>> = {
  0x01: ["tor-stream-failed", "Tor could not make the stream", "Try again: another circuit may work."],
  0x02: ["tor-exit-refused", "no exit may connect there", "Choose another relay or port."],
  0x03: ["tor-unreachable", "the network of the far end is unreachable"],
  0x04: [
    "tor-unreachable",
    "the far end is unreachable or its onion service did not answer",
    "Check the address; is it up?",
  ],
  0x05: [
    "tor-connection-refused",
    "the far end refused the connection",
    "Check the port; is the service up?",
  ],
  0x06: ["tor-timeout", "the circuit or the far end took too long", "Try again."],
  0x07: ["tor-bad-address", "Tor does not do this kind of request"],
  0x08: ["tor-bad-address", "Tor does not take this kind of address"],
  0xf0: [
    "tor-onion-descriptor-not-found",
    "the onion service has published nothing",
    "Check the address; is the service up? One that just started needs some seconds.",
  ],
  0xf1: [
    "tor-onion-descriptor-invalid",
    "what the onion service has published is invalid",
    "Tell its operator.",
  ],
  0xf2: [
    "tor-onion-introduction-failed",
    "no introduction point of the onion service answers",
    "Try again in a minute.",
  ],
  0xf3: ["tor-onion-rendezvous-failed", "the onion service did not come to the meeting point", "Try again."],
  0xf4: [
    "tor-onion-auth-missing",
    "the onion service wants client authorization",
    "Ask its operator for a key.",
  ],
  0xf5: [
    "tor-onion-auth-wrong",
    "the onion service does not take our client authorization",
    "Ask its operator.",
  ],
  0xf6: ["tor-onion-bad-address", "this is no onion address", "Check for a typing error."],
  0xf7: ["tor-onion-introduction-timeout", "the introduction points took too long", "Try again."],
};

/** The error for a SOCKS reply code. */
export function socksFailure(
  code: number,
  target: { readonly host: string; readonly port: number },
): BentoError {
  const [name, what, advice] = FAILURES[code] ?? [
    "tor-stream-failed",
    `Tor answered with SOCKS code ${String(code)}`,
  ];
  const where = `${target.host}:${String(target.port)}`;
  return new BentoError(name, `Cannot connect to ${where}: ${what}`, advice === undefined ? {} : { advice });
}

function unreachableProxy(proxy: SocksAddress, cause: Error): BentoError {
  return new BentoError(
    "tor-socks-unreachable",
    `Cannot reach Tor's SOCKS port at ${"path" in proxy ? proxy.path : `${proxy.host}:${String(proxy.port)}`}`,
    { cause, advice: "Start tor, or name its SOCKS port." },
  );
}

function abortReason(signal: AbortSignal | undefined): Error {
  const reason: unknown = signal?.reason;
  return reason instanceof Error ? reason : new DOMException("Connecting was aborted", "AbortError");
}

function malformed(found: string): ProtocolError {
  return new ProtocolError("tor-socks-protocol", `Cannot read SOCKS answer: ${found}`);
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
