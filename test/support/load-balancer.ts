// What tests of LoadBalancer share: a site, a request to start with, an owner who reads answers, and curl over an unmodified tor.

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { orAborted } from "../../src/base/abort.ts";
import { concat, utf8 } from "../../src/base/bytes.ts";
import { systemClock } from "../../src/base/clock.ts";
import { generateExpandedKey } from "../../src/onion/crypto/blinding.ts";
import type { LoadBalancerStart, OwnerAnswer, StandbyPlace } from "../../src/wire/loadbalancer.ts";

/** As an owner sends it (src/wire/loadbalancer.ts). */
export function siteOf(files: Readonly<Record<string, Uint8Array>>): Uint8Array {
  const entries = Object.entries(files);
  const index = utf8(
    JSON.stringify({
      files: entries.map(([path, { length: bytes }]) => ({ path, bytes, type: "text/plain" })),
    }),
  );
  const head = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, index.length);
  return concat([head, index, ...entries.map(([, bytes]) => bytes)]);
}

/** What an owner of a site sends: the argument, and the input. */
export function startOf(
  parts: { readonly site: Uint8Array; readonly replica: object; readonly standby?: object | undefined },
  options: Partial<LoadBalancerStart>,
): {
  readonly start: LoadBalancerStart;
  readonly input: readonly Uint8Array[];
  readonly secrets: readonly Uint8Array[];
} {
  const key = generateExpandedKey();
  const replica = utf8(JSON.stringify(parts.replica));
  const standby = parts.standby && utf8(JSON.stringify(parts.standby));
  return {
    start: {
      key: Buffer.from(concat([key.scalar, key.prefix])).toString("base64"),
      virtualPort: 80,
      serve: { kind: "files", siteBytes: parts.site.length },
      scale: { replicasMin: 1, replicasMax: 3, high: {}, low: {}, choice: "least-loaded" },
      boxes: ["self"],
      packages: { replicaBytes: replica.length, ...(standby ? { standbyBytes: standby.length } : {}) },
      ...options,
    },
    input: [replica, ...(standby ? [standby] : []), parts.site],
    secrets: [key.scalar, key.prefix],
  };
}

/** For whatever a test waits for. */
const ANSWER_MS = 90_000;

/** Reads what a load balancer says. */
export class Owner {
  readonly #messages: AsyncIterator<Uint8Array>;
  readonly #send: (message: string) => Promise<void>;
  readonly #onAnswer: (answer: OwnerAnswer) => void;

  constructor(
    session: AsyncIterable<Uint8Array> & { send(message: Uint8Array | string): Promise<void> },
    onAnswer: (answer: OwnerAnswer) => void = () => undefined,
  ) {
    this.#messages = session[Symbol.asyncIterator]();
    this.#send = async (text) => session.send(text);
    this.#onAnswer = onAnswer;
  }

  async say(message: object): Promise<void> {
    await this.#send(JSON.stringify(message));
  }

  /** The first answer that is as wanted; those before it are gone. */
  async until<T>(pick: (answer: OwnerAnswer) => T | undefined): Promise<T> {
    const late = AbortSignal.timeout(ANSWER_MS);
    for (;;) {
      const { value, done } = await orAborted(this.#messages.next(), late);
      if (done === true) throw new Error("the load balancer ended");
      const answer = JSON.parse(Buffer.from(value).toString()) as OwnerAnswer;
      this.#onAnswer(answer);
      const picked = pick(answer);
      if (picked !== undefined) return picked;
    }
  }

  /** The first event of this kind that passes. */
  async event<K extends Events["kind"]>(
    kind: K,
    isWanted: (event: Extract<Events, { kind: K }>) => boolean = () => true,
  ): Promise<Extract<Events, { kind: K }>> {
    return this.until((answer) => {
      const event = "event" in answer && answer.event.kind === kind ? answer.event : undefined;
      return event && isWanted(event as Extract<Events, { kind: K }>)
        ? (event as Extract<Events, { kind: K }>)
        : undefined;
    });
  }

  async started(): Promise<string> {
    return this.until((answer) => ("started" in answer ? answer.started.address : undefined));
  }

  /** Started, and its standby ready, in whichever order. */
  async startedWithStandby(): Promise<{ readonly address: string; readonly place: StandbyPlace }> {
    let address: string | undefined;
    let place: StandbyPlace | undefined;
    let isReady = false;
    return this.until((answer) => {
      if ("started" in answer) ({ address } = answer.started);
      if ("standby" in answer) place = answer.standby;
      if ("event" in answer && answer.event.kind === "standby-ready") isReady = true;
      return isReady && address !== undefined && place ? { address, place } : undefined;
    });
  }

  async report() {
    await this.say({ watch: { everyMs: 0, id: ++this.#reportId } });
    return this.until((answer) =>
      "report" in answer && answer.report.id === this.#reportId ? answer.report : undefined,
    );
  }

  #reportId = 0;

  async stop() {
    await this.say({ stop: true });
    return this.until((answer) => ("stopped" in answer ? answer.stopped : undefined));
  }
}

type Events = Extract<OwnerAnswer, { readonly event: unknown }>["event"];

/**
 * By an unmodified tor client, each time over circuits of its own unless `user` says otherwise. Rejects as curl does.
 * A client whose consensus is older than ours looks for descriptors elsewhere (a network that has just begun gains
 * directories with each consensus), and its tor remembers that they were not there: it asks again for a while.
 */
export async function curl(
  socks: { readonly host: string; readonly port: number },
  url: string,
  options: {
    readonly user?: string;
    readonly args?: readonly string[];
    /** As somebody does who loads a page again: whatever the client's tor said, and when it says nothing for a while. */
    readonly insists?: boolean;
  } = {},
): Promise<Buffer> {
  const { insists = false } = options;
  const untilMs = Date.now() + (insists ? INSISTS_MS : NOT_FOUND_MS);
  for (;;) {
    const proxy = `${options.user ?? crypto.randomUUID()}:x@${socks.host}:${String(socks.port)}`;
    const args = [
      "-sS",
      "--fail",
      "--max-time",
      insists ? "25" : "90",
      "--socks5-hostname",
      proxy,
      ...(options.args ?? []),
      url,
    ];
    try {
      const encoded = { encoding: "buffer", maxBuffer: 64 * 2 ** 20 } as const;
      return (await promisify(execFile)("curl", args, encoded)).stdout;
    } catch (error) {
      // Extended SOCKS error F0: descriptor not found.
      const isNotFound = error instanceof Error && error.message.includes("(240)");
      // Refused by the proxy, and timed out.
      const isAgain = error instanceof Error && /curl: \((?:97|28)\)/.test(error.message);
      if (!(insists ? isAgain : isNotFound) || Date.now() > untilMs) throw error;
      await systemClock.sleep(1000);
    }
  }
}

const NOT_FOUND_MS = 60_000;
const INSISTS_MS = 100_000;
