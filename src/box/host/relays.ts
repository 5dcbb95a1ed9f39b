// Links of functions to relays of the Tor network (`env.relays`), and to nothing else. A function names a relay by its
// fingerprint; the box looks it up in the consensus that its own tor has verified, connects, and proves both identities
// before the function sends a byte. So it can reach no other program, whatever listens at a relay's address.
// Boundary: the function, which is hostile; the relay and whoever answers in its place.
// Spec: docs/spec/policy.md 2.7, docs/spec/guest.md 5.4.

import type { Duplex } from "node:stream";
import type { Clock } from "../../base/clock.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import { openLinkSocket } from "../../onion/link/tls-link.ts";
import type { DirectoryRelay } from "../../tor/firewall/relay-directory.ts";
import type { RelaysGrant } from "../../wire/grant.ts";
import type { Traffic } from "./counted-socket.ts";
import { RelayAccount } from "./relay-account.ts";
import { RelayLinkStream } from "./relay-link.ts";
import type { InstanceRelays, OpenedRelayLink, RelayContact, RelayNetwork } from "./services.ts";
import { runningTor } from "./tor.ts";

/** Links of all instances together, those being opened included: leaves descriptors for everything else. */
const LINKS_TOTAL_MAX = 1024;
/** Directories that a function is told to choose from: some may be down. */
const DIRECTORIES = 8;

/** What the box knows of the network: client-tor.ts. */
export interface RelayDirectorySource {
  client(signal: AbortSignal): Promise<{
    readonly directory: { relays(): Promise<readonly DirectoryRelay[]> };
    readonly authorities: readonly string[];
  }>;
}

export interface RelayBrokerOptions {
  readonly tor: RelayDirectorySource;
  /** Fingerprint of the relay that the box stands beside. */
  readonly own: () => string | null;
  readonly clock: Clock;
  readonly linksTotalMax?: number;
}

export class RelayBroker {
  readonly #options: RelayBrokerOptions;
  readonly #traffic: Traffic = { receivedBytes: 0, sentBytes: 0 };
  #links = 0;

  constructor(options: RelayBrokerOptions) {
    this.#options = options;
  }

  /** Open, or being opened. */
  get links(): number {
    return this.#links;
  }

  /** What they have carried since the broker was made. */
  get traffic(): Readonly<Traffic> {
    return this.#traffic;
  }

  /** The links of one instance. Disposing it closes whatever it opened. */
  forInstance(grant: RelaysGrant): InstanceRelays {
    return new GrantedRelays(grant, this.#options, this.#traffic, () => {
      if (this.#links >= (this.#options.linksTotalMax ?? LINKS_TOTAL_MAX))
        throw new BentoError("relays-limit", "Cannot open link: the box has as many links as it may");
      this.#links++;
      return () => {
        this.#links--;
      };
    });
  }
}

class GrantedRelays implements InstanceRelays {
  readonly #options: RelayBrokerOptions;
  readonly #account: RelayAccount;
  readonly #traffic: Traffic;
  readonly #takeOfBox: () => () => void;
  readonly #ended = new AbortController();
  readonly #open = new Set<Duplex>();

  constructor(
    grant: RelaysGrant,
    options: RelayBrokerOptions,
    traffic: Traffic,
    takeOfBox: () => () => void,
  ) {
    this.#options = options;
    this.#account = new RelayAccount(grant, options.clock);
    this.#traffic = traffic;
    this.#takeOfBox = takeOfBox;
  }

  async network(signal: AbortSignal): Promise<RelayNetwork> {
    const { relays, authorities } = await this.#network(signal);
    const own = this.#options.own()?.toUpperCase();
    const contact = relays.find(({ fingerprint }) => fingerprint === own);
    const directories = relays.filter(({ flags }) =>
      ["V2Dir", "Running", "Valid"].every((flag) => flags.includes(flag)),
    );
    return {
      ...(contact ? { own: contact } : {}),
      directories: sample(directories, DIRECTORIES),
      authorities,
    };
  }

