// HTTP/1.1 requests to one box over a Dial (spec/wire 2). The box is untrusted: heads and answers are bounded,
// every answer is checked against its schema, every wait has an end. One agent keeps warm connections, all of
// one isolation. A request's head and first body bytes travel with the connection request: one round trip.

import http, { type ClientRequest, type IncomingMessage } from "node:http";
import type { z } from "zod";
import { concat, fromUtf8, utf8 } from "../base/bytes.ts";
import type { Clock } from "../base/clock.ts";
import { BentoError, messageOf, ProtocolError, systemCode } from "../base/errors.ts";
import { MEDIA } from "../wire/api.ts";
import { errorOfProblem, problemSchema } from "../wire/error-code.ts";
import { Limits } from "../wire/limits.ts";
import { type BoxAddress, formatAddress, isOnion } from "./address.ts";
import { type Dial, DialedStream, hedgedDial } from "./dial.ts";

/** How long the client waits for the first byte of an answer. */
const WAITS = {
  /** First contact: an onion service may need new circuits at both ends (seen: 22 s mean, minutes at worst). */
  coldMs: 120_000,
  /** Once this isolation has answered before. */
  warmMs: 30_000,
  /** A slow circuit's upload, bytes per second: adds to the wait for large requests. */
  uploadBytesPerSecond: 16 * 1024,
  /** Silence in the middle of an answer that is not a session. */
  stallMs: 60_000,
} as const;

const HEAD_BYTES_MAX = 16 * 1024;
const IDLE_CONNECTIONS_MAX = 2;

export interface RequestOptions {
  readonly token?: string;
  readonly body?: unknown;
  readonly signal?: AbortSignal | undefined;
}

interface BoxHttpOptions {
  readonly address: BoxAddress;
  readonly dial: Dial;
  readonly isolation: string;
  readonly clock: Clock;
}

/** The HTTP side of one client context: one box, one isolation. */
export class BoxHttp implements Disposable {
  readonly #options: BoxHttpOptions;
  readonly #agent: DialAgent;
  readonly #hedgedAgent: DialAgent;
  #answeredBefore = false;

  constructor(options: BoxHttpOptions) {
    this.#options = options;
    const { address, dial, isolation, clock } = options;
    this.#agent = new DialAgent(() => new DialedStream(address, dial, isolation));
    const hedged = isOnion(address) ? hedgedDial(dial, clock) : dial;
    this.#hedgedAgent = new DialAgent(() => new DialedStream(address, hedged, isolation));
  }

  /** A new stream of this context, not pooled: for WebSockets. */
  stream(): DialedStream {
    return new DialedStream(this.#options.address, this.#options.dial, this.#options.isolation);
  }

  get address(): BoxAddress {
    return this.#options.address;
  }

  /** How long an answer to a request of `bodyBytes` may take to begin: milliseconds. */
  waitMs(bodyBytes: number): number {
    const base = this.#answeredBefore ? WAITS.warmMs : WAITS.coldMs;
    return base + Math.ceil((bodyBytes / WAITS.uploadBytesPerSecond) * 1000);
  }

  /** Called when the box has answered: later waits are the warm ones. */
  noteAnswer(): void {
    this.#answeredBefore = true;
  }

  /** One request with a JSON answer. Throws what the box's problem document says, or the reason it was not reached. */
  async json<T>(
    method: "GET" | "POST",
    path: string,
    schema: z.ZodType<T>,
    options: RequestOptions = {},
  ): Promise<T> {
    const body = options.body === undefined ? undefined : utf8(JSON.stringify(options.body));
    // A GET may reach the box twice, so it may be hedged; nothing else may.
    const { request, response } = this.#begin(method, path, {
      ...options,
      agent: method === "GET" ? this.#hedgedAgent : this.#agent,
      headers: {
        accept: `${MEDIA.json}, ${MEDIA.problem}`,
        ...(body ? { "content-type": MEDIA.json, "content-length": String(body.length) } : {}),
      },
    });
    request.end(body);
    const answer = await this.#awaitAnswer(request, response, body?.length ?? 0, options.signal);
    try {
      const bytes = await readAnswer(answer, this.#options.clock);
      if (answer.statusCode !== undefined && answer.statusCode >= 200 && answer.statusCode < 300) {
        return parseAnswer(bytes, schema);
      }
      throw problemFrom(answer.statusCode, bytes);
    } catch (error) {
      request.destroy();
      throw this.reached(error);
    }
  }

