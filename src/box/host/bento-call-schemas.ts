// The parameters of the calls behind `env.bento` (spec/guest 5), bounded before a service sees them. Hostile side:
// all of it.

import { z } from "zod";
import { invocationSchema } from "../../wire/api.ts";
import { CANDIDATES_MAX, DISTINCT } from "../../wire/choose-boxes.ts";
import { BOXES_MAX } from "../../wire/policy.ts";

/** An address, or "self". */
const box = z.string().min(1).max(300);
const token = z.string().min(1).max(200);
const region = z.string().regex(/^[A-Za-z]{2}$/);
/** There are about 250. */
const REGIONS_MAX = 300;
const linked = z.boolean().default(false);

export const bentoCallSchemas = [
  z.strictObject({ method: z.literal("bento.info"), params: z.strictObject({ box }) }),
  z.strictObject({ method: z.literal("bento.policy"), params: z.strictObject({ box }) }),
  z.strictObject({ method: z.literal("bento.deploy"), params: z.strictObject({ box, linked }) }),
  z.strictObject({
    method: z.literal("bento.exec"),
    params: z.strictObject({ box, token, invocation: invocationSchema }),
  }),
  z.strictObject({
    method: z.literal("bento.run"),
    params: z.strictObject({
      box,
      /** Absent: the package comes first on the stream. */
      token: token.optional(),
      invocation: invocationSchema,
      linked,
      endInput: z.boolean().default(false),
    }),
  }),
  z.strictObject({
    method: z.literal("bento.open"),
    params: z.strictObject({ box, instance: token, offset: z.int().nonnegative().optional() }),
  }),
  z.strictObject({
    method: z.literal("bento.close"),
    params: z.strictObject({ box, instance: token, kill: z.boolean().default(true) }),
  }),
  z.strictObject({
    method: z.literal("bento.choose"),
    params: z.strictObject({
      boxes: z.array(box).min(1).max(CANDIDATES_MAX),
      /** As its author wrote it. Absent: any policy will do. */
      manifest: z.record(z.string(), z.unknown()).optional(),
      constraints: z
        .strictObject({
          count: z.int().min(1).max(CANDIDATES_MAX).optional(),
          distinct: z.array(z.enum(DISTINCT)).max(DISTINCT.length).optional(),
          regions: z.array(region).max(REGIONS_MAX).optional(),
          avoidRegions: z.array(region).max(REGIONS_MAX).optional(),
          not: z.array(box).max(BOXES_MAX).optional(),
        })
        .default({}),
    }),
  }),
  z.strictObject({ method: z.literal("bento.shutdown"), params: z.strictObject({ box, token }) }),
] as const;
