// What a private Tor network consists of: which nodes, at which loopback addresses and ports. Pure.
// Every node has an address of its own inside one block 127.A.0.0/16, so that logs and captures tell nodes apart
// and two networks on one machine never meet: they only need different A.

import { BentoError } from "../base/errors.ts";

export type NodeKind = "authority" | "relay" | "exit" | "client";

export interface PlannedNode {
  readonly name: string;
  readonly kind: NodeKind;
  readonly address: string;
  /** What the consensus says; absent for clients. */
  readonly orPort: number | undefined;
  /** Where the relay itself listens when a link proxy stands at `orPort`; else the same. */
  readonly listenPort: number | undefined;
  readonly dirPort: number | undefined;
  readonly socksPort: number | undefined;
  /** Torrc lines for this node alone. */
  readonly extraTorrc: readonly string[];
}

export interface LinkShape {
  /** One way, milliseconds, for every byte that enters this relay over a link or leaves it over the same. */
  readonly latencyMs: number;
  /** Each direction of each link, megabits per second; 0: no limit. */
  readonly rateMbit: number;
  /** All links into this relay together, towards it, megabits per second. Absent: no limit but `rateMbit`. */
  readonly intoMbit?: number;
}

export interface TestnetPlan {
  /** The A of 127.A.0.0/16. */
  readonly block: number;
  readonly nodes: readonly PlannedNode[];
  /** Shape of the links into each relay, by name; empty when no proxy is needed. */
  readonly links: Readonly<Record<string, LinkShape>>;
  /** Relays whose links are written to trace files. */
  readonly traced: readonly string[];
  /** Free for a web server, and for the DNS server that the exits ask (port 53). */
  readonly webAddress: string;
  readonly dnsAddress: string;
  /** Held while a network starts: claims the block. */
  readonly claimAddress: string;
}

export interface PlanOptions {
  readonly authorities?: number;
  readonly relays?: number;
  readonly exits?: number;
  readonly clients?: number;
  readonly latencyMs?: number;
  readonly rateMbit?: number;
  /** Links into these relays (by name) differ from the rest. */
  readonly links?: Readonly<Record<string, Partial<LinkShape>>>;
  /** Measured for the consensus, where not the same as all others': kilobytes per second. */
  readonly bandwidths?: Readonly<Record<string, number>>;
  /** Names of relays whose links are traced. */
  readonly traced?: readonly string[];
  /** Torrc lines by node name (a0.., r0.., e0.., c0..). ExitPolicy lines replace the default `accept *:*`. */
  readonly extraTorrc?: (node: Omit<PlannedNode, "extraTorrc">) => readonly string[] | undefined;
}

/** Nodes of one kind: beyond this 2 cores do not carry them, and the consensus would not be signed in time. */
export const NODES_PER_KIND_MAX = 50;
const OR_PORT = 21_001;
const LISTEN_PORT = 21_002;
const DIR_PORT = 21_003;
const SOCKS_PORT = 21_050;
/** Outside what is planned, inside the same range. */
export const CLAIM_PORT = 21_999;

const GROUPS: readonly (readonly [kind: NodeKind, letter: string, group: number])[] = [
  ["authority", "a", 1],
  ["relay", "r", 2],
  ["exit", "e", 3],
  ["client", "c", 4],
];

/** Throws BentoError `testnet-bad-options` when the options make no network that could work. */
export function planTestnet(block: number, options: PlanOptions = {}): TestnetPlan {
  const counts = {
    authority: options.authorities ?? 3,
    relay: options.relays ?? 2,
    exit: options.exits ?? 3,
    client: options.clients ?? 1,
  };
  checkCounts(counts);
  const everywhere = { latencyMs: options.latencyMs ?? 0, rateMbit: options.rateMbit ?? 0 };
  checkShape("every link", everywhere);
  const names = GROUPS.flatMap(([kind, letter]) =>
    kind === "client" ? [] : Array.from({ length: counts[kind] }, (_, index) => `${letter}${String(index)}`),
  );
  const named = [options.links ?? {}, options.bandwidths ?? {}].flatMap((record) => Object.keys(record));
  for (const name of [...named, ...(options.traced ?? [])])
    if (!names.includes(name)) throw badOptions(`no relay is called "${name}"`);

  const links: Record<string, LinkShape> = {};
  for (const name of names) {
    const shape = { ...everywhere, ...options.links?.[name] };
    checkShape(name, shape);
    if (
      shape.latencyMs > 0 ||
      shape.rateMbit > 0 ||
      shape.intoMbit !== undefined ||
      options.traced?.includes(name)
    )
      links[name] = shape;
  }
  const nodes = GROUPS.flatMap(([kind, letter, group]) =>
    Array.from({ length: counts[kind] }, (_, index): PlannedNode => {
      const name = `${letter}${String(index)}`;
      const isRelay = kind !== "client";
      const node = {
        name,
        kind,
        address: `127.${String(block)}.${String(group)}.${String(index + 1)}`,
        orPort: isRelay ? OR_PORT : undefined,
        listenPort: isRelay ? (links[name] ? LISTEN_PORT : OR_PORT) : undefined,
        dirPort: kind === "authority" ? DIR_PORT : undefined,
        socksPort: kind === "client" ? SOCKS_PORT : undefined,
      };
      return { ...node, extraTorrc: options.extraTorrc?.(node) ?? [] };
    }),
  );
  return {
    block,
    nodes,
    links,
    traced: options.traced ?? [],
    webAddress: `127.${String(block)}.8.1`,
    dnsAddress: `127.${String(block)}.9.1`,
    claimAddress: `127.${String(block)}.0.1`,
  };
}

function checkCounts(counts: Readonly<Record<NodeKind, number>>): void {
  for (const [kind, count] of Object.entries(counts))
    if (!Number.isInteger(count) || count < 0 || count > NODES_PER_KIND_MAX)
      throw badOptions(`${String(count)} nodes of kind ${kind}, wanted 0-${String(NODES_PER_KIND_MAX)}`);
  // Bandwidths count as measured only when three authorities agree; without them relays start with weight 0.
  if (counts.authority < 3) throw badOptions(`${String(counts.authority)} authorities, wanted at least 3`);
  if (counts.exit < 1) throw badOptions("no exit, wanted at least 1");
}

function checkShape(of: string, { latencyMs, rateMbit, intoMbit }: LinkShape): void {
  if (!(latencyMs >= 0 && latencyMs <= 5000))
    throw badOptions(`latency of ${of} is ${String(latencyMs)} ms, wanted 0-5000`);
  if (!(rateMbit >= 0 && rateMbit <= 100_000))
    throw badOptions(`rate of ${of} is ${String(rateMbit)} Mbit/s, wanted 0-100000`);
  if (intoMbit !== undefined && !(intoMbit > 0 && intoMbit <= 100_000))
    throw badOptions(`rate into ${of} is ${String(intoMbit)} Mbit/s, wanted more than 0, up to 100000`);
}

function badOptions(found: string): BentoError {
  return new BentoError("testnet-bad-options", `Cannot plan network: ${found}`);
}
