// The box's HTTP interface: paths, bodies, answers (spec/wire 2). Both sides import this and nothing else of
// each other. Credentials travel in `Authorization: Bearer ...`, never in a URL.
//
// GET  /                 page for people
// GET  /v1/info          -> Info
// GET  /v1/policy        -> Policy
// POST /v1/store         Package                          -> 201 Stored
// POST /v1/exec          invocation token, Invocation     -> 201 Started
// GET  /v1/open?offset=N instance id, WebSocket upgrade   -> session frames, one a WebSocket message
// POST /v1/run           [invocation token], session frames both ways (length-prefixed, streamed)
// POST /v1/close         instance id, Close               -> Closed
// GET  /v1/list          shutdown token                   -> Listing
// GET  /v1/logs?after=N&wait=MS  shutdown token           -> LogPage
// POST /v1/shutdown      shutdown token                   -> Ended

import { z } from "zod";
import { functionLimitsSchema, IMAGES } from "./policy.ts";

export const PATHS = {
  page: "/",
  info: "/v1/info",
  policy: "/v1/policy",
  store: "/v1/store",
  exec: "/v1/exec",
  open: "/v1/open",
  run: "/v1/run",
  close: "/v1/close",
  list: "/v1/list",
  logs: "/v1/logs",
  shutdown: "/v1/shutdown",
} as const;

export const MEDIA = {
  json: "application/json",
  problem: "application/problem+json",
  /** A stream of session frames, each preceded by its length (session-frame.ts). */
  session: "application/vnd.bento.session",
} as const;

const jsonValue: z.ZodType<JsonValue> = z.lazy(() =>
  z.union([
    z.null(),
    z.boolean(),
    z.number(),
    z.string(),
    z.array(jsonValue),
    z.record(z.string(), jsonValue),
  ]),
);
export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue };

/**
 * How a function is started: arguments for `invoke(session, env, ...args)`, or a Python call expression. A key
 * "__proto__" of an argument is left out.
 */
export const invocationSchema = z.union([
  z.strictObject({ args: z.array(jsonValue).max(256) }),
  z.strictObject({ call: z.string().min(1) }),
]);
export type Invocation = z.infer<typeof invocationSchema>;

/** Relays of one family that are told: the largest on the public network have some hundreds. */
export const FAMILY_MAX = 1000;

/** Functions that a box comes with. */
export const BUNDLED_MAX = 256;

export const infoSchema = z.object({
  software: z.string().max(100),
  protocol: z.literal(1),
  name: z.string().max(100),
  /** Fingerprint of the companion relay, 40 hexadecimal digits, or null where the box does not say. */
  relay: z.string().max(40).nullable(),
  contact: z.string().max(500).nullable(),
  /** The box's onion address, where it has one. */
  onion: z.string().max(80).nullable(),
  /** Where the operator says that the box is: ISO 3166-1 code of two letters. A claim. */
  region: z
    .string()
    .regex(/^[A-Z]{2}$/)
    .nullable()
    .default(null),
  /** Fingerprints that the companion relay names as its family; counts only where those name it, too. */
  family: z
    .array(z.string().regex(/^[0-9A-F]{40}$/))
    .max(FAMILY_MAX)
    .default([]),
  /** Whether functions can be started, and if not why (no detail). */
  accepting: z.boolean(),
  /** What the box comes with: a package may name such a source by its hash. Nothing that anybody installed. */
  functions: z
    .array(z.object({ name: z.string().max(128), sourceHash: z.string().regex(/^[0-9a-f]{64}$/) }))
    .max(BUNDLED_MAX)
    .default([]),
});
export type Info = z.infer<typeof infoSchema>;

const grantSchema = z.strictObject({
  image: z.enum(IMAGES),
  syscalls: z.array(z.string()),
  net: z.strictObject({ allow: z.array(z.string()), connections: z.int(), bytes: z.int() }).optional(),
  storage: z.strictObject({ bytes: z.int() }).optional(),
  bento: z
    .strictObject({
      boxes: z.array(z.string()),
      functions: z.int(),
      invocations: z.int(),
      sessions: z.int(),
      depth: z.int(),
      bytes: z.int(),
    })
    .optional(),
  tor: z
    .strictObject({
      routines: z.array(z.string()),
      circuits: z.int(),
      streams: z.int(),
      onions: z.int(),
      extendsPerMinute: z.int(),
      bytes: z.int(),
    })
    .optional(),
  relays: z.strictObject({ links: z.int(), circuitsPerMinute: z.int(), bytes: z.int() }).optional(),
  box: z.array(z.string()),
  limits: functionLimitsSchema,
});

export const storedSchema = z.object({
  invocationToken: z.string(),
  shutdownToken: z.string(),
  name: z.string(),
  sourceHash: z.string(),
  grant: grantSchema,
  /** When the box deletes the function: Unix milliseconds. */
  expiresAt: z.int(),
});
export type Stored = z.infer<typeof storedSchema>;

export const startedSchema = z.object({ instance: z.string() });
export type Started = z.infer<typeof startedSchema>;

export const closeSchema = z.strictObject({ kill: z.boolean().default(false) });
export const closedSchema = z.object({ killed: z.boolean() });

export const outcomeSchema = z.discriminatedUnion("kind", [
  /** The function returned. */
  z.object({ kind: z.literal("returned") }),
  /** The function threw. `traceback` holds the function's own frames only. */
  z.object({
    kind: z.literal("failed"),
    name: z.string(),
    message: z.string(),
    traceback: z.string(),
  }),
  /** The box ended it: over a limit, by the owner, by `close --kill`, because the runtime died. */
  z.object({
    kind: z.literal("killed"),
    reason: z.enum([
      "closed",
      "shutdown",
      "expired",
      "runtime-limit",
      "out-of-memory",
      "crashed",
      "box-stopping",
    ]),
    detail: z.string().optional(),
  }),
]);
/** How an instance ended. */
export type Outcome = z.infer<typeof outcomeSchema>;

export const listingSchema = z.object({
  name: z.string(),
  image: z.enum(IMAGES),
  sourceHash: z.string(),
  storedAt: z.int(),
  expiresAt: z.int(),
  storageBytes: z.int(),
  instances: z.array(
    z.object({
      /** Counts the function's instances: what their log lines call them. */
      number: z.int(),
      startedAt: z.int(),
      attached: z.boolean(),
      /** Output bytes so far, and how many of them wait for a reader. */
      outputBytes: z.int(),
      waitingBytes: z.int(),
      outcome: outcomeSchema.optional(),
    }),
  ),
});
export type Listing = z.infer<typeof listingSchema>;

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;

const logLineSchema = z.object({
  /** Rises from line to line of a function: what to ask for the lines after it. */
  position: z.int().nonnegative(),
  /** When the box got it: Unix milliseconds. */
  at: z.int(),
  /** Number of the instance in the listing. */
  instance: z.int(),
  level: z.enum(LOG_LEVELS),
  /** Whatever the function wrote: untrusted. */
  text: z.string(),
});
export type LogLine = z.infer<typeof logLineSchema>;

export const logPageSchema = z.object({
  lines: z.array(logLineSchema),
  /** Where to go on. */
  next: z.int().nonnegative(),
  /** Whether there are more lines now. */
  more: z.boolean(),
  /** Whether lines after the asked position are gone, because newer ones needed their room. */
  missed: z.boolean(),
});
/** Log lines of a function's instances, oldest first. */
export type LogPage = z.infer<typeof logPageSchema>;

export const endedSchema = z.object({ instancesEnded: z.int() });
