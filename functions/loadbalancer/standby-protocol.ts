// What a primary and its standby say to each other, as JSON in each message after the package and the site. The standby
// holds the service's key: its box is trusted as the primary's is.

import { Buffer } from "node:buffer";
import { fromUtf8 } from "../../src/base/bytes.ts";
import type { SeenBatch } from "./seen.ts";
import type { KeptState } from "./state.ts";

/** The argument that a standby is started with. */
export type StandbyStart = {
  readonly standby: {
    readonly version: 1;
    readonly replicaBytes: number;
    readonly siteBytes: number;
    readonly silentMs: number;
    /** An earlier instance of the same function has stored package and site: nothing is sent. */
    readonly isAgain?: true;
  };
};

/** From the primary. Each is a sign of life. */
export type PrimaryMessage = {
  /** Counts up. */
  readonly beat: number;
  /** Where it changed. */
  readonly state?: KeptState;
  /** Introductions that were answered: name of the point, entries in base64. */
  readonly seen?: readonly (readonly [point: string, entries: string])[];
};

/** From the standby. */
export type StandbyMessage =
  /** It has everything, and circuits to the introduction points. */
  | { readonly waiting: { readonly beat: number; readonly circuits: number } }
  /** It is in charge now. */
  | { readonly tookOver: { readonly epoch: number } };

/** Between two signs of life: milliseconds. */
export const BEAT_MS = 500;

export function checkedStandbyStart(given: unknown): StandbyStart["standby"] | undefined {
  const { standby } = (given ?? {}) as { standby?: Partial<StandbyStart["standby"]> };
  if (typeof standby !== "object") return undefined;
  const { version, replicaBytes, siteBytes, silentMs } = standby;
  const isWhole = (value: unknown) => typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
  // A start of a primary has a member of this name, too.
  if (!isWhole(replicaBytes)) return undefined;
  if (version !== 1 || !isWhole(siteBytes) || !isWhole(silentMs))
    throw new Error("Cannot stand by: the request is malformed");
  return standby as StandbyStart["standby"];
}

/** undefined: it is another message, such as an owner's. Throws Error for what is no JSON. */
export function primaryMessage(bytes: Uint8Array): PrimaryMessage | undefined {
  const message = record(JSON.parse(fromUtf8(bytes)));
  return typeof message["beat"] === "number" ? (message as PrimaryMessage) : undefined;
}

/** undefined: it is another message, such as what an owner is told. Throws Error for what is no JSON. */
export function standbyMessage(bytes: Uint8Array): StandbyMessage | undefined {
  const message = record(JSON.parse(fromUtf8(bytes)));
  const isOurs =
    typeof record(message["waiting"])["beat"] === "number" ||
    typeof record(message["tookOver"])["epoch"] === "number";
  return isOurs ? (message as StandbyMessage) : undefined;
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

export function encodeSeen(batches: readonly SeenBatch[]): NonNullable<PrimaryMessage["seen"]> {
  return batches.map(({ point, entries }) => [point, Buffer.from(entries).toString("base64")] as const);
}

export function decodeSeen(seen: NonNullable<PrimaryMessage["seen"]>): SeenBatch[] {
  return seen.map(([point, text]) => ({ point, entries: Uint8Array.from(Buffer.from(text, "base64")) }));
}
