// box.toml -> BoxConfig (docs/spec/policy.md 1). Pure: reads no file, opens nothing. Every error names the key,
// what was found and what was wanted; all of them are reported at once.

import { parse, TomlError } from "smol-toml";
import type { z } from "zod";
import { formatBytes } from "../base/bytes.ts";
import { BentoError } from "../base/errors.ts";
import {
  type BoxFact,
  type FunctionLimits,
  IMAGE_NEEDS,
  type ImageName,
  type Policy,
  type SyscallGroup,
  type TotalLimits,
} from "../wire/policy.ts";
import { type BoxToml, boxSchema, PACKAGE_BYTES_MAX, type SocketAddress } from "./config-schema.ts";

export type { SocketAddress } from "./config-schema.ts";

export interface TcpAddress {
  readonly kind: "tcp";
  readonly host: string;
  readonly port: number;
}

/** What the operator decided. Sizes in bytes, times in milliseconds, cpu in percent of one core. */
export interface BoxConfig {
  readonly name: string;
  readonly contact: string | null;
  /** ISO 3166-1 code of two letters, as the operator claims it. */
  readonly region: string | null;
  readonly dataDir: string;
  readonly listen: readonly SocketAddress[];
  readonly admin: SocketAddress | null;
  readonly relay: { readonly control: SocketAddress | null; readonly fingerprint: string | null };
  /** How the box's own tor processes are started. */
  readonly tor: TorConfig;
  readonly onion: OnionConfig;
  /** Where the box listens beside the relay for circuits that end there. */
  readonly exitPort: TcpAddress | null;
  readonly legacy2021: SocketAddress | null;
  readonly policy: PolicyConfig;
  /** Instances that wait, by image. Chromium's do not: what takes its time is the browser, which a function starts. */
  readonly warm: Readonly<Partial<Record<ImageName, number>>>;
  /** Bundled functions that instances wait for with their code loaded, and how many for each. */
  readonly ready: { readonly functions: readonly string[]; readonly each: number };
  readonly sandbox: {
    readonly uids: { readonly first: number; readonly last: number };
    readonly profile: "strict" | "standard";
  };
}

export interface TorConfig {
  readonly program: string;
  /** A file that each of them reads as well. */
  readonly torrc: string | null;
}

export type OnionConfig =
  | { readonly kind: "none" }
  | {
      readonly kind: "single-hop" | "hidden";
      readonly port: number;
      /** The control port of a running tor to use, null to start one. */
      readonly control: SocketAddress | null;
    };

export interface PolicyConfig {
  readonly store: boolean;
  readonly images: readonly ImageName[];
  readonly syscalls: readonly SyscallGroup[];
  readonly box: readonly BoxFact[];
  readonly packageBytes: number;
  /** null: no connections out. */
  readonly net: NetConfig | null;
  /** null: no storage. */
  readonly storage: { readonly bytes: number } | null;
  readonly bento: Policy["bento"];
  readonly tor: Policy["tor"];
  readonly relays: Policy["relays"];
  readonly function: FunctionLimits;
  readonly total: TotalLimits;
  /** Disk for installed functions: bytes. */
  readonly packagesBytes: number;
}

export interface NetConfig {
  readonly connections: number;
  readonly bytes: number;
  /** Rules that come before the relay's own, "reject ..." each. */
  readonly reject: readonly string[];
  /** Networks in CIDR form that are refused otherwise: for private test networks. */
  readonly privateNetworksAllowed: readonly string[];
  /** Empty: the system's servers. */
  readonly resolver: readonly TcpAddress[];
}

/** Throws BentoError "bad-config" with one line for each wrong key. `{}`, an empty file, is a valid box. */
export function parseBoxConfig(text: string): BoxConfig {
  const toml = readToml(text);
  const result = boxSchema.safeParse(toml);
  if (!result.success) throw badConfig(result.error.issues.flatMap((issue) => issueLines(issue, toml)));
  const lines = contradictions(result.data);
  if (lines.length > 0) throw badConfig(lines);
  return deepFreeze(configOf(result.data));
}

