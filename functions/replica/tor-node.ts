// This function's place in Tor: links through its box, the network fetched from the box's own relay and verified, paths
// that begin there. Kept up to date as new consensuses come. Replicas and load balancers have one each.
// Boundary: relays, directory caches. What the box says of the network is where we begin, and whom we trust to sign it.

import type { RelayContact, RelayNetwork, Relays } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { BentoError, messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import type { RelayAddress } from "../../src/onion/circuit/link-specifier.ts";
import { CircuitBuilder, type OpenLink } from "../../src/onion/circuit-builder.ts";
import { fetchNetwork } from "../../src/onion/directory/directory-client.ts";
import type { Network } from "../../src/onion/directory/network.ts";
import { fromHex } from "../../src/onion/fields.ts";
import { Paths } from "../../src/onion/paths.ts";

/** What a box gives: `env.relays`, and a way to make links of it. */
export interface TorAccess {
  network(): ReturnType<Relays["network"]>;
  readonly openLink: OpenLink;
}

export interface TorNodeOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** C tor calls a consensus reasonably live for a day after its end. */
const STALE_MS_MAX = 24 * 3600_000;
const RETRY_MS = 500;
const RETRY_MS_MAX = 60_000;
/** One directory has this long for everything: milliseconds. */
const FETCH_MS = 120_000;
/** Networks that vote more often than C tor allows otherwise are test networks (dir-spec, V3AuthVotingInterval). */
const VOTING_MS_MIN = 300_000;
/** Between two looks for a new consensus. */
const REFRESH_MS_MIN = 2000;

export class TorNode implements Disposable {
  readonly builder: CircuitBuilder;
  readonly paths: Paths;
  /** A test network: periods are short, and relays share addresses. */
  readonly isTestingNetwork: boolean;
  /** Called with each newer consensus, after `paths` has it. */
  onNetwork: (network: Network) => void = () => undefined;
  readonly #place: RelayNetwork;
  readonly #options: TorNodeOptions;
  readonly #ended = new AbortController();

  private constructor(
    builder: CircuitBuilder,
    place: RelayNetwork,
    network: Network,
    options: TorNodeOptions,
  ) {
    this.builder = builder;
    this.#place = place;
    this.#options = options;
    this.isTestingNetwork = isTesting(network);
    const firstHop = place.own && network.relay(place.own.fingerprint);
    const rules = { distinctSubnets: !this.isTestingNetwork };
    this.paths = new Paths({ network, rules, clock: options.clock, ...(firstHop ? { firstHop } : {}) });
  }

  /** Resolves when circuits can be built; tries as long as it takes. Throws the signal's reason. */
  static async start(access: TorAccess, options: TorNodeOptions): Promise<TorNode> {
    const builder = new CircuitBuilder(access.openLink, { clock: options.clock });
    try {
      for (let waitMs = RETRY_MS; ; waitMs = Math.min(2 * waitMs, RETRY_MS_MAX)) {
        try {
          const place = await access.network();
          const network = await fetchFrom(builder, place, options);
          const node = new TorNode(builder, place, network, options);
          void node.#refresh();
          return node;
        } catch (error) {
          options.signal.throwIfAborted();
          options.log.info("network not fetched yet", { error: messageOf(error) });
        }
        await options.clock.sleep(waitMs, options.signal);
      }
    } catch (error) {
      builder[Symbol.dispose]();
      throw error;
    }
  }

  get network(): Network {
    return this.paths.network;
  }

  /** Closes every link. Idempotent. */
  [Symbol.dispose](): void {
    this.#ended.abort(new BentoError("onion-link-closed", "Tor: it was left"));
    this.builder[Symbol.dispose]();
  }

  async #refresh(): Promise<void> {
    const { clock, log } = this.#options;
    const signal = AbortSignal.any([this.#ended.signal, this.#options.signal]);
    try {
      for (;;) {
        await clock.sleep(refreshMs(this.network, clock.now()), signal);
        try {
          const network = await fetchFrom(
            this.builder,
            this.#place,
            { ...this.#options, signal },
            this.network,
          );
          if (network.consensus.validAfterMs <= this.network.consensus.validAfterMs) continue;
          this.paths.network = network;
          this.onNetwork(network);
        } catch (error) {
          signal.throwIfAborted();
          log.info("consensus not fetched", { error: messageOf(error) });
        }
      }
    } catch {
      // It was left, or the instance ends.
    }
  }
}

/** From the box's own relay, one hop away, or else from the other directories. Throws what the last one did wrong. */
async function fetchFrom(
  builder: CircuitBuilder,
  { own, directories, authorities }: RelayNetwork,
  { clock, signal }: TorNodeOptions,
  known?: Network,
): Promise<Network> {
  let failure: unknown = new BentoError(
    "onion-directory",
    "Cannot fetch network: the box names no directory",
  );
  for (const contact of [...(own ? [own] : []), ...directories]) {
    try {
      const within = AbortSignal.any([signal, AbortSignal.timeout(FETCH_MS)]);
      using circuit = await builder.buildToDirectory(addressOf(contact), within);
      return await fetchNetwork(circuit, {
        authorities: authorities.map((identity) => ({ identity })),
        nowMs: clock.now(),
        staleMsMax: STALE_MS_MAX,
        signal: within,
        known,
      });
    } catch (error) {
      signal.throwIfAborted();
      failure = error;
    }
  }
  throw failure;
}

function addressOf({ fingerprint, ed25519, host, port }: RelayContact): RelayAddress {
  return { host, port, identity: { rsa: fromHex(fingerprint), ed25519: fromHex(ed25519) } };
}

function isTesting({ consensus }: Network): boolean {
  return consensus.freshUntilMs - consensus.validAfterMs < VOTING_MS_MIN;
}

/** dir-spec 5.1: some time after the next consensus is due, not all at once. */
function refreshMs({ consensus }: Network, nowMs: number): number {
  const { validAfterMs, freshUntilMs } = consensus;
  const intervalMs = freshUntilMs - validAfterMs;
  const untilMs = freshUntilMs - nowMs + intervalMs * (0.1 + 0.4 * Math.random());
  return Math.max(REFRESH_MS_MIN, untilMs > 0 ? untilMs : intervalMs / 4);
}
