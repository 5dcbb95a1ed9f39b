// The calls that a guest may make (spec/guest 5): parameters parsed and bounded here, before a service sees them,
// and what a function may learn of a service's error. Hostile side: everything in `params`.

import { z } from "zod";
import { BentoError } from "../../base/errors.ts";
import { HOPS_MAX } from "../../tor/firewall/choose-path.ts";
import { EVENT_KINDS } from "../../tor/firewall/owner-watch.ts";
import { LOG_LEVELS } from "../../wire/api.ts";
import { BrowseLimits, CELL_BYTES, RATES } from "../../wire/browse.ts";
import type { Refusal } from "../../wire/error-code.ts";
import { Limits } from "../../wire/limits.ts";
import { bentoCallSchemas } from "./bento-call-schemas.ts";
import { RemoteRefusal } from "./bento-error.ts";

/** Text whose UTF-8 is at most `bytesMax` long and that has no lone surrogate. */
function text(bytesMin: number, bytesMax: number) {
  return z.string().refine((value) => {
    const bytes = Buffer.byteLength(value);
    return bytes >= bytesMin && bytes <= bytesMax && value.isWellFormed();
  }, `expected ${bytesMin} to ${bytesMax} bytes of text`);
}

const key = text(1, Limits.storageKeyBytesMax);

const handle = z.int().positive();
const port = z.int().min(1).max(65535);
const fingerprint = z.string().regex(/^[0-9A-Fa-f]{40}$/, "expected 40 hexadecimal digits");
const flag = z.string().regex(/^[A-Za-z0-9]{1,24}$/, "expected a flag such as Guard");
const country = z.string().regex(/^[a-z]{2}$/, "expected two lower-case letters");
const hops = z
  .array(
    z.union([
      z.null(),
      fingerprint,
      z.strictObject({
        flags: z.array(flag).max(16).optional(),
        countries: z.array(country).max(300).optional(),
        exitPort: port.optional(),
      }),
    ]),
  )
  .min(1)
  .max(HOPS_MAX);
const place = { circuit: handle.optional(), isolation: text(0, Limits.nameBytesMax).optional() };
const onlyCircuit = z.strictObject({ circuit: handle });
const onlyOnion = z.strictObject({ onion: handle });

/** spec/tor-firewall 2. */
const torCalls = [
  z.strictObject({ method: z.literal("tor.launch"), params: z.strictObject({ hops }) }),
  z.strictObject({ method: z.literal("tor.built"), params: onlyCircuit }),
  z.strictObject({ method: z.literal("tor.extend"), params: z.strictObject({ circuit: handle, hops }) }),
  z.strictObject({ method: z.literal("tor.close"), params: onlyCircuit }),
  z.strictObject({ method: z.literal("tor.circuits"), params: z.strictObject({}) }),
  z.strictObject({
    method: z.literal("tor.connect"),
    params: z.strictObject({ host: text(1, Limits.hostNameBytesMax), port, ...place }),
  }),
  z.strictObject({
    method: z.literal("tor.resolve"),
    params: z.strictObject({ host: text(1, Limits.hostNameBytesMax), ...place }),
  }),
  z.strictObject({
    method: z.literal("tor.onion.open"),
    params: z.strictObject({
      ports: z.array(port).min(1).max(Limits.onionPortsMax),
      key: z
        .string()
        .regex(/^ED25519-V3:[A-Za-z0-9+/]{86}==$/, "expected ED25519-V3: and 88 characters of base64")
        .optional(),
      keepsKey: z.boolean().default(false),
      clientKeys: z
        .array(z.string().regex(/^[A-Za-z2-7]{52}$/, "expected 52 characters of base32"))
        .max(Limits.onionClientsMax)
        .optional(),
      streamsMax: z.int().min(1).max(65535).optional(),
    }),
  }),
  z.strictObject({ method: z.literal("tor.onion.published"), params: onlyOnion }),
  z.strictObject({ method: z.literal("tor.onion.accept"), params: onlyOnion }),
  z.strictObject({ method: z.literal("tor.onion.close"), params: onlyOnion }),
  z.strictObject({
    method: z.literal("tor.relays"),
    params: z.strictObject({
      flags: z.array(flag).max(16).optional(),
      fingerprints: z.array(fingerprint).max(256).optional(),
    }),
  }),
  z.strictObject({ method: z.literal("tor.descriptor"), params: z.strictObject({ fingerprint }) }),
  z.strictObject({
    method: z.literal("tor.watch"),
    params: z.strictObject({ kinds: z.array(z.enum(EVENT_KINDS)).min(1).max(EVENT_KINDS.length) }),
  }),
] as const;
const torCallSchema = z.discriminatedUnion("method", torCalls);
export type TorCall = z.infer<typeof torCallSchema>;

/** spec/guest 5.3. */
const relaysCalls = [
  z.strictObject({ method: z.literal("relays.network"), params: z.strictObject({}) }),
  z.strictObject({ method: z.literal("relays.link"), params: z.strictObject({ fingerprint }) }),
] as const;
const relaysCallSchema = z.discriminatedUnion("method", relaysCalls);
export type RelaysCall = z.infer<typeof relaysCallSchema>;

