// Clients that download one file each, through a tor of their own, arriving one after the other; and what came of it.

import { systemClock } from "../../src/base/clock.ts";
import { BentoError, messageOf } from "../../src/base/errors.ts";
import { type SocksAddress, socksConnect } from "../../src/tor/socks.ts";

/** One client. Times are milliseconds since the first client arrived. */
export interface Download {
  readonly client: number;
  readonly arrivedMs: number;
  /** Of the body; undefined: none came. */
  readonly firstByteMs: number | undefined;
  readonly endedMs: number;
  readonly bytes: number;
  /** Bytes of the body in each bucket of BUCKET_MS since the first client arrived. */
  readonly buckets: readonly number[];
  /** How often it connected until an answer came: as `curl --retry`, since tor gives up on a service at once. */
  readonly tries: number;
  readonly error?: string;
}

const TRIES_MAX = 10;
const RETRY_MS = 1000;

export const BUCKET_MS = 250;

export interface DownloadsOptions {
  /** One SOCKS port for each client. */
  readonly proxies: readonly SocksAddress[];
  readonly address: string;
  readonly path: string;
  readonly arrivalMs: number;
  readonly signal: AbortSignal;
}

export async function downloadAll(options: DownloadsOptions): Promise<Download[]> {
  const startMs = performance.now();
  return Promise.all(
    options.proxies.map(async (proxy, index) => {
      await systemClock.sleep(index * options.arrivalMs, options.signal);
      const arrivedMs = performance.now() - startMs;
      for (let tries = 1; ; tries++) {
        const done = await downloadOne({ ...options, proxy, client: index + 1, startMs });
        if (done.bytes > 0 || tries === TRIES_MAX) return { ...done, arrivedMs, tries };
        await systemClock.sleep(RETRY_MS, options.signal);
      }
    }),
  );
}

/** Tries until a first small answer comes: the service is published then, and whatever had to be built is there. */
export async function awaitService(
  proxy: SocksAddress,
  address: string,
  signal: AbortSignal,
  tries = 30,
): Promise<void> {
  for (let left = tries; ; left--) {
    const soon = AbortSignal.any([signal, AbortSignal.timeout(20_000)]);
    const one = await downloadOne({ proxy, address, path: "/1", client: 0, startMs: 0, signal: soon });
    if (one.error === undefined) return;
    signal.throwIfAborted();
    if (left === 0) throw new BentoError("benchmark-failed", `Cannot reach ${address}: ${one.error}`);
    await systemClock.sleep(1000, signal);
  }
}

interface OneOptions {
  readonly proxy: SocksAddress;
  readonly client: number;
  readonly address: string;
  readonly path: string;
  readonly startMs: number;
  readonly signal: AbortSignal;
}

export async function downloadOne({
  proxy,
  client,
  address,
  path,
  startMs,
  signal,
}: OneOptions): Promise<Download> {
  const now = () => performance.now() - startMs;
  const arrivedMs = now();
  const buckets: number[] = [];
  let firstByteMs: number | undefined;
  let bytes = 0;
  let error: string | undefined;
  try {
    const stream = await socksConnect({
      proxy,
      host: address,
      port: 80,
      isolation: { username: "lb", password: crypto.randomUUID() },
      signal,
    });
    const onAbort = () => stream.destroy(signal.reason as Error);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      stream.write(`GET ${path} HTTP/1.1\r\nHost: ${address}\r\nConnection: close\r\n\r\n`);
      const head = new ResponseHead();
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        const count = head.take(chunk);
        if (count > 0) {
          firstByteMs ??= now();
          const bucket = Math.floor(now() / BUCKET_MS);
          while (buckets.length <= bucket) buckets.push(0);
          buckets[bucket] = (buckets[bucket] ?? 0) + count;
          bytes += count;
        }
        if (bytes === head.bodyBytes) break;
      }
      if (bytes !== head.bodyBytes) throw new Error(`ended after ${bytes} of ${head.bodyBytes} bytes`);
    } finally {
      signal.removeEventListener("abort", onAbort);
      stream.on("error", () => undefined).destroy();
    }
  } catch (cause) {
    error = messageOf(cause);
  }
  const done = { client, arrivedMs, firstByteMs, endedMs: now(), bytes, buckets, tries: 1 };
  return error === undefined ? done : { ...done, error };
}

/** An HTTP answer up to its empty line. */
class ResponseHead {
  #text = "";
  /** Content-Length, once the head is there. */
  bodyBytes: number | undefined;

  /** How many of these bytes are the body's. */
  take(chunk: Buffer): number {
    if (this.bodyBytes !== undefined) return chunk.length;
    const before = this.#text.length;
    this.#text += chunk.toString("latin1");
    const end = this.#text.indexOf("\r\n\r\n");
    if (end < 0) return 0;
    if (!/^HTTP\/1\.[01] 200 /u.test(this.#text)) throw new Error(`answer: ${this.#text.split("\r\n")[0]}`);
    this.bodyBytes = Number(/^content-length: *([0-9]+)/imu.exec(this.#text.slice(0, end))?.[1] ?? 0);
    return before + chunk.length - end - 4;
  }
}
