// The standby of whoever is in charge: where it may be, and what is kept and said of it.

import type { Bento, Package, Storage } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import type { Log } from "../../src/base/log.ts";
import { packageBytes, standbyInput } from "./copies.ts";
import type { Outbox } from "./outbox.ts";
import type { Seen } from "./seen.ts";
import { StandbyKeeper } from "./standby-keeper.ts";
import type { StateKeeper } from "./state.ts";
import { standbyBoxes } from "./takeover.ts";

export interface OwnStandbyParts {
  readonly keeper: StateKeeper;
  readonly bento: Bento;
  readonly storage: Storage;
  readonly seen: Seen;
  readonly replicaPackage: Package;
  /** undefined: it can be started only where it is installed already. */
  readonly standbyPackage: Package | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly outbox: Outbox;
  readonly onTookOver: () => void;
  readonly settled: () => Promise<void>;
}

/** undefined where the owner wants none, or none can be started from here. */
export function keepStandby(parts: OwnStandbyParts): StandbyKeeper | undefined {
  const { keeper, storage, replicaPackage, standbyPackage, outbox } = parts;
  const { start, standbyHomes = [] } = keeper.state;
  const boxes = standbyBoxes(keeper.state);
  const canStart = standbyPackage !== undefined || standbyHomes.some(({ box }) => boxes.includes(box));
  if (boxes.length === 0 || !canStart) return undefined;
  const { bento, seen, clock, log, onTookOver, settled } = parts;
  const standby = new StandbyKeeper({
    boxes,
    pack: standbyPackage,
    state: () => keeper.state,
    input: () => standbyInput(storage, replicaPackage, start.serve.kind === "files"),
    replicaBytes: packageBytes(replicaPackage).length,
    seen,
    bento,
    clock,
    log,
    onEvent: (event) => outbox.event(event),
    onPlace: async (place) => {
      const { standbysPlaced = 0 } = keeper.state;
      await keeper.change({ standby: place, standbysPlaced: standbysPlaced + (place ? 1 : 0) });
      if (place) outbox.say({ standby: place });
    },
    onHomes: async (homes) => keeper.change({ standbyHomes: homes }),
    onReserve: ({ box, invocationToken, shutdownToken, expiresAt }) =>
      outbox.say({ reserve: { box, invocationToken, shutdownToken, expiresAt } }),
    onTookOver,
    settled,
  });
  keeper.onChange = () => standby.stateChanged();
  return standby;
}
