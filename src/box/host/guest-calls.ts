// The calls that a guest may make (spec/guest 5): parameters parsed and bounded here, before a service sees them,
// and what a function may learn of a service's error. Hostile side: everything in `params`.

import { z } from "zod";
import { BentoError } from "../../base/errors.ts";
import { LOG_LEVELS } from "../../wire/api.ts";
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

export const guestCallSchema = z.discriminatedUnion("method", [
  z.strictObject({
    method: z.literal("net.connect"),
    params: z.strictObject({ host: text(1, Limits.hostNameBytesMax), port: z.int().min(1).max(65535) }),
  }),
  z.strictObject({
    method: z.literal("storage.put"),
    params: z.strictObject({ key, create: z.boolean().default(false) }),
  }),
  z.strictObject({
    method: z.literal("storage.get"),
    params: z.strictObject({ key, offset: z.int().nonnegative().default(0) }),
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
  "storage-erased",
  "disk-full",
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