  async link(fingerprint: string, callSignal: AbortSignal): Promise<OpenedRelayLink> {
    const signal = AbortSignal.any([callSignal, this.#ended.signal]);
    signal.throwIfAborted();
    const giveBack = this.#take();
    try {
      const { relays } = await this.#network(signal);
      const relay = relays.find((one) => one.fingerprint === fingerprint.toUpperCase());
      if (!relay) throw new BentoError("relays-refused", "Cannot open link: the consensus has no such relay");
      const opened = await this.#connect(relay, signal);
      this.#open.add(opened.stream);
      opened.stream.once("close", () => {
        this.#open.delete(opened.stream);
        giveBack();
      });
      return opened;
    } catch (error) {
      giveBack();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new BentoError("relays-closed", "Cannot open link: the instance has ended"));
    const closed = [...this.#open].map(
      (stream) => new Promise<void>((resolve) => stream.once("close", () => resolve())),
    );
    for (const stream of this.#open) stream.destroy();
    await Promise.all(closed);
  }

  /** Relays that can be proved to be themselves. */
  async #network(signal: AbortSignal): Promise<{
    readonly relays: readonly ListedRelay[];
    readonly authorities: readonly string[];
  }> {
    const gone = new BentoError("relays-gone", "Cannot use relays: the box's tor is not running");
    const both = AbortSignal.any([signal, this.#ended.signal]);
    const client = await runningTor(this.#options.tor, { clock: this.#options.clock, signal: both, gone });
    try {
      const relays = await client.directory.relays();
      return { relays: relays.flatMap((relay) => listed(relay) ?? []), authorities: client.authorities };
    } catch (cause) {
      throw new BentoError("relays-gone", gone.message, { cause });
    }
  }

  async #connect(relay: RelayContact, signal: AbortSignal): Promise<OpenedRelayLink> {
    const { fingerprint, ed25519, host, port } = relay;
    const identity = { rsa: Buffer.from(fingerprint, "hex"), ed25519: Buffer.from(ed25519, "hex") };
    try {
      return await openLinkSocket(
        { host, port, identity },
        { signal, clock: this.#options.clock },
        (socket, { version, parser }) => {
          const limits = { account: this.#account, traffic: this.#traffic, clock: this.#options.clock };
          const stream = new RelayLinkStream(socket, parser.rest(), limits);
          // Until something listens, an error of the link would end the box.
          stream.on("error", () => undefined);
          return { relay, version, stream };
        },
      );
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof BentoError)) throw error;
      const why =
        error instanceof ProtocolError
          ? "who answers at its address does not prove to be it"
          : "it does not answer";
      throw new BentoError("relays-unreachable", `Cannot open link: ${why}`, { cause: error });
    }
  }

  #take(): () => void {
    const giveBack = this.#account.takeLink();
    try {
      const giveBackToBox = this.#takeOfBox();
      return () => {
        giveBack();
        giveBackToBox();
      };
    } catch (error) {
      giveBack();
      throw error;
    }
  }
}

interface ListedRelay extends RelayContact {
  readonly flags: readonly string[];
}

/** undefined while the relay's microdescriptor, which has its Ed25519 identity, is not here yet. */
function listed({ fingerprint, ed25519, addresses, orPort, flags }: DirectoryRelay): ListedRelay | undefined {
  const [host] = addresses;
  return ed25519 === null || host === undefined
    ? undefined
    : { fingerprint, ed25519, host, port: orPort, flags };
}

/** Up to `count` of them, each as likely as any other. */
function sample(relays: readonly ListedRelay[], count: number): RelayContact[] {
  const left = [...relays];
  const chosen: RelayContact[] = [];
  while (chosen.length < count && left.length > 0) {
    const [relay] = left.splice(Math.floor(Math.random() * left.length), 1);
    if (relay) chosen.push(relay);
  }
  return chosen;
}
