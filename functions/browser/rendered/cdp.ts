// The Chrome DevTools Protocol over the browser's pipe: JSON texts with a zero byte behind each. The browser may have been
// taken over by a page: whatever it says is bounded and checked, and a wrong word ends the connection, not more.
// https://chromedevtools.github.io/devtools-protocol/

import type { ChromiumProcess } from "bento/function";
import { concat, fromUtf8, utf8 } from "../../../src/base/bytes.ts";

/** Commands that wait for their answer. */
const PENDING_MAX = 1000;
/** One message: the body of a resource in base64, or a document with its escapes. */
const MESSAGE_BYTES_MAX = 48 * 1024 * 1024;

export type CdpObject = Readonly<Record<string, unknown>>;

export interface CdpEvent {
  readonly method: string;
  readonly params: CdpObject;
}

export class CdpError extends Error {
  override readonly name = "CdpError";
}

interface Pending {
  readonly resolve: (result: CdpObject) => void;
  readonly reject: (error: Error) => void;
}

export class Cdp {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #pending = new Map<number, Pending>();
  /** By session; "" for the browser's own events. */
  readonly #listeners = new Map<string, (event: CdpEvent) => void>();
  readonly #ended = new AbortController();
  #lastId = 0;

  constructor(process: Pick<ChromiumProcess, "readable" | "writable">) {
    this.#writer = process.writable.getWriter();
    void this.#read(process.readable);
  }

  /** Aborted with a CdpError when the browser has gone. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** Hands on the events of one session, in order, until the next call for it. */
  listen(session: string, listener: ((event: CdpEvent) => void) | undefined): void {
    if (listener) this.#listeners.set(session, listener);
    else this.#listeners.delete(session);
  }

  /** Rejects with CdpError when the browser refuses or has gone, or with the signal's reason. */
  async send(
    method: string,
    params: CdpObject = {},
    options: { readonly session?: string | undefined; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<CdpObject> {
    const { session, signal } = options;
    signal?.throwIfAborted();
    if (this.#ended.signal.aborted) throw this.#ended.signal.reason;
    if (this.#pending.size >= PENDING_MAX) throw new CdpError("Cannot drive the browser: it does not answer");
    const id = ++this.#lastId;
    const answer = Promise.withResolvers<CdpObject>();
    this.#pending.set(id, answer);
    const onAbort = () => {
      answer.reject(signal?.reason instanceof Error ? signal.reason : new CdpError("stopped"));
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      const text = JSON.stringify({ id, method, params, ...(session ? { sessionId: session } : {}) });
      this.#writer.write(utf8(`${text}\0`)).catch(() => undefined); // the reader sees the end
      return await answer.promise;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#pending.delete(id);
    }
  }

  async #read(readable: ReadableStream<Uint8Array>): Promise<void> {
    let reason = new CdpError("The browser has ended");
    try {
      let parts: Uint8Array[] = [];
      let length = 0;
      for await (const chunk of readable) {
        let from = 0;
        for (let end = chunk.indexOf(0); end >= 0; end = chunk.indexOf(0, from)) {
          parts.push(chunk.subarray(from, end));
          this.#take(concat(parts));
          [parts, length, from] = [[], 0, end + 1];
        }
        if (from < chunk.length) parts.push(chunk.subarray(from));
        length += chunk.length - from;
        if (length > MESSAGE_BYTES_MAX) throw new CdpError("The browser says too much at once");
      }
    } catch (error) {
      if (error instanceof CdpError) reason = error;
    }
    this.#ended.abort(reason);
    for (const { reject } of this.#pending.values()) reject(reason);
  }

  #take(bytes: Uint8Array): void {
    let message: unknown;
    try {
      message = JSON.parse(fromUtf8(bytes));
    } catch {
      throw new CdpError("The browser does not speak the protocol");
    }
    if (!isObject(message)) return;
    const { id, method, params, sessionId, result, error } = message;
    if (typeof id === "number") {
      if (isObject(error)) this.#pending.get(id)?.reject(new CdpError(textOf(error, "message") ?? "refused"));
      else this.#pending.get(id)?.resolve(isObject(result) ? result : {});
    } else if (typeof method === "string" && isObject(params)) {
      this.#listeners.get(typeof sessionId === "string" ? sessionId : "")?.({ method, params });
    }
  }
}

export function isObject(value: unknown): value is CdpObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A text at a path such as `response.url`, or undefined. */
export function textOf(object: CdpObject, path: string): string | undefined {
  const value = at(object, path);
  return typeof value === "string" ? value : undefined;
}

export function numberOf(object: CdpObject, path: string): number | undefined {
  const value = at(object, path);
  return typeof value === "number" ? value : undefined;
}

export function objectOf(object: CdpObject, path: string): CdpObject | undefined {
  const value = at(object, path);
  return isObject(value) ? value : undefined;
}

function at(object: CdpObject, path: string): unknown {
  let value: unknown = object;
  for (const name of path.split(".")) {
    if (!isObject(value) || !Object.hasOwn(value, name)) return undefined;
    value = value[name];
  }
  return value;
}
