// grant = manifest ∩ policy, or the rules that stand against it (spec/policy 4). One pure function: the client
// previews with it, the box enforces with it. Nothing is cut down silently: what the manifest names and the
// policy lacks is a refusal; what the manifest leaves open is the default below, within the policy.

import { formatBytes } from "../base/bytes.ts";
import { type ExitPolicy, leaves, parseExitPolicy } from "../base/exit-policy.ts";
import { parseDestination } from "./destination.ts";
import type { Refusal } from "./error-code.ts";
import type { Manifest } from "./manifest.ts";
import {
  ANY_BOX,
  type BoxFact,
  type FunctionLimits,
  IMAGE_NEEDS,
  type ImageName,
  type Policy,
  SELF,
  type SyscallGroup,
  type TorRoutine,
} from "./policy.ts";
import { formatDuration } from "./quantity.ts";

/** What one function may use. A missing property is a missing capability. */
export interface Grant {
  readonly image: ImageName;
  readonly syscalls: readonly SyscallGroup[];
  readonly net?: NetGrant;
  readonly storage?: { readonly bytes: number };
  readonly bento?: BentoGrant;
  readonly tor?: TorGrant;
  readonly relays?: RelaysGrant;
  readonly box: readonly BoxFact[];
  readonly limits: FunctionLimits;
}

export interface NetGrant {
  /** Destinations by name or address and port, as in the manifest; the exit policy decides on top of these. */
  readonly allow: readonly string[];
  /** Connections of one instance at once. */
  readonly connections: number;
  /** Bytes of one instance, both ways together. */
  readonly bytes: number;
}

/** Deploying functions: counts are for the function, all its instances together, as long as it is installed. */
export interface BentoGrant {
  /** "*" every box but this one, "self" this one, or addresses. */
  readonly boxes: readonly string[];
  /** Functions deployed in all. One that may deploy itself costs as many more as its manifest asks for. */
  readonly functions: number;
  readonly invocations: number;
  /** Sessions at once. */
  readonly sessions: number;
  /** 1: what is deployed deploys nothing. A manifest may be deployed that asks for a smaller depth. */
  readonly depth: number;
  /** Bytes of all sessions, both ways together. */
  readonly bytes: number;
}

/** What one instance may do with Tor. */
export interface TorGrant {
  readonly routines: readonly TorRoutine[];
  /** Circuits, streams, onion services at once. */
  readonly circuits: number;
  readonly streams: number;
  readonly onions: number;
  readonly extendsPerMinute: number;
  /** Bytes of all streams, both ways together. */
  readonly bytes: number;
}

/** How one instance may use relays. */
export interface RelaysGrant {
  /** At once, those being opened included. */
  readonly links: number;
  /** Circuits begun on all links together. */
  readonly circuitsPerMinute: number;
  /** Of all links, both ways together. */
  readonly bytes: number;
}

export type GrantResult =
  | { readonly kind: "granted"; readonly grant: Grant }
  | { readonly kind: "refused"; readonly refusals: readonly Refusal[] };

/** One decision on the way to a grant, for people who want to see why. */
export interface RuleVerdict {
  readonly rule: string;
  /** What the manifest asks for; where it leaves that open, what the function gets. */
  readonly wanted: string;
  /** What the policy says. */
  readonly limit: string;
  readonly holds: boolean;
  /** Whether the manifest says so itself. */
  readonly asked: boolean;
}

/** What a function gets that does not say what it needs. */
const DEFAULTS: FunctionLimits = {
  memoryBytes: 64 * 2 ** 20,
  cpuPercent: 50,
  pids: 32,
  tmpBytes: 8 * 2 ** 20,
  instances: 8,
  lifetimeMs: 24 * 3600e3,
  runtimeMs: 10 * 60e3,
  backlogBytes: 4 * 2 ** 20,
};
const DEFAULT_NET_BYTES = 64 * 2 ** 20;
const DEFAULT_TOR = {
  circuits: 4,
  streams: 16,
  onions: 1,
  extendsPerMinute: 30,
  bytes: 64 * 2 ** 20,
} as const;
const DEFAULT_RELAYS = { links: 8, circuitsPerMinute: 60, bytes: 64 * 2 ** 20 } as const;
const DEFAULT_BENTO = { invocationsPerFunction: 8, sessions: 16, bytes: 64 * 2 ** 20 } as const;

const asCount = (value: number) => String(value);
const asPercent = (value: number) => `${value}%`;

