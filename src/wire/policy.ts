// What a box is willing to grant, as it is published (spec/policy 2). Numbers are bytes, milliseconds,
// percent of one core. A policy comes from an untrusted box: clients parse it with `policySchema`.

import { z } from "zod";

export const IMAGES = ["deno", "python", "chromium"] as const;
export type ImageName = (typeof IMAGES)[number];

/**
 * What an instance of an image cannot do without: measured with a page of some lines. `grant` refuses less,
 * and gives at least so much to who does not ask.
 */
export const IMAGE_NEEDS: Readonly<
  Record<ImageName, Readonly<Partial<Pick<FunctionLimits, "memoryBytes" | "pids" | "tmpBytes">>>>
> = {
  deno: {},
  python: {},
  // Its processes share memory by files in /tmp; each has 10 to 30 threads.
  chromium: { memoryBytes: 128 * 2 ** 20, pids: 64, tmpBytes: 32 * 2 ** 20 },
};

/** Groups of system calls beyond what a runtime needs to start (spec/policy 2.3). */
export const SYSCALL_GROUPS = ["fork", "files", "loopback"] as const;
export type SyscallGroup = (typeof SYSCALL_GROUPS)[number];

/** What `env.box` may tell a function about the box. */
export const BOX_FACTS = ["load", "memory", "disk", "network", "instances", "limits"] as const;
export type BoxFact = (typeof BOX_FACTS)[number];

/** What `env.tor` may be used for (spec/policy 2.4). */
export const TOR_ROUTINES = ["circuits", "streams", "onions", "events", "directory"] as const;
export type TorRoutine = (typeof TOR_ROUTINES)[number];

/** The box itself among the boxes that a function may deploy to, and all boxes. */
export const SELF = "self";
export const ANY_BOX = "*";
/** Boxes that a policy or a manifest may name. */
export const BOXES_MAX = 256;

/** Exit rules that a policy may carry: real relays have tens, those with block lists hundreds. */
export const EXIT_RULES_MAX = 2000;

const count = z.int().nonnegative().max(Number.MAX_SAFE_INTEGER);

/** The limits that hold for each instance or function by itself. */
export const functionLimitsSchema = z.strictObject({
  /** Main memory of one instance, tmpfs included: bytes. */
  memoryBytes: count,
  /** Share of one core that one instance may use: percent. */
  cpuPercent: count,
  /** Processes and threads of one instance. */
  pids: count,
  /** Private scratch directory of one instance, in memory: bytes. */
  tmpBytes: count,
  /** Instances of one function at once. */
  instances: count,
  /** How long an installed function is kept: milliseconds. */
  lifetimeMs: count,
  /** How long one instance may run: milliseconds. */
  runtimeMs: count,
  /** Output of one instance that waits for its reader: bytes. */
  backlogBytes: count,
});
export type FunctionLimits = z.infer<typeof functionLimitsSchema>;

const totalLimitsSchema = z.strictObject({
  functions: count,
  instances: count,
  memoryBytes: count,
  cpuPercent: count,
  storageBytes: count,
});
export type TotalLimits = z.infer<typeof totalLimitsSchema>;

export const policySchema = z.strictObject({
  version: z.literal(1),
  /** Whether new functions are taken at all. */
  store: z.boolean(),
  images: z.array(z.enum(IMAGES)).max(IMAGES.length),
  /** What stands between a function and the host. */
  isolation: z.literal("process"),
  syscalls: z.array(z.enum(SYSCALL_GROUPS)).max(SYSCALL_GROUPS.length),
  /** Connections out, or null for none. `exit` is the relay's exit policy, one rule a line (dir-spec 2.1.3). */
  net: z
    .strictObject({
      exit: z.array(z.string().max(200)).max(EXIT_RULES_MAX),
      connections: count,
      bytes: count,
    })
    .nullable(),
  /** Encrypted storage that a function keeps between its instances, or null for none. */
  storage: z.strictObject({ bytes: count }).nullable(),
  /** Functions that deploy functions, on this box and on others over Tor, or null for none. Each for one function. */
  bento: z
    .strictObject({
      /** Where: "*" all boxes, "self" this one, or addresses. */
      boxes: z.array(z.string().max(300)).max(BOXES_MAX),
      /** Functions deployed in all, those deployed by them included. */
      functions: count,
      /** Invocations in all. */
      invocations: count,
      /** Sessions at once. */
      sessions: count,
      /** Generations: 1 = what is deployed deploys nothing itself. */
      depth: count,
      /** Bytes of all sessions, both ways together. */
      bytes: count,
    })
    .nullable(),
  /** Tor's circuits, streams and onion services, or null for none. Counts are for one instance. */
  tor: z
    .strictObject({
      routines: z.array(z.enum(TOR_ROUTINES)).max(TOR_ROUTINES.length),
      circuits: count,
      streams: count,
      onions: count,
      extendsPerMinute: count,
      bytes: count,
    })
    .nullable(),
  /** Links to relays of the Tor network, or null for none. Counts are for one instance. */
  relays: z
    .strictObject({
      /** At once. */
      links: count,
      /** Circuits begun on all links together. */
      circuitsPerMinute: count,
      /** Of all links, both ways together. */
      bytes: count,
    })
    .nullable(),
  box: z.array(z.enum(BOX_FACTS)).max(BOX_FACTS.length),
  packageBytes: count,
  function: functionLimitsSchema,
  total: totalLimitsSchema,
});
export type Policy = z.infer<typeof policySchema>;
