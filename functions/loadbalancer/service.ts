// The onion service from what is kept of it: its key, its points, what clients may come.

import { Buffer } from "node:buffer";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import { readExpandedKey } from "../../src/onion/crypto/blinding.ts";
import {
  type KnownPoint,
  OnionService,
  type OnionServiceOptions,
} from "../../src/onion/service/onion-service.ts";
import type { TorNode } from "../replica/tor-node.ts";
import { keptPoint } from "./points.ts";
import type { StateKeeper } from "./state.ts";

const POINTS_DEFAULT = 3;

export interface ServiceParts
  extends Pick<
    OnionServiceOptions,
    "onIntroduction" | "onRefused" | "onSeen" | "onPointClaimed" | "onPointLost" | "onPublished"
  > {
  readonly keeper: StateKeeper;
  readonly node: TorNode;
  readonly clock: Clock;
  readonly log: Log;
}

/** Points that the owner wants. */
export function wantedPoints({ state }: StateKeeper): number {
  return state.start.introductionPoints ?? POINTS_DEFAULT;
}

/** Claims the points that are known, or new ones. Throws BentoError `onion-service`, or the signal's reason. */
export async function startService(
  { keeper, node, clock, log, ...handlers }: ServiceParts,
  known: readonly KnownPoint[],
  signal: AbortSignal,
): Promise<OnionService> {
  const { start, published } = keeper.state;
  const clients = start.clients?.map(bytesOf);
  const service = await OnionService.start(
    {
      builder: node.builder,
      paths: node.paths,
      isTestingNetwork: node.isTestingNetwork,
      identity: readExpandedKey(bytesOf(start.key)),
      introductionPoints: wantedPoints(keeper),
      ...(clients ? { clients } : {}),
      clock,
      log,
      onPoints: async (points) => keeper.change({ points: points.map(keptPoint) }),
      ...handlers,
    },
    { known, published: published ?? undefined, signal },
  );
  node.onNetwork = (network) => {
    service.update(network).catch((error: unknown) => {
      log.warn("onion service not published", { error: messageOf(error) });
    });
  };
  return service;
}

function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(Buffer.from(base64, "base64"));
}
