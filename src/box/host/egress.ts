// Which addresses a function may reach (spec/policy 6): decided on the address that will be connected to, never on
// a name. Pure apart from asking the kernel for the machine's own addresses. The function is hostile: it chooses
// the host, runs DNS servers, and knows every spelling of 127.0.0.1.

import { networkInterfaces } from "node:os";
import { allows, type ExitPolicy, parseExitPolicy } from "../../base/exit-policy.ts";
import {
  type IpAddress,
  type IpRange,
  inRange,
  parseIp,
  parseRange,
  reachableAddresses,
  specialRange,
} from "../../base/ip-address.ts";

export interface EgressOptions {
  /** The published policy's `net.exit`: the operator's rules, then the relay's. */
  readonly exit: readonly string[];
  /** Networks in CIDR form that would be refused as not public. For private test networks. */
  readonly privateNetworksAllowed: readonly string[];
  /** Where the machine is reached besides the addresses of its interfaces: the relay's public address behind NAT. */
  readonly ownAddresses: readonly string[];
  /** Ports of relay and box: ORPort, DirPort, ControlPort, SocksPort, each listener. Closed on this machine whatever is allowed. */
  readonly ownPorts: readonly number[];
}

/** The rule that stands against an address, as the end of a sentence. It says nothing of the address itself. */
export type EgressRefusal = string;

export class Egress {
  readonly #exit: ExitPolicy;
  readonly #privateAllowed: readonly IpRange[];
  readonly #ownAddresses: readonly IpAddress[];
  readonly #ownPorts: ReadonlySet<number>;

  /** Throws ProtocolError or BentoError on rules, networks or addresses that cannot be read. */
  constructor(options: EgressOptions) {
    this.#exit = parseExitPolicy(options.exit.join("\n"));
    this.#privateAllowed = options.privateNetworksAllowed.map(parseRange);
    this.#ownAddresses = options.ownAddresses.flatMap((text) => parseIp(text) ?? []);
    this.#ownPorts = new Set(options.ownPorts);
  }

  /** undefined when a stream to this address and port may be opened. */
  refusalOf(address: IpAddress, port: number): EgressRefusal | undefined {
    // A translator on the way may take another address out of this one; each must be allowed.
    const reachable = reachableAddresses(address);
    if (reachable.some((one) => this.#isOwn(one))) {
      if (this.#ownPorts.has(port)) return "the port belongs to the relay or the box";
      if (!reachable.every((one) => this.#isPrivateAllowed(one))) return "the address is this machine's own";
    }
    if (reachable.some((one) => specialRange(one) !== undefined && !this.#isPrivateAllowed(one))) {
      return "the address is not public";
    }
    return allows(this.#exit, address, port) ? undefined : "the relay's exit policy rejects it";
  }

  #isPrivateAllowed(address: IpAddress): boolean {
    return this.#privateAllowed.some((range) => inRange(address, range));
  }

  #isOwn(address: IpAddress): boolean {
    if (LOCAL.some((range) => inRange(address, range))) return true;
    return [...this.#ownAddresses, ...machineAddresses()].some(
      (own) => own.version === address.version && own.bits === address.bits,
    );
  }
}

/** All of 127/8 is this machine, though one address of it is listed; the unspecified address connects to it as well. */
const LOCAL = ["127.0.0.0/8", "0.0.0.0/8", "::/127"].map(parseRange);

/** Asked anew each time: a relay's address can change while the box runs. */
function machineAddresses(): IpAddress[] {
  return Object.values(networkInterfaces()).flatMap((entries) =>
    (entries ?? []).flatMap(({ address }) => parseIp(address.split("%", 1)[0] ?? "") ?? []),
  );
}