/** spec/guest 5.5. */
const answersCalls = [
  z.strictObject({
    method: z.literal("answers.shape"),
    params: z.strictObject({
      bytes: z
        .array(z.int().positive().max(BrowseLimits.bucketBytesMax).multipleOf(CELL_BYTES))
        .min(1)
        .max(BrowseLimits.bucketsMax)
        .refine(
          (sizes) => sizes.every((size, at) => size > (sizes[at - 1] ?? 0)),
          "expected ascending sizes",
        ),
      rate: z.literal(RATES),
      begins: z.enum(["now", "input"]),
    }),
  }),
  z.strictObject({ method: z.literal("answers.room"), params: z.strictObject({}) }),
  z.strictObject({ method: z.literal("answers.finish"), params: z.strictObject({}) }),
  z.strictObject({ method: z.literal("answers.ended"), params: z.strictObject({}) }),
] as const;

export const guestCallSchema = z.discriminatedUnion("method", [
  z.strictObject({
    method: z.literal("net.connect"),
    params: z.strictObject({ host: text(1, Limits.hostNameBytesMax), port }),
  }),
  z.strictObject({
    method: z.literal("storage.put"),
    params: z.strictObject({ key, create: z.boolean().default(false) }),
  }),
  z.strictObject({
    method: z.literal("storage.get"),
    params: z.strictObject({ key, offset: z.int().nonnegative().default(0) }),
  }),
  z.strictObject({
    method: z.literal("storage.send"),
    params: z.strictObject({
      key,
      offset: z.int().nonnegative().default(0),
      bytes: z.int().nonnegative().optional(),
    }),
  }),
  z.strictObject({ method: z.literal("storage.delete"), params: z.strictObject({ key }) }),
  z.strictObject({
    method: z.literal("storage.list"),
    params: z.strictObject({
      prefix: text(0, Limits.storageKeyBytesMax),
      after: text(0, Limits.storageKeyBytesMax).optional(),
      limit: z.int().min(1).max(Limits.storageListMax),
    }),
  }),
  ...bentoCallSchemas,
  z.strictObject({ method: z.literal("box.facts"), params: z.strictObject({}) }),
  z.strictObject({ method: z.literal("self.remove"), params: z.strictObject({}) }),
  ...answersCalls,
  ...torCalls,
  ...relaysCalls,
]);
export type GuestCall = z.infer<typeof guestCallSchema>;

export const guestLogSchema = z.strictObject({
  level: z.enum(LOG_LEVELS),
  // A frame bounds it; the link cuts it to Limits.logTextBytesMax.
  text: z.string(),
});
export type GuestLogLine = z.infer<typeof guestLogSchema>;

export const guestFailureSchema = z.strictObject({
  name: z.string().transform((value) => value.slice(0, 200)),
  message: z.string().transform(cutText),
  traceback: z.string().transform(cutText),
});

function cutText(value: string): string {
  // A UTF-16 unit is at most three bytes of UTF-8; the cut may not leave half a pair.
  return value.slice(0, Limits.errorTextBytesMax / 3).toWellFormed();
}

/** What a refused or failed call tells the function. */
export interface CallRefusal {
  readonly code: string;
  readonly message: string;
  /** The rules of a policy that stand against a manifest. */
  readonly refusals?: readonly Refusal[];
}

/** Errors of services that are meant for functions; everything else stays in the box. */
const CODES_FOR_FUNCTIONS: ReadonlySet<string> = new Set([
  "net-refused",
  "net-limit",
  "net-unreachable",
  "net-timeout",
  "net-closed",
  "storage-quota",
  "storage-key",
  "storage-exists",
  "storage-offset",
  "storage-erased",
  "disk-full",
  "tor-refused",
  "tor-limit",
  "tor-unknown",
  "tor-no-path",
  "tor-circuit-failed",
  "tor-stream-failed",
  "tor-stream-closed",
  "tor-exit-refused",
  "tor-connection-refused",
  "tor-unreachable",
  "tor-timeout",
  "tor-bad-address",
  "tor-onion-descriptor-not-found",
  "tor-onion-descriptor-invalid",
  "tor-onion-introduction-failed",
  "tor-onion-introduction-timeout",
  "tor-onion-rendezvous-failed",
  "tor-onion-auth-missing",
  "tor-onion-auth-wrong",
  "tor-onion-bad-address",
  "tor-gone",
  "tor-closed",
  "relays-refused",
  "relays-limit",
  "relays-unreachable",
  "relays-gone",
  "relays-closed",
  "not-granted",
  "bad-call",
  "too-many-calls",
  "too-large",
  "closed",
]);

/** Each at most 1.1 KiB of text, six times that in JSON at worst: together they fit a frame. */
const REFUSALS_MAX = 8;

/** undefined for an error that a function must not see: the caller logs it and answers "internal". */
export function refusalOf(error: unknown): CallRefusal | undefined {
  if (error instanceof RemoteRefusal) {
    const { code, message, refusals } = error;
    return {
      code: code.slice(0, 64),
      message: message.slice(0, 1000),
      ...(refusals.length > 0 ? { refusals: refusals.slice(0, REFUSALS_MAX) } : {}),
    };
  }
  if (!(error instanceof BentoError) || !CODES_FOR_FUNCTIONS.has(error.code)) return undefined;
  return { code: error.code, message: error.message.slice(0, 1000) };
}
