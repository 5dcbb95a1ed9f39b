// Connections out of instances (spec/policy 6), the one way from a function to the network. Host text is read once
// into an address or a name, names are resolved once, every address is checked, and the connection goes to exactly
// a checked address. Counts connections and bytes of each instance and of the box. The function is hostile.

import type { Duplex } from "node:stream";
import { domainToASCII } from "node:url";
import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { type Host, type IpAddress, parseHost } from "../../base/ip-address.ts";
import { covers, type Destination, parseDestination } from "../../wire/destination.ts";
import type { NetGrant } from "../../wire/grant.ts";
import { Limits } from "../../wire/limits.ts";
import type { Traffic } from "./counted-socket.ts";
import { dial } from "./dial.ts";
import type { Egress } from "./egress.ts";
import { type ByteBudget, MeteredConnection } from "./metered-connection.ts";
import type { NameResolver } from "./resolver.ts";
import type { InstanceNet } from "./services.ts";

/**
 * Bytes that each attempt to connect takes from the instance's budget, for DNS questions and handshakes: else an
 * instance could ask and knock without end. About what they really take.
 */
export const ATTEMPT_BYTES = 1024;

/** Connections of all instances together, those being opened included: leaves descriptors for everything else. */
const CONNECTIONS_TOTAL_MAX = 2048;

/**
 * Names that never reach a DNS server: RFC 6761 (localhost), RFC 6762 (local), RFC 7686 (onion), and what
 * operators use inside (RFC 8375 home.arpa, ICANN internal). Leaking them tells, answering them misleads.
 */
const LOCAL_NAMES = ["localhost", "local", "onion", "internal", "home.arpa", "invalid", "test"];

export interface NetBrokerOptions {
  readonly resolver: NameResolver;
  readonly clock: Clock;
  readonly connectionsTotalMax?: number;
}

export class NetBroker {
  readonly #options: NetBrokerOptions;
  readonly #traffic: Traffic = { receivedBytes: 0, sentBytes: 0 };
  #egress: Egress | undefined;
  #connections = 0;

  /** Refuses every connection until `setEgress` was called. */
  constructor(options: NetBrokerOptions) {
    this.#options = options;
  }

  /** The rules from now on; undefined while the relay's exit policy is unknown, and then nothing is allowed. */
  setEgress(egress: Egress | undefined): void {
    this.#egress = egress;
  }

  /** Connections that are open or being opened. */
  get connections(): number {
    return this.#connections;
  }

  /** What they have carried since the broker was made. */
  get traffic(): Readonly<Traffic> {
    return this.#traffic;
  }

  /** The network of one instance. Disposing it closes whatever it opened. */
  forInstance(grant: NetGrant): InstanceNet {
    return new GrantedNet(grant, this.#options, {
      egress: () => this.#egress,
      traffic: this.#traffic,
      take: () => {
        if (this.#connections >= (this.#options.connectionsTotalMax ?? CONNECTIONS_TOTAL_MAX)) {
          throw new BentoError("net-limit", "Cannot connect: the box has as many connections as it may");
        }
        this.#connections++;
      },
      giveBack: () => {
        this.#connections--;
      },
    });
  }
}

type NamedHost = Exclude<Host, { kind: "refused" }>;

interface Box {
  egress(): Egress | undefined;
  readonly traffic: Traffic;
  take(): void;
  giveBack(): void;
}

class GrantedNet implements InstanceNet {
  readonly #grant: NetGrant;
  readonly #options: NetBrokerOptions;
  readonly #box: Box;
  readonly #destinations: readonly Destination[];
  readonly #budget: ByteBudget;
  readonly #ended = new AbortController();
  readonly #open = new Set<MeteredConnection>();
  #count = 0;

  constructor(grant: NetGrant, options: NetBrokerOptions, box: Box) {
    this.#grant = grant;
    this.#options = options;
    this.#box = box;
    this.#destinations = grant.allow.flatMap((text) => parseDestination(text) ?? []);
    this.#budget = { left: grant.bytes };
  }

  async connect(target: { host: string; port: number }, options: { signal: AbortSignal }): Promise<Duplex> {
    const { port } = target;
    const signal = AbortSignal.any([options.signal, this.#ended.signal]);
    signal.throwIfAborted();
    const host = readHost(target.host);
    if (host.kind === "refused") throw refused(`the host ${host.reason}`);
    if (!Number.isInteger(port) || port < 1 || port > 65535) throw refused("the port is not 1 to 65535");
    if (!covers(this.#destinations, host, port)) throw refused("the manifest does not name this destination");
    if (this.#budget.left < ATTEMPT_BYTES)
      throw new BentoError("net-limit", "Cannot connect: the instance has used up its bytes");
    this.#take();
    this.#budget.left -= ATTEMPT_BYTES;
    try {
      const addresses = this.#checked(await this.#addressesOf(host, signal), port);
      const socket = await dial(addresses, port, { signal, clock: this.#options.clock });
      if (signal.aborted) {
        socket.destroy();
        throw signal.reason as Error;
      }
      const connection = new MeteredConnection(socket, this.#budget, this.#box.traffic, this.#options.clock);
      this.#open.add(connection);
      connection.once("close", () => {
        this.#open.delete(connection);
        this.#giveBack();
      });
      return connection;
    } catch (error) {
      this.#giveBack();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new BentoError("net-closed", "Cannot connect: the instance has ended"));
    const closed = [...this.#open].map(
      (connection) => new Promise<void>((resolve) => connection.once("close", () => resolve())),
    );
    for (const connection of this.#open) connection.destroy();
    await Promise.all(closed);
  }

  async #addressesOf(host: NamedHost, signal: AbortSignal): Promise<readonly IpAddress[]> {
    return host.kind === "ip" ? [host.address] : this.#options.resolver.resolve(host.name, signal);
  }

  /** Those that may be reached. Throws with the first one's reason when there is none. */
  #checked(addresses: readonly IpAddress[], port: number): IpAddress[] {
    const egress = this.#box.egress();
    if (!egress) throw refused("the relay's exit policy is not known");
    const judged = addresses.map((address) => ({ address, refusal: egress.refusalOf(address, port) }));
    const allowed = judged.flatMap(({ address, refusal }) => (refusal === undefined ? [address] : []));
    if (allowed.length === 0) throw refused(judged[0]?.refusal ?? "there is no address");
    return allowed;
  }

  #take(): void {
    if (this.#count >= this.#grant.connections) {
      throw new BentoError(
        "net-limit",
        `Cannot connect: ${this.#count} connections are open, and no more are granted`,
      );
    }
    this.#box.take();
    this.#count++;
  }

  #giveBack(): void {
    this.#count--;
    this.#box.giveBack();
  }
}

/** What the text means, by the rules of a browser for names and of a C library for addresses, whichever takes it. */
function readHost(text: string): Host {
  if (text.length > Limits.hostNameBytesMax) return { kind: "refused", reason: "is too long" };
  // UTS 46: "é" becomes "xn--9ca", and full-width digits become digits, so the result is read as an address again.
  const host = parseHost(/^\p{ASCII}*$/u.test(text) ? text : domainToASCII(text));
  if (host.kind === "name" && LOCAL_NAMES.some((name) => `.${host.name}`.endsWith(`.${name}`))) {
    return { kind: "refused", reason: "is a name of local use" };
  }
  return host;
}

function refused(rule: string): BentoError {
  return new BentoError("net-refused", `Cannot connect: ${rule}`);
}
