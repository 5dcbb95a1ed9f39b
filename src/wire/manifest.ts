// What a function asks for (spec/policy 3). Written by people as JSON with quantities such as "64MiB";
// `parseManifest` turns it into numbers. A manifest can only narrow a policy (grant.ts).

import { z } from "zod";
import { DESTINATION_PATTERN, parseDestination } from "./destination.ts";
import { BoxError } from "./error-code.ts";
import { ANY_BOX, BOX_FACTS, BOXES_MAX, IMAGES, SELF, SYSCALL_GROUPS, TOR_ROUTINES } from "./policy.ts";
import { byteCount, duration, percent } from "./quantity.ts";

const positive = z.int().positive().max(1_000_000);

/** "*", "self", `….onion[:port]` or `host:port`. */
const BOX_PATTERN = new RegExp(
  `^(\\${ANY_BOX}|${SELF}|[a-z2-7]{56}\\.onion(:\\d{1,5})?|[^\\s:/]+:\\d{1,5}|\\[[0-9a-fA-F:.]+\\]:\\d{1,5})$`,
);
/** Generations that a function may ask for: more than three have no use known. */
const DEPTH_MAX = 8;

const DESTINATION_WANTED = 'expected host:port such as "*:443"';

export const manifestSchema = z.strictObject({
  $schema: z
    .string()
    .max(500)
    .optional()
    .describe("For editors alone: this schema. It is not sent to boxes."),
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9-]{0,63}$/, "expected lower-case letters, digits and hyphens, at most 64")
    .meta({
      description: "What the function is called: lower-case letters, digits and hyphens.",
      examples: ["hello"],
    }),
  version: z
    .string()
    .max(32)
    .optional()
    .meta({ description: "The author's, for people.", examples: ["1.0.0"] }),
  description: z.string().max(500).optional().describe("One line for people."),
  image: z
    .enum(IMAGES)
    .describe(
      "The runtime: `deno` for TypeScript and JavaScript, `python` for Python, `chromium` for `deno` with a web browser.",
    ),
  entry: z
    .string()
    .regex(/^[A-Za-z_][A-Za-z0-9_]{0,63}$/, "expected a Python identifier")
    .optional()
    .meta({
      description:
        "Python: what is called with the arguments of an invocation that is no call; `main` otherwise.",
      examples: ["main"],
    }),
  syscalls: z
    .array(z.enum(SYSCALL_GROUPS))
    .max(SYSCALL_GROUPS.length)
    .default([])
    .meta({
      description:
        "Groups of system calls beyond what the runtime needs: `loopback` for fetch and requests, `files` for renaming and removing in /tmp, `fork` for processes.",
      examples: [["loopback"]],
    }),
  net: z
    .strictObject({
      allow: z
        .array(
          z
            .string()
            .max(300)
            .regex(DESTINATION_PATTERN, { error: DESTINATION_WANTED, abort: true })
            .refine((text) => parseDestination(text) !== undefined, DESTINATION_WANTED),
        )
        .min(1)
        .max(64)
        .meta({
          description:
            "Destinations, host:port. `*` is any host, `*.example.org` those below it; ports may be a range.",
          examples: [["*:443"], ["*.example.org:80-443"]],
        }),
      connections: positive
        .optional()
        .meta({ description: "At once, of one instance; 8 when left out.", examples: [4] }),
      bytes: byteCount
        .optional()
        .meta({ description: "Of one instance, both ways together; 64MiB when left out.", example: "16MiB" }),
    })
    .optional()
    .describe("Connections out, within the exit policy of the box's relay: `env.net`."),
  storage: z
    .strictObject({
      bytes: byteCount.meta({ description: "At most, of all values together.", example: "1MiB" }),
    })
    .optional()
    .describe("Encrypted values that outlive instances: `env.storage`."),
  bento: z
    .strictObject({
      boxes: z
        .array(z.string().max(300).regex(BOX_PATTERN, 'expected "*", "self" or the address of a box'))
        .min(1)
        .max(BOXES_MAX)
        .default([ANY_BOX, SELF])
        .describe("Boxes by address; `*` is every other box, `self` this one."),
      functions: positive.describe("Functions deployed in all."),
      invocations: positive.optional().describe("Invocations in all; 8 for each function."),
      sessions: positive.optional().describe("Sessions at once; 16 when left out."),
      depth: z
        .int()
        .min(1)
        .max(DEPTH_MAX)
        .default(1)
        .describe("Generations: what is deployed with 1 deploys nothing."),
      bytes: byteCount
        .optional()
        .meta({ description: "Of all sessions, both ways together; 64MiB when left out.", example: "16MiB" }),
    })
    .optional()
    .describe("Deploying functions on boxes: `env.bento`."),
  tor: z
    .strictObject({
      routines: z
        .array(z.enum(TOR_ROUTINES))
        .min(1)
        .max(TOR_ROUTINES.length)
        .describe("What it may do with Tor."),
      circuits: positive.optional().describe("Circuits at once; 4 when left out."),
      streams: positive.optional().describe("Streams at once; 16 when left out."),
      onions: positive.optional().describe("Onion services at once; 1 when left out."),
      extendsPerMinute: positive
        .optional()
        .describe("Circuits built or extended in a minute; 30 when left out."),
      bytes: byteCount
        .optional()
        .meta({ description: "Of all streams, both ways together; 64MiB when left out.", example: "16MiB" }),
    })
    .optional()
    .describe("Tor itself, for what the function owns: `env.tor`."),
  relays: z
    .strictObject({
      links: positive.optional().describe("Links at once; 8 when left out."),
      circuitsPerMinute: positive
        .optional()
        .describe("Circuits begun in a minute, each of up to 9 hops; 60 when left out."),
      bytes: byteCount
        .optional()
        .meta({ description: "Of all links, both ways together; 64MiB when left out.", example: "1GiB" }),
    })
    .optional()
    .describe("Links to relays, for functions that speak Tor's protocol themselves: `env.relays`."),
  box: z
    .array(z.enum(BOX_FACTS))
    .max(BOX_FACTS.length)
    .default([])
    .meta({
      description: "Facts about the box that the function may ask for: `env.box`.",
      examples: [["load"]],
    }),
  memory: byteCount.optional().meta({
    description: "Main memory of one instance, /tmp included; 64MiB when left out.",
    example: "128MiB",
  }),
  cpu: percent
    .optional()
    .meta({ description: "Share of one core, of one instance; 50% when left out.", example: "100%" }),
  pids: positive
    .optional()
    .meta({ description: "Processes and threads of one instance; 32 when left out.", examples: [32] }),
  tmp: byteCount
    .optional()
    .meta({ description: "Private /tmp of one instance, in memory; 8MiB when left out.", example: "16MiB" }),
  instances: positive.optional().meta({ description: "Instances at once; 8 when left out.", examples: [8] }),
  lifetime: duration
    .optional()
    .meta({ description: "How long the function stays installed; 1d when left out.", example: "7d" }),
  runtime: duration
    .optional()
    .meta({ description: "How long one instance may run; 10m when left out.", example: "1h" }),
  backlog: byteCount.optional().meta({
    description: "Output of one instance that waits for a reader; 4MiB when left out.",
    example: "8MiB",
  }),
});

/** As people write it. */
export type ManifestInput = z.input<typeof manifestSchema>;
/** Parsed: sizes in bytes, times in milliseconds, cpu in percent of one core. */
export type Manifest = z.output<typeof manifestSchema>;

/** Parses untrusted JSON. Throws BoxError "bad-manifest" that names every wrong field. */
export function parseManifest(input: unknown): Manifest {
  const result = manifestSchema.safeParse(input);
  if (result.success) return result.data;
  const issues = result.error.issues
    .slice(0, 8)
    .map((issue) => `${issue.path.join(".") || "manifest"}: ${issue.message}`);
  throw new BoxError("bad-manifest", `Cannot read manifest: ${issues.join("; ").slice(0, 1500)}`);
}