/** @param tell gets every rule that was looked at, those that hold included. */
export function grant(
  manifest: Manifest,
  policy: Policy,
  tell: (verdict: RuleVerdict) => void = () => undefined,
): GrantResult {
  const refusals: Refusal[] = [];
  const judge: Judge = (rule, wanted, limit, holds = false) => {
    tell({ rule, wanted, limit, holds, asked: true });
    if (!holds) refusals.push({ rule, wanted, limit });
  };
  /**
   * The wanted value if the policy allows it, else a refusal; the default within the policy if none is wanted. Never
   * less than what the image needs.
   */
  const within = (
    rule: string,
    wanted: number | undefined,
    limit: number,
    fallback: number,
    show: (value: number) => string,
    need = 0,
  ): number => {
    const value = wanted ?? Math.max(Math.min(fallback, limit), need);
    const holds = value >= need && value <= limit;
    const shown = value < need ? `image ${manifest.image} needs ${show(need)}` : `at most ${show(limit)}`;
    if (wanted === undefined && holds) tell({ rule, wanted: show(value), limit: shown, holds, asked: false });
    else judge(rule, show(value), shown, holds);
    return value;
  };
  const members = <T extends string>(
    rule: string,
    wanted: readonly T[],
    offered: readonly T[],
  ): readonly T[] => {
    const missing = wanted.filter((member) => !offered.includes(member));
    const shown = missing.length > 0 ? missing : wanted;
    if (shown.length > 0) judge(rule, shown.join(", "), offered.join(", ") || "none", missing.length === 0);
    return wanted;
  };

  judge("store", "a new function", policy.store ? "taken" : "this box takes none", policy.store);
  members("image", [manifest.image], policy.images);
  const max = policy.function;
  const needs = IMAGE_NEEDS[manifest.image];
  const limits: FunctionLimits = {
    memoryBytes: within(
      "memory",
      manifest.memory,
      max.memoryBytes,
      DEFAULTS.memoryBytes,
      formatBytes,
      needs.memoryBytes,
    ),
    cpuPercent: within("cpu", manifest.cpu, max.cpuPercent, DEFAULTS.cpuPercent, asPercent),
    pids: within("pids", manifest.pids, max.pids, DEFAULTS.pids, asCount, needs.pids),
    tmpBytes: within("tmp", manifest.tmp, max.tmpBytes, DEFAULTS.tmpBytes, formatBytes, needs.tmpBytes),
    instances: within("instances", manifest.instances, max.instances, DEFAULTS.instances, asCount),
    lifetimeMs: within("lifetime", manifest.lifetime, max.lifetimeMs, DEFAULTS.lifetimeMs, formatDuration),
    runtimeMs: within("runtime", manifest.runtime, max.runtimeMs, DEFAULTS.runtimeMs, formatDuration),
    backlogBytes: within("backlog", manifest.backlog, max.backlogBytes, DEFAULTS.backlogBytes, formatBytes),
  };
  const granted: Grant = {
    image: manifest.image,
    syscalls: members("syscalls", manifest.syscalls, policy.syscalls),
    box: members("box", manifest.box, policy.box),
    limits,
    ...netGrant(manifest, policy, judge, within),
    ...storageGrant(manifest, policy, judge, within),
    ...bentoGrant(manifest, policy, judge, within),
    ...torGrant(manifest, policy, judge, within, members),
    ...relaysGrant(manifest, policy, judge, within),
  };
  return refusals.length > 0 ? { kind: "refused", refusals } : { kind: "granted", grant: granted };
}

type Members = <T extends string>(rule: string, wanted: readonly T[], offered: readonly T[]) => readonly T[];
/** Refuses unless `holds`. */
type Judge = (rule: string, wanted: string, limit: string, holds?: boolean) => void;
type Within = (
  rule: string,
  wanted: number | undefined,
  limit: number,
  fallback: number,
  show: (value: number) => string,
) => number;

function netGrant(manifest: Manifest, policy: Policy, judge: Judge, within: Within): { net?: NetGrant } {
  if (!manifest.net) return {};
  if (!policy.net) {
    judge("net", manifest.net.allow.join(", "), "no connections out");
    return {};
  }
  const exit = exitPolicyOf(policy.net);
  const closed = manifest.net.allow.filter((text) => !isReachable(text, exit));
  const isOpen = closed.length === 0;
  const exits = isOpen
    ? "accepted by the relay's exit policy, or some of it"
    : "the relay's exit policy rejects all of it";
  judge("net", (isOpen ? manifest.net.allow : closed).join(", "), exits, isOpen);
  return {
    net: {
      allow: manifest.net.allow,
      connections: within("net.connections", manifest.net.connections, policy.net.connections, 8, asCount),
      bytes: within("net.bytes", manifest.net.bytes, policy.net.bytes, DEFAULT_NET_BYTES, formatBytes),
    },
  };
}

/** Policies stay as they are while their rules are asked for again and again. */
const exitPolicies = new WeakMap<NonNullable<Policy["net"]>, ExitPolicy>();

