// Circuits along given paths, and the links that they share: one to each first relay.
// Does no I/O itself: how a link is opened is given, so that it may be by a socket here (link/tls-link.ts) or by whoever
// may open sockets for us.
// Spec: tor-spec 5.3 (creating circuits), path-spec 2.1.2 (when a circuit is built).

import { orAborted } from "../base/abort.ts";
import { BentoError } from "../base/errors.ts";
import { Circuit, type CircuitOptions, type CircuitRelay } from "./circuit/circuit.ts";
import type { RelayAddress } from "./circuit/link-specifier.ts";
import type { VegasParameters } from "./circuit/vegas.ts";
import { hex } from "./fields.ts";
import { LINKS_MAX } from "./limits.ts";
import type { Link } from "./link/link.ts";

/** Opens an authenticated link to exactly this relay. */
export type OpenLink = (relay: RelayAddress, options: { readonly signal?: AbortSignal }) => Promise<Link>;

export interface BuildOptions {
  readonly signal?: AbortSignal | undefined;
  /** Asks the last relay for congestion control; only for relays that offer it. */
  readonly congestion?: VegasParameters | undefined;
}

export class CircuitBuilder implements Disposable {
  readonly #openLink: OpenLink;
  readonly #options: CircuitOptions;
  readonly #links = new Map<string, Promise<Link>>();
  readonly #ended = new AbortController();

  constructor(openLink: OpenLink, options: CircuitOptions = {}) {
    this.#openLink = openLink;
    this.#options = options;
  }

  /** A circuit through these relays, in this order. Throws BentoError; nothing of it is left then. */
  async build(path: readonly CircuitRelay[], { signal, congestion }: BuildOptions = {}): Promise<Circuit> {
    const [first, ...rest] = path;
    if (!first) throw new BentoError("onion-path", "Cannot build circuit: the path is empty");
    const link = await this.link(first, signal);
    const circuit = await Circuit.create(link, first, { ...this.#options, signal });
    for (const relay of rest)
      await circuit.extend(relay, { signal, congestion: relay === rest.at(-1) ? congestion : undefined });
    return circuit;
  }

  /** A one-hop circuit for directory requests, to a relay of which only address and identity are known. */
  async buildToDirectory(relay: RelayAddress, signal?: AbortSignal): Promise<Circuit> {
    return Circuit.createFast(await this.link(relay, signal), { ...this.#options, signal });
  }

  /** The open link to this relay, or a new one. */
  async link(relay: RelayAddress, signal?: AbortSignal): Promise<Link> {
    this.#ended.signal.throwIfAborted();
    const key = hex(relay.identity.ed25519);
    let link = this.#links.get(key);
    if (!link) {
      await this.#makeRoom();
      link = this.#links.get(key) ?? this.#open(key, relay);
    }
    return signal ? orAborted(link, signal) : link;
  }

  /** Closes every link, and with them every circuit. */
  [Symbol.dispose](): void {
    this.#ended.abort(new BentoError("onion-link-closed", "Cannot build circuit: the builder was closed"));
    for (const opening of this.#links.values()) {
      opening.then(
        (link) => link[Symbol.dispose](),
        () => undefined,
      );
    }
    this.#links.clear();
  }

  async #open(key: string, relay: RelayAddress): Promise<Link> {
    // Not the caller's signal: others may wait for the same link.
    const opening = this.#openLink(relay, { signal: this.#ended.signal });
    this.#links.set(key, opening);
    const forget = () => {
      if (this.#links.get(key) === opening) this.#links.delete(key);
    };
    try {
      const link = await opening;
      void link.closed.then(forget);
      return link;
    } catch (error) {
      forget();
      throw error;
    }
  }

  /** Closes a link that carries nothing when there are LINKS_MAX. */
  async #makeRoom(): Promise<void> {
    if (this.#links.size < LINKS_MAX) return;
    for (const [key, opening] of this.#links) {
      const link = await opening.catch(() => undefined);
      if (!link || link.circuitCount > 0) continue;
      this.#links.delete(key);
      link[Symbol.dispose]();
      return;
    }
    throw new BentoError(
      "onion-link-full",
      `Cannot open link: ${String(LINKS_MAX)} are open, and all carry circuits`,
    );
  }
}
