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
  $schema: z.string().max(500).optional(),
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9-]{0,63}$/, "expected lower-case letters, digits and hyphens, at most 64"),
  version: z.string().max(32).optional(),
  description: z.string().max(500).optional(),
  image: z.enum(IMAGES),
  /** python: the callable that gets the arguments of an invocation without a call expression. */
  entry: z
    .string()
    .regex(/^[A-Za-z_][A-Za-z0-9_]{0,63}$/, "expected a Python identifier")
    .optional(),
  syscalls: z.array(z.enum(SYSCALL_GROUPS)).max(SYSCALL_GROUPS.length).default([]),
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
        .max(64),
      connections: positive.optional(),
      bytes: byteCount.optional(),
    })
    .optional(),
  storage: z.strictObject({ bytes: byteCount }).optional(),
  bento: z
    .strictObject({
      boxes: z
        .array(z.string().max(300).regex(BOX_PATTERN, 'expected "*", "self" or the address of a box'))
        .min(1)
        .max(BOXES_MAX)
        .default([ANY_BOX, SELF]),
      functions: positive,
      invocations: positive.optional(),
      sessions: positive.optional(),
      depth: z.int().min(1).max(DEPTH_MAX).default(1),
      bytes: byteCount.optional(),
    })
    .optional(),
  tor: z
    .strictObject({
      routines: z.array(z.enum(TOR_ROUTINES)).min(1).max(TOR_ROUTINES.length),
      circuits: positive.optional(),
      streams: positive.optional(),
      onions: positive.optional(),
      extendsPerMinute: positive.optional(),
      bytes: byteCount.optional(),
    })
    .optional(),
  box: z.array(z.enum(BOX_FACTS)).max(BOX_FACTS.length).default([]),
  memory: byteCount.optional(),
  cpu: percent.optional(),
  pids: positive.optional(),
  tmp: byteCount.optional(),
  instances: positive.optional(),
  lifetime: duration.optional(),
  runtime: duration.optional(),
  backlog: byteCount.optional(),
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