function exitPolicyOf(net: NonNullable<Policy["net"]>): ExitPolicy {
  let exit = exitPolicies.get(net);
  if (!exit) {
    try {
      exit = parseExitPolicy(net.exit.join("\n"));
    } catch {
      // A policy that cannot be read accepts nothing: the box would not get far with it either.
      exit = [];
    }
    exitPolicies.set(net, exit);
  }
  return exit;
}

/** Whether the exit policy leaves anything of the destination. The broker decides on each resolved address. */
function isReachable(destination: string, exit: ExitPolicy): boolean {
  const parsed = parseDestination(destination);
  if (!parsed) return false;
  const { host, portMin, portMax } = parsed;
  const address = host.kind === "exactly" && host.host.kind === "ip" ? host.host.address : undefined;
  return leaves(exit, address, portMin, portMax);
}

function storageGrant(
  manifest: Manifest,
  policy: Policy,
  judge: Judge,
  within: Within,
): { storage?: { bytes: number } } {
  if (!manifest.storage) return {};
  if (!policy.storage) {
    judge("storage", formatBytes(manifest.storage.bytes), "no storage");
    return {};
  }
  return {
    storage: { bytes: within("storage", manifest.storage.bytes, policy.storage.bytes, 0, formatBytes) },
  };
}

function bentoGrant(
  { bento: wanted }: Manifest,
  { bento: offered }: Policy,
  judge: Judge,
  within: Within,
): { bento?: BentoGrant } {
  if (!wanted) return {};
  if (!offered) {
    judge("bento", "deploying functions", "none");
    return {};
  }
  const open = new Set(offered.boxes);
  const closed = wanted.boxes.filter((box) => !open.has(box) && (box === SELF || !open.has(ANY_BOX)));
  const shown = closed.length > 0 ? closed : wanted.boxes;
  judge("bento.boxes", shown.join(", "), offered.boxes.join(", ") || "none", closed.length === 0);
  const most = bentoNeeds(wanted);
  return {
    bento: {
      boxes: wanted.boxes,
      functions: within("bento.functions", wanted.functions, offered.functions, most.functions, asCount),
      invocations: within(
        "bento.invocations",
        wanted.invocations,
        offered.invocations,
        most.invocations,
        asCount,
      ),
      sessions: within("bento.sessions", wanted.sessions, offered.sessions, most.sessions, asCount),
      depth: within("bento.depth", wanted.depth, offered.depth, most.depth, asCount),
      bytes: within("bento.bytes", wanted.bytes, offered.bytes, most.bytes, formatBytes),
    },
  };
}

/** What `bento` of a manifest comes to where the policy sets no lower limit: the most that it can be granted. */
export function bentoNeeds(wanted: NonNullable<Manifest["bento"]>): BentoGrant {
  return {
    boxes: wanted.boxes,
    functions: wanted.functions,
    invocations: wanted.invocations ?? wanted.functions * DEFAULT_BENTO.invocationsPerFunction,
    sessions: wanted.sessions ?? DEFAULT_BENTO.sessions,
    depth: wanted.depth,
    bytes: wanted.bytes ?? DEFAULT_BENTO.bytes,
  };
}

function torGrant(
  { tor: wanted }: Manifest,
  { tor: offered }: Policy,
  judge: Judge,
  within: Within,
  members: Members,
): { tor?: TorGrant } {
  if (!wanted) return {};
  if (!offered) {
    judge("tor", wanted.routines.join(", "), "none");
    return {};
  }
  const count = (name: "circuits" | "streams" | "onions" | "extendsPerMinute") =>
    within(`tor.${name}`, wanted[name], offered[name], DEFAULT_TOR[name], asCount);
  return {
    tor: {
      routines: members("tor.routines", wanted.routines, offered.routines),
      circuits: count("circuits"),
      streams: count("streams"),
      onions: count("onions"),
      extendsPerMinute: count("extendsPerMinute"),
      bytes: within("tor.bytes", wanted.bytes, offered.bytes, DEFAULT_TOR.bytes, formatBytes),
    },
  };
}

function relaysGrant(
  { relays: wanted }: Manifest,
  { relays: offered }: Policy,
  judge: Judge,
  within: Within,
): { relays?: RelaysGrant } {
  if (!wanted) return {};
  if (!offered) {
    judge("relays", "links to relays", "none");
    return {};
  }
  const count = (name: "links" | "circuitsPerMinute") =>
    within(`relays.${name}`, wanted[name], offered[name], DEFAULT_RELAYS[name], asCount);
  return {
    relays: {
      links: count("links"),
      circuitsPerMinute: count("circuitsPerMinute"),
      bytes: within("relays.bytes", wanted.bytes, offered.bytes, DEFAULT_RELAYS.bytes, formatBytes),
    },
  };
}
