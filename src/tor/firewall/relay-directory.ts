// The public facts about relays, for all owners alike: what the consensus and the relays' microdescriptors say, and
// the country where tor knows it. Nothing in it depends on what this tor or anybody else does with it.
// Kept for a minute: reading it takes tor and us some 100 ms on the public network.

import { createHash } from "node:crypto";
import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import type { ControlClient } from "../control-client.ts";
import {
  type ExitSummary,
  type Family,
  type ListedRelay,
  parseEd25519,
  parseExitSummary,
  parseFamily,
  parseRelays,
} from "../relay-list.ts";

export interface Relay extends Omit<ListedRelay, "digest"> {
  /** null: it lets nothing out, or its microdescriptor is not here yet. */
  readonly exit: ExitSummary | null;
  /** Two letters in lower case; null where tor does not know. */
  readonly country: string | null;
}

/** With what paths are chosen by and relays are recognised by, beside. */
export interface DirectoryRelay extends Relay {
  readonly family: Family;
  /** Ed25519 identity, 64 hex digits in lower case; null: its microdescriptor is not here yet. */
  readonly ed25519: string | null;
}

/** Real ones have some KiB, of which the family is most. */
const DESCRIPTOR_LENGTH_MAX = 32 * 1024;
const KEPT_MS = 60_000;
/** Addresses in one question: a line of a few KiB. */
const COUNTRIES_AT_ONCE = 100;
/** Of a microdescriptor's digest, tor shows the first 20 bytes. */
const DIGEST_BYTES = 20;

export class RelayDirectory {
  readonly #control: ControlClient;
  readonly #clock: Clock;
  #kept: { readonly relays: Promise<readonly DirectoryRelay[]>; readonly untilMs: number } | undefined;

  constructor(control: ControlClient, clock: Clock) {
    this.#control = control;
    this.#clock = clock;
  }

  /** Whoever asks while another asks waits for the same answer. */
  async relays(): Promise<readonly DirectoryRelay[]> {
    if (this.#kept && this.#clock.now() < this.#kept.untilMs) return this.#kept.relays;
    const kept = { relays: this.#read(), untilMs: this.#clock.now() + KEPT_MS };
    this.#kept = kept;
    kept.relays.catch(() => {
      if (this.#kept === kept) this.#kept = undefined;
    });
    return kept.relays;
  }

  /** @param fingerprint 40 hex digits. */
  async descriptor(fingerprint: string): Promise<string | null> {
    const text = await this.#info(`md/id/${fingerprint}`);
    return text === "" || text.length > DESCRIPTOR_LENGTH_MAX ? null : text;
  }

  async #read(): Promise<readonly DirectoryRelay[]> {
    const listed = parseRelays((await this.#control.getInfo(["ns/all"]))["ns/all"]);
    const descriptors = await this.#descriptors();
    const countries = await this.#countries(listed);
    return listed.map(({ digest, ...relay }) => {
      const descriptor = descriptors.get(digest ?? "") ?? "";
      return {
        ...relay,
        exit: parseExitSummary(descriptor) ?? null,
        family: parseFamily(descriptor),
        ed25519: parseEd25519(descriptor) ?? null,
        country: countries.get(relay.addresses[0] ?? "") ?? null,
      };
    });
  }

  /** Microdescriptors by their digest as `ns/all` writes it. */
  async #descriptors(): Promise<ReadonlyMap<string, string>> {
    const descriptors = new Map<string, string>();
    for (const text of (await this.#info("md/all")).split(/^(?=onion-key$)/mu)) {
      // dir-spec 3.3: the digest is of everything up to the next "onion-key", line end included.
      const whole = text.endsWith("\n") ? text : `${text}\n`;
      const digest = createHash("sha256").update(whole).digest().subarray(0, DIGEST_BYTES);
      descriptors.set(digest.toString("base64").replace(/=+$/u, ""), whole);
    }
    return descriptors;
  }

  // Sample: 250-ip-to-country/192.0.2.1=de ... =?? where it is not known
  async #countries(relays: readonly ListedRelay[]): Promise<ReadonlyMap<string, string>> {
    const countries = new Map<string, string>();
    const addresses = [...new Set(relays.flatMap((relay) => relay.addresses.slice(0, 1)))];
    for (let at = 0; at < addresses.length; at += COUNTRIES_AT_ONCE) {
      const some = addresses.slice(at, at + COUNTRIES_AT_ONCE);
      const keys = some.map((address) => `ip-to-country/${address}`);
      const found = await this.#control.getInfo(keys).catch(unlessRefused);
      // 551: this tor has no GeoIP file.
      if (!found) return countries;
      for (const address of some) {
        const country = (found[`ip-to-country/${address}`] ?? "").toLowerCase();
        if (/^[a-z]{2}$/u.test(country)) countries.set(address, country);
      }
    }
    return countries;
  }

  async #info(key: string): Promise<string> {
    return (await this.#control.getInfo([key]).catch(unlessRefused))?.[key] ?? "";
  }
}

function unlessRefused(error: unknown): undefined {
  if (!(error instanceof BentoError) || error.code !== "tor-refused") throw error;
  return undefined;
}
