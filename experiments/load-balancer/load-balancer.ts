// LoadBalancer as a column: the function on the first service node's box, replicas on its own box and on those of the other
// nodes, started by an owner who keeps the reports and events that it sends.

import { concat, utf8 } from "../../src/base/bytes.ts";
import { BentoError } from "../../src/base/errors.ts";
import type { RunningBox } from "../../src/bin/local-network.ts";
import { BoxClient, directDial, type Session } from "../../src/client/client.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { generateExpandedKey } from "../../src/onion/crypto/blinding.ts";
import { random } from "../../src/onion/crypto/primitives.ts";
import type {
  LoadBalancerEvent,
  LoadBalancerReport,
  LoadBalancerStart,
  OwnerAnswer,
  ScaleSettings,
} from "../../src/wire/loadbalancer.ts";

export interface LoadBalancerOptions {
  /** The first one's box has the load balancer; replicas come in this order. */
  readonly boxes: readonly RunningBox[];
  /** Replicas come on the other boxes only. */
  readonly excludesOwn?: boolean;
  readonly scale: ScaleSettings;
  /** The site is "/site", of so many bytes, and "/1" of one. */
  readonly siteBytes: number;
  /** Resolves once so many replicas serve. Default: the least that there may be. */
  readonly replicas?: number;
  readonly signal: AbortSignal;
}

type DatedEvent = LoadBalancerEvent & { readonly atMs: number };

const MESSAGE_BYTES = 256 * 1024;
const REPORT_MS = 250;

export class LoadBalancer implements AsyncDisposable {
  readonly events: DatedEvent[] = [];
  readonly reports: LoadBalancerReport[] = [];
  address = "";
  readonly #client: BoxClient;
  readonly #session: Session;
  /** Settled and replaced with each answer. */
  #changed = Promise.withResolvers<void>();
  #over: Error | undefined;
  #isStopped = false;

  private constructor(client: BoxClient, session: Session) {
    this.#client = client;
    this.#session = session;
  }

  /** Resolves when the service is published and replicas serve. */
  static async start(options: LoadBalancerOptions): Promise<LoadBalancer> {
    const { boxes, scale, signal } = options;
    const [first, ...others] = boxes;
    if (first?.direct === undefined) throw new BentoError("usage", "Cannot start load balancer: no box");
    const [balancer, replica] = await Promise.all(
      ["loadbalancer", "replica"].map(async (name) => (await loadPackage(name)).package),
    );
    if (!balancer || !replica) throw new BentoError("usage", "Cannot start load balancer: no package");
    const site = siteOf(options.siteBytes);
    const replicaBytes = utf8(JSON.stringify(replica));
    const key = generateExpandedKey();
    const args: LoadBalancerStart = {
      key: Buffer.from(concat([key.scalar, key.prefix])).toString("base64"),
      virtualPort: 80,
      serve: { kind: "files", siteBytes: site.length },
      scale,
      boxes: [...(options.excludesOwn ? [] : ["self"]), ...others.map(({ address }) => address)],
      packages: { replicaBytes: replicaBytes.length },
    };
    const client = new BoxClient({ address: first.direct, dial: directDial });
    try {
      const session = await client.run({ package: balancer }, { args: [args] }, { signal });
      const it = new LoadBalancer(client, session);
      void it.#read();
      for (const part of [replicaBytes, site])
        for (let at = 0; at < part.length; at += MESSAGE_BYTES)
          await session.send(part.subarray(at, at + MESSAGE_BYTES));
      await it.until(() => it.address !== "", signal);
      await session.send(JSON.stringify({ watch: { everyMs: REPORT_MS, id: 1 } }));
      await it.until(() => it.serving >= (options.replicas ?? scale.replicasMin), signal);
      return it;
    } catch (error) {
      client[Symbol.dispose]();
      throw error;
    }
  }

  /** Replicas that take introductions, by the last report. */
  get serving(): number {
    return this.reports.at(-1)?.replicas.filter(({ state }) => state === "serving").length ?? 0;
  }

  /** Resolves when `isSo` after an answer. Throws when the load balancer has ended before. */
  async until(isSo: () => boolean, signal: AbortSignal): Promise<void> {
    while (!isSo()) {
      if (this.#over) throw this.#over;
      signal.throwIfAborted();
      const aborted = Promise.withResolvers<void>();
      const onAbort = () => aborted.resolve();
      signal.addEventListener("abort", onAbort, { once: true });
      await Promise.race([this.#changed.promise, aborted.promise]);
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** Ends function and replicas. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isStopped) return;
    this.#isStopped = true;
    try {
      if (!this.#over) await this.#session.send(JSON.stringify({ stop: true }));
      await this.#session.ended;
    } finally {
      this.#client[Symbol.dispose]();
    }
  }

  async #read(): Promise<void> {
    try {
      for await (const message of this.#session) {
        this.#take(JSON.parse(Buffer.from(message).toString()) as OwnerAnswer);
        this.#tell();
      }
      const outcome = await this.#session.ended;
      this.#over = new BentoError("function-failed", `The load balancer ended: ${JSON.stringify(outcome)}`);
    } catch (error) {
      this.#over = error as Error;
    }
    this.#tell();
  }

  #take(answer: OwnerAnswer): void {
    if ("started" in answer) this.address = answer.started.address;
    else if ("report" in answer) this.reports.push(answer.report);
    else if ("event" in answer) this.events.push(answer.event);
  }

  #tell(): void {
    const { resolve } = this.#changed;
    this.#changed = Promise.withResolvers();
    resolve();
  }
}

/** Files of random bytes, as an owner sends a site (src/wire/loadbalancer.ts): "1" of one byte, and "site". */
function siteOf(bytes: number): Uint8Array {
  const type = "application/octet-stream";
  const index = utf8(
    JSON.stringify({
      files: [
        { path: "1", bytes: 1, type },
        { path: "site", bytes, type },
      ],
    }),
  );
  const head = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, index.length);
  return concat([head, index, random(1 + bytes)]);
}