  /** A request whose body and answer are streams open at the same time. `head` is sent with the connection request. */
  async duplex(
    path: string,
    mediaType: string,
    head: Uint8Array,
    options: { token?: string; signal?: AbortSignal | undefined },
  ): Promise<{ request: ClientRequest; response: IncomingMessage }> {
    const { request, response } = this.#begin("POST", path, {
      ...options,
      agent: this.#agent,
      headers: { accept: `${mediaType}, ${MEDIA.problem}`, "content-type": mediaType },
    });
    request.write(head);
    const answer = await this.#awaitAnswer(request, response, head.length, options.signal);
    if (answer.statusCode === 200 && mediaTypeOf(answer) === mediaType) return { request, response: answer };
    try {
      const bytes = await readAnswer(answer, this.#options.clock);
      throw problemFrom(answer.statusCode, bytes);
    } catch (error) {
      throw this.reached(error);
    } finally {
      request.destroy();
    }
  }

  /** Says of a failure below HTTP which box it concerns. Bento's own errors pass as they are. */
  reached(error: unknown): unknown {
    if (error instanceof BentoError) {
      if (error.code !== "connection-lost") return error;
    }
    const where = formatAddress(this.#options.address);
    const why = WHY[systemCode(error) ?? ""] ?? messageOf(error);
    return new BentoError("box-unreachable", `Cannot reach box ${where}: ${why}`, {
      cause: error,
      advice: "Check the address, and that the box and Tor are running (`bento net status`, `bento doctor`).",
    });
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
    this.#hedgedAgent.destroy();
  }

  #begin(
    method: string,
    path: string,
    options: {
      token?: string;
      agent: DialAgent;
      headers: Record<string, string>;
      signal?: AbortSignal | undefined;
    },
  ) {
    const { host, port } = this.#options.address;
    options.signal?.throwIfAborted();
    const request = http.request({
      host,
      port,
      method,
      path,
      agent: options.agent,
      maxHeaderSize: HEAD_BYTES_MAX,
      headers: {
        host: formatAddress(this.#options.address),
        ...options.headers,
        ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
      },
    });
    const response = Promise.withResolvers<IncomingMessage>();
    request.once("response", response.resolve);
    request.on("error", response.reject);
    request.once("close", () => {
      response.reject(new BentoError("connection-lost", "Connection closed before an answer came"));
    });
    response.promise.catch(() => undefined);
    return { request, response: response.promise };
  }

  async #awaitAnswer(
    request: ClientRequest,
    response: Promise<IncomingMessage>,
    bodyBytes: number,
    signal: AbortSignal | undefined,
  ): Promise<IncomingMessage> {
    const waitMs = this.waitMs(bodyBytes);
    const cancel = this.#options.clock.after(waitMs, () => {
      request.destroy(timeoutError(this.#options.address, waitMs));
    });
    const onAbort = () => {
      request.destroy(signal?.reason as Error);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      const answer = await response;
      this.#answeredBefore = true;
      return answer;
    } catch (error) {
      request.destroy();
      signal?.throwIfAborted();
      throw this.reached(error);
    } finally {
      cancel();
      signal?.removeEventListener("abort", onAbort);
    }
  }
}

/** For people, in place of the names of system errors. */
const WHY: Readonly<Record<string, string>> = {
  ECONNREFUSED: "connection refused",
  ECONNRESET: "connection reset",
  EPIPE: "connection reset",
  ENOTFOUND: "no such host",
  EAI_AGAIN: "no such host",
  EHOSTUNREACH: "no route to the host",
  ENETUNREACH: "no route to the network",
  ETIMEDOUT: "no answer",
  HPE_HEADER_OVERFLOW: `the head of the answer exceeds ${HEAD_BYTES_MAX} bytes`,
};

export function timeoutError(address: BoxAddress, waitMs: number): BentoError {
  return new BentoError(
    "box-timeout",
    `Cannot reach box ${formatAddress(address)}: no answer within ${Math.round(waitMs / 1000)} s`,
    { advice: "Try again: Tor builds new circuits. `bento doctor` checks Tor." },
  );
}

/** Reads a whole answer of at most Limits.answerBytesMax. */
export async function readAnswer(response: IncomingMessage, clock: Clock): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  const stall = () =>
    clock.after(WAITS.stallMs, () => {
      response.destroy(
        new BentoError("box-timeout", "Cannot read answer: the box stopped in the middle of it"),
      );
    });
  let cancel = stall();
  try {
    for await (const chunk of response as AsyncIterable<Uint8Array>) {
      cancel();
      cancel = stall();
      length += chunk.length;
      if (length > Limits.answerBytesMax) {
        throw new ProtocolError(
          "bad-answer",
          `Cannot read answer: longer than ${Limits.answerBytesMax} bytes`,
        );
      }
      parts.push(chunk);
    }
  } finally {
    cancel();
  }
  return concat(parts);
}

/** The error that a problem document stands for; "bad-answer" when it is not one. */
export function problemFrom(status: number | undefined, bytes: Uint8Array): BentoError {
  let value: unknown;
  try {
    value = JSON.parse(fromUtf8(bytes));
  } catch {
    value = undefined;
  }
  const problem = problemSchema.safeParse(value);
  if (problem.success) return errorOfProblem(problem.data);
  return new ProtocolError(
    "bad-answer",
    `Cannot read answer: status ${status ?? "missing"}, no problem document`,
    {
      advice: "Is there a Bento box at this address?",
    },
  );
}

function parseAnswer<T>(bytes: Uint8Array, schema: z.ZodType<T>): T {
  let value: unknown;
  try {
    value = JSON.parse(fromUtf8(bytes));
  } catch (cause) {
    throw new ProtocolError("bad-answer", "Cannot read answer: not JSON", {
      cause,
      advice: "Is there a Bento box at this address?",
    });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ProtocolError(
    "bad-answer",
    `Cannot read answer: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "malformed"}`.slice(0, 300),
    { advice: "The box breaks the protocol: choose another, or update the client." },
  );
}

function mediaTypeOf(response: IncomingMessage): string {
  return (response.headers["content-type"] ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
}

/** An agent whose connections are DialedStreams of one isolation. */
class DialAgent extends http.Agent {
  readonly #connect: () => DialedStream;

  constructor(connect: () => DialedStream) {
    super({ keepAlive: true, maxFreeSockets: IDLE_CONNECTIONS_MAX, scheduling: "lifo" });
    this.#connect = connect;
  }

  override createConnection(): DialedStream {
    return this.#connect();
  }
}
