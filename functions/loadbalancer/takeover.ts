// What changes in a load balancer's state when its standby takes it over: who is in charge, at which box, what starts it
// again, and what boxes are called. "self" was the box of the one before; from now on it is another one's name.

import type { KeptStandbyHome, KeptState } from "./state.ts";

/** So that a primary that goes on all the same, counting by ones, never has the epoch of a standby of its own. */
export const TAKEOVER_EPOCHS = 0x1_0000;
/** Of standbys that one primary placed, one after the other, so many are told apart by their epochs. */
const PLACED_MAX = 64;
const SELF = "self";

/** As the standby goes on with what its primary said last. */
export function asTaker(kept: KeptState): KeptState {
  const { renew: former, standby, standbyHomes = [], standbysPlaced = 1, at: _, ...state } = kept;
  const own = standby?.box;
  const before = boxInCharge(kept);
  const named = (box: string) => renamed(box, { before, own });
  const { invocationToken: token, shutdownToken, runtimeMs } = standby ?? {};
  const renew =
    token !== undefined && shutdownToken !== undefined && runtimeMs !== undefined
      ? { renew: { token, shutdownToken, runtimeMs } }
      : {};
  return {
    ...state,
    ...renew,
    ...(own === undefined ? {} : { at: own }),
    start: { ...state.start, boxes: [...new Set(state.start.boxes.map(named))] },
    homes: state.homes.map((home) => ({ ...home, box: named(home.box) })),
    replicas: state.replicas.map((replica) => ({ ...replica, box: named(replica.box) })),
    epoch: state.epoch + TAKEOVER_EPOCHS * Math.min(standbysPlaced, PLACED_MAX),
    standbysPlaced: 0,
    standby: null,
    standbyHomes: [
      ...standbyHomes.filter(({ box }) => box !== own && box !== before),
      ...formerHome(before, former),
    ],
  };
}

/** Where a standby may be, in the owner's order: the boxes that may have the key, but the one in charge. */
export function standbyBoxes(state: Pick<KeptState, "start" | "at">): string[] {
  const { standby } = state.start;
  if (!standby) return [];
  const { box, others = [], own } = standby;
  const all = [box, ...others, ...(own === undefined ? [] : [own])];
  return [...new Set(all)].filter((one) => one !== boxInCharge(state));
}

/** The box that has the service, as others name it; undefined where nobody said. */
function boxInCharge({ at, start }: Pick<KeptState, "start" | "at">): string | undefined {
  return at ?? start.standby?.own;
}

/** Where nobody said what "self" was, it stays: what is not found there is started anew. */
function renamed(
  box: string,
  { before, own }: { readonly before: string | undefined; readonly own: string | undefined },
): string {
  if (before === undefined) return box;
  if (box === SELF) return before;
  return box === own ? SELF : box;
}

/** The function of the one before, where a standby can be started when its box lives; it has package and site. */
function formerHome(box: string | undefined, renew: KeptState["renew"]): KeptStandbyHome[] {
  if (box === undefined || renew?.shutdownToken === undefined) return [];
  const { token: invocationToken, shutdownToken, runtimeMs } = renew;
  return [{ box, invocationToken, shutdownToken, runtimeMs, isFilled: true }];
}