function configOf(toml: BoxToml): BoxConfig {
  const { box, relay, tor, onion, exit_port, legacy2021, warm, sandbox } = toml;
  return {
    name: box.name,
    contact: box.contact ?? null,
    region: box.region ?? null,
    dataDir: box.data_dir,
    listen: box.listen,
    admin: box.admin ?? null,
    relay: { control: relay.control ?? null, fingerprint: relay.fingerprint ?? null },
    tor: { program: tor.program, torrc: tor.torrc ?? null },
    onion: onionOf(onion),
    exitPort: exit_port.listen ?? null,
    legacy2021: legacy2021.listen ?? null,
    policy: policyOf(toml),
    warm: { deno: warm.deno, python: warm.python },
    ready: { functions: warm.ready, each: warm.ready_each },
    sandbox,
  };
}

function onionOf(onion: BoxToml["onion"]): OnionConfig {
  if (onion.mode === "none") return { kind: "none" };
  return { kind: onion.mode, port: onion.port, control: onion.control ?? null };
}

function policyOf({ policy, sandbox }: BoxToml): PolicyConfig {
  const { net, storage, bento, tor, relays, function: each, total } = policy;
  return {
    store: policy.store,
    images: policy.images,
    syscalls: sandbox.profile === "strict" ? [] : policy.syscalls,
    box: policy.box,
    packageBytes: policy.package,
    net: net.enabled
      ? {
          connections: net.connections,
          bytes: net.bytes,
          reject: net.reject,
          privateNetworksAllowed: net.private_networks_allowed,
          resolver: net.resolver,
        }
      : null,
    storage: storage.enabled ? { bytes: storage.bytes } : null,
    bento: bento.boxes.length > 0 ? bento : null,
    tor: tor.routines.length > 0 ? torPolicy(tor) : null,
    relays: relays.enabled
      ? { links: relays.links, circuitsPerMinute: relays.circuits_per_minute, bytes: relays.bytes }
      : null,
    function: {
      memoryBytes: each.memory,
      cpuPercent: each.cpu,
      pids: each.pids,
      tmpBytes: each.tmp,
      instances: each.instances,
      lifetimeMs: each.lifetime,
      runtimeMs: each.runtime,
      backlogBytes: each.backlog,
    },
    total: {
      functions: total.functions,
      instances: total.instances,
      memoryBytes: total.memory,
      cpuPercent: total.cpu,
      storageBytes: total.storage,
    },
    packagesBytes: total.packages,
  };
}

function torPolicy({ extends_per_minute, ...rest }: BoxToml["policy"]["tor"]): PolicyConfig["tor"] {
  return { ...rest, extendsPerMinute: extends_per_minute };
}

/** Keys that are right by themselves and wrong together. */
function contradictions(toml: BoxToml): string[] {
  const lines: string[] = [];
  const { policy } = toml;
  const atMost = (key: string, value: number, limitName: string, limit: number) => {
    if (value > limit)
      lines.push(`${key}: found ${formatBytes(value)}, expected at most ${limitName}, ${formatBytes(limit)}`);
  };
  atMost("policy.package", policy.package, "what the protocol carries", PACKAGE_BYTES_MAX);
  atMost("policy.function.memory", policy.function.memory, "policy.total.memory", policy.total.memory);
  atMost("policy.function.tmp", policy.function.tmp, "policy.function.memory", policy.function.memory);
  if (policy.storage.enabled) {
    atMost("policy.storage.bytes", policy.storage.bytes, "policy.total.storage", policy.total.storage);
  }
  lines.push(...chromiumContradictions(toml));
  if (toml.onion.mode === "hidden" && policy.box.length > 0) {
    lines.push(
      `policy.box: found ${policy.box.join(", ")}, expected none with onion.mode = "hidden": load and traffic help to find a machine`,
    );
  }
  if (toml.onion.mode === "hidden" && policy.relays.enabled) {
    lines.push(
      'policy.relays.enabled: found true, expected false with onion.mode = "hidden": a relay that a function names would see where the box is',
    );
  }
  return lines;
}

