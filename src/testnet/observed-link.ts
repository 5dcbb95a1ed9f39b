// An observer of a tor client's links: a SOCKS5 proxy that the client is told to leave through (`Socks5Proxy`). It sees
// what anybody on the path sees, TLS records to guards, and remembers when how many bytes passed in which direction.

import { once } from "node:events";
import { Worker } from "node:worker_threads";

export interface Passed {
  /** Number of the connection, to one guard each. */
  readonly link: number;
  /** Unix milliseconds. */
  readonly atMs: number;
  /** Seen from the client. */
  readonly direction: "up" | "down";
  readonly bytes: number;
}

/** In a thread of its own: the client's work, and ours, do not show in the times. */
export class ObservedLink implements AsyncDisposable {
  readonly #worker: Worker;
  readonly #port: number;
  #passed: Passed[] = [];

  private constructor(worker: Worker, port: number) {
    this.#worker = worker;
    this.#port = port;
  }

  static async start(): Promise<ObservedLink> {
    const worker = new Worker(new URL("./observed-link-worker.ts", import.meta.url));
    const [port] = (await once(worker, "message")) as [number];
    return new ObservedLink(worker, port);
  }

  /** The line for the client's torrc. */
  get torrc(): string {
    return `Socks5Proxy 127.0.0.1:${this.#port}`;
  }

  /** What passed so far on all links, in order of time. One caller at a time. */
  async passed(): Promise<readonly Passed[]> {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
    this.#worker.postMessage("passed");
    const [news] = (await once(this.#worker, "message")) as [Passed[]];
    this.#passed = this.#passed.concat(news);
    return this.#passed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker.terminate();
  }
}

/** What passed the link that passed most: of a client with one busy circuit, the link to its guard. */
export function busiestLink(passed: readonly Passed[]): readonly Passed[] {
  const bytes = new Map<number, number>();
  for (const one of passed) bytes.set(one.link, (bytes.get(one.link) ?? 0) + one.bytes);
  const [busiest] = [...bytes].reduce((best, one) => (one[1] > best[1] ? one : best), [-1, 0]);
  return passed.filter(({ link }) => link === busiest);
}

/** Bytes of one direction in each of `count` bins of `binMs` from `fromMs` on. */
export function bytesPerBin(
  passed: readonly Passed[],
  direction: Passed["direction"],
  bins: { readonly fromMs: number; readonly binMs: number; readonly count: number },
): number[] {
  const totals = Array.from({ length: bins.count }, () => 0);
  for (const one of passed) {
    const bin = Math.floor((one.atMs - bins.fromMs) / bins.binMs);
    if (one.direction === direction && bin >= 0 && bin < bins.count)
      totals[bin] = (totals[bin] ?? 0) + one.bytes;
  }
  return totals;
}
