// The relay beside the box, watched through its control port: its exit policy decides what functions may reach,
// its addresses and ports are what they may never reach. While the relay was never heard, functions have no
// network (fail closed); when it goes away, what it said last holds until it is back.

import { orAborted } from "../base/abort.ts";
import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { ControlClient } from "../tor/control-client.ts";
import type { ControlAddress } from "../tor/control-connection.ts";
import { FAMILY_MAX } from "../wire/api.ts";

/** Milliseconds between attempts to reach the relay: first, and longest. */
const RETRY = { firstMs: 1_000, longestMs: 60_000 } as const;
/** Milliseconds between two looks: its address changes unannounced, and its policy some time after it says so. */
const REFRESH_MS = 60_000;
/** Milliseconds from the news of a change until it has taken effect: tor rebuilds its descriptor first. */
const SETTLE_MS = 2_000;
/** Milliseconds for one conversation with the control port. */
const ANSWER_MS = 10_000;

export interface RelayFacts {
  /** Exit policy, one rule a line. */
  readonly exit: readonly string[];
  /** 40 hexadecimal digits; null for a client that is no relay. */
  readonly fingerprint: string | null;
  /** Fingerprints that it names as its family. */
  readonly family: readonly string[];
  readonly addresses: readonly string[];
  /** Every port it listens at. */
  readonly ports: readonly number[];
}

export interface CompanionOptions {
  readonly control: ControlAddress;
  readonly onFacts: (facts: RelayFacts) => void;
  readonly clock: Clock;
  readonly log: Log;
}

export class Companion implements AsyncDisposable {
  readonly #options: CompanionOptions;
  readonly #stop = new AbortController();
  readonly #ports = new Set<number>();
  readonly #watching: Promise<void>;
  readonly #firstTry = Promise.withResolvers<void>();

  constructor(options: CompanionOptions) {
    this.#options = options;
    this.#watching = this.#watch();
  }

  /** Resolves when the relay was asked once, whether it answered or not. */
  get asked(): Promise<void> {
    return this.#firstTry.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error("the box is stopping"));
    await this.#watching;
  }

  async #watch(): Promise<void> {
    const { clock, log } = this.#options;
    const { signal } = this.#stop;
    let retryMs: number = RETRY.firstMs;
    let hasComplained = false;
    while (!signal.aborted) {
      try {
        await this.#follow(() => {
          if (hasComplained) log.info("companion relay is back");
          hasComplained = false;
          retryMs = RETRY.firstMs;
        });
      } catch (error) {
        if (signal.aborted) break;
        // Once per outage: an operator who restarts the relay needs no stream of warnings.
        if (!hasComplained) log.warn("companion relay cannot be asked", { reason: messageOf(error) });
        hasComplained = true;
      }
      this.#firstTry.resolve();
      await clock.sleep(retryMs, signal).catch(() => undefined);
      retryMs = Math.min(retryMs * 2, RETRY.longestMs);
    }
    this.#firstTry.resolve();
  }

  /** Connects, asks, and asks again whenever something may have changed. Throws when the relay is gone. */
  async #follow(onHeard: () => void): Promise<void> {
    const { signal } = this.#stop;
    const { clock } = this.#options;
    await using client = await this.#within((wait) => ControlClient.connect(this.#options.control, wait));
    let changed = Promise.withResolvers<void>();
    await client.subscribe(["CONF_CHANGED"], () => {
      changed.resolve();
    });
    for (;;) {
      const facts = await this.#within((wait) => askFacts(client, wait));
      // While tor reopens its listeners it names none: a port that was the relay's once stays closed.
      for (const port of facts.ports) this.#ports.add(port);
      this.#options.onFacts({ ...facts, ports: [...this.#ports] });
      onHeard();
      this.#firstTry.resolve();
      const cancel = clock.after(REFRESH_MS, () => {
        changed.resolve();
      });
      try {
        await client.during(orAborted(changed.promise, signal));
      } finally {
        cancel();
      }
      await clock.sleep(SETTLE_MS, signal);
      changed = Promise.withResolvers();
    }
  }

  async #within<T>(task: (wait: { signal: AbortSignal }) => Promise<T>): Promise<T> {
    const late = new AbortController();
    const cancel = this.#options.clock.after(ANSWER_MS, () => {
      late.abort(new Error(`no answer within ${ANSWER_MS} ms`));
    });
    try {
      return await task({ signal: AbortSignal.any([this.#stop.signal, late.signal]) });
    } finally {
      cancel();
    }
  }
}

const LISTENERS = ["or", "dir", "socks", "trans", "natd", "dns", "control", "extor", "httptunnel"] as const;

async function askFacts(client: ControlClient, wait: { signal: AbortSignal }): Promise<RelayFacts> {
  const { "exit-policy/full": exit } = await client.getInfo(["exit-policy/full"], wait);
  const ports = new Set<number>();
  for (const name of LISTENERS) {
    const listeners = await optional(client, `net/listeners/${name}`, wait);
    for (const port of listenerPorts(listeners ?? "")) ports.add(port);
  }
  const addresses: string[] = [];
  for (const key of ["address/v4", "address/v6"]) {
    const address = await optional(client, key, wait);
    if (address !== undefined && address !== "") addresses.push(address);
  }
  const fingerprint = await optional(client, "fingerprint", wait);
  const { MyFamily: family } = await client.getConf(["MyFamily"], wait);
  return {
    exit: exit
      .split("\n")
      .map((line) => line.trim())
      .filter((line) => line !== ""),
    fingerprint: fingerprint === undefined ? null : fingerprint.trim().toUpperCase(),
    family: familyOf(family),
    addresses,
    ports: [...ports],
  };
}

/** A value that tor may not have: a client has no fingerprint, an old tor no address/v6. */
async function optional(
  client: ControlClient,
  key: string,
  wait: { signal: AbortSignal },
): Promise<string | undefined> {
  try {
    return (await client.getInfo([key], wait))[key];
  } catch (error) {
    if (client.isClosed || wait.signal.aborted) throw error;
    return undefined;
  }
}

/** `$AA..=name,BB..~name, nickname` -> AA.., BB..: nicknames prove nothing and name nobody for sure. */
export function familyOf(values: readonly string[]): string[] {
  const found = values.flatMap((value) => [
    ...value.matchAll(/(?:^|[\s,])\$?([0-9A-Fa-f]{40})(?=$|[\s,=~])/g),
  ]);
  return [...new Set(found.map((match) => (match[1] ?? "").toUpperCase()))].slice(0, FAMILY_MAX);
}

/** `"0.0.0.0:9001" "unix:/run/tor/control" "[::]:9001"` -> 9001, 9001 */
function listenerPorts(text: string): number[] {
  return [...text.matchAll(/:(\d{1,5})"/g)].map((match) => Number(match[1]));
}