/** The image has a filter of its own, and needs room that the defaults of others do not have. */
function chromiumContradictions({ onion, policy, sandbox }: BoxToml): string[] {
  if (!policy.images.includes("chromium")) return [];
  const lines: string[] = [];
  if (sandbox.profile === "strict") {
    lines.push(
      'policy.images: found "chromium", expected none with sandbox.profile "strict": it has a wider filter',
    );
  }
  // Its filter lets a browser that was taken over ask for the machine's load, memory and time since boot.
  if (onion.mode === "hidden") {
    lines.push(
      'policy.images: found "chromium", expected none with onion.mode = "hidden": load and uptime help to find a machine',
    );
  }
  const needs = IMAGE_NEEDS.chromium;
  const atLeast = (key: string, value: number, need = 0, show: (value: number) => string = String) => {
    if (value < need)
      lines.push(`${key}: found ${show(value)}, expected at least ${show(need)} for image chromium`);
  };
  atLeast("policy.function.memory", policy.function.memory, needs.memoryBytes, formatBytes);
  atLeast("policy.function.pids", policy.function.pids, needs.pids);
  atLeast("policy.function.tmp", policy.function.tmp, needs.tmpBytes, formatBytes);
  return lines;
}

function readToml(text: string): unknown {
  try {
    return parse(text, { maxDepth: 16 });
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = error.message.split("\n", 1)[0] ?? "";
    throw badConfig([`line ${error.line}, column ${error.column}: ${reason}`]);
  }
}

function badConfig(lines: readonly string[]): BentoError {
  return new BentoError("bad-config", `Cannot read box.toml: ${lines.join("\nCannot read box.toml: ")}`, {
    advice: "Correct the file; docs/box.example.toml shows every key with its default.",
  });
}

function issueLines(issue: z.core.$ZodIssue, toml: unknown): string[] {
  const key = issue.path.join(".");
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((unknown) => {
      const known = knownKeys(issue.path);
      const near = nearest(unknown, known);
      const hint = near ? `did you mean ${near}?` : `expected one of ${known.join(", ")}`;
      return `${[...issue.path, unknown].join(".")}: unknown key; ${hint}`;
    });
  }
  const found = issue.path.reduce<unknown>(
    (value, step) => (typeof value === "object" && value !== null ? Reflect.get(value, step) : undefined),
    toml,
  );
  return [`${key}: found ${shown(found)}, ${wantedBy(issue)}`];
}

const TYPE_WORDS: Readonly<Record<string, string>> = { object: "a section", array: "a list", string: "text" };

function wantedBy(issue: z.core.$ZodIssue): string {
  if (!issue.message.startsWith("Invalid input")) return issue.message;
  if (issue.code === "invalid_type") return `expected ${TYPE_WORDS[issue.expected] ?? issue.expected}`;
  return issue.message;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length <= 100 ? text : `${text.slice(0, 100)}...`;
}

/** The keys that the schema has at `path`. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  let at: unknown = boxSchema;
  for (const step of ["", ...path]) {
    if (step !== "") at = Reflect.get(shapeOf(at), step);
  }
  return Object.keys(shapeOf(at));
}

/** The shape of a section; sections are strict objects inside a default. */
function shapeOf(schema: unknown): Record<string, unknown> {
  const { innerType } = (schema as { def: { innerType: { shape: Record<string, unknown> } } }).def;
  return innerType.shape;
}

/** The known word that is at most a third of its letters away. */
function nearest(word: string, known: readonly string[]): string | undefined {
  const scored = known.map((candidate) => ({ candidate, distance: editDistance(word, candidate) }));
  const best = scored.sort((a, b) => a.distance - b.distance)[0];
  return best && best.distance <= Math.max(1, Math.floor(best.candidate.length / 3))
    ? best.candidate
    : undefined;
}

/** Levenshtein distance, by rows. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 0; i < Math.min(from.length, 100); i++) {
    const next = [i + 1];
    for (let j = 0; j < to.length; j++) {
      const replaced = (row[j] ?? 0) + (from[i] === to[j] ? 0 : 1);
      next.push(Math.min(replaced, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null) Object.values(Object.freeze(value)).forEach(deepFreeze);
  return value;
}
