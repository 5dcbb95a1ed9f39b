// What one function has used of its `bento` grant (spec/policy 2.4), all its instances together, as long as it is
// installed. Charged before anything is awaited, so that two calls at once cannot both take the last of it; what
// was not used is given back. The function is hostile. Pure: counts, and does nothing else.

import { formatBytes } from "../../base/bytes.ts";
import { type BentoGrant, bentoNeeds } from "../../wire/grant.ts";
import type { Manifest } from "../../wire/manifest.ts";
import { ANY_BOX, SELF } from "../../wire/policy.ts";
import { RemoteRefusal } from "./bento-error.ts";

/** Requests of one function that wait for an answer at once, those of its sessions excepted. */
export const REQUESTS_AT_ONCE = 32;
/** Bytes that each request costs, whatever it carries: else a function could knock at boxes without end. */
export const REQUEST_BYTES = 4096;

/** What a call takes for good. */
export interface Cost {
  readonly functions?: number;
  readonly invocations?: number;
  readonly bytes?: number;
}

/** What was taken; giving it back twice is fine. */
export interface Charge {
  giveBack(): void;
}

export class BentoBudget {
  #functions = 0;
  #invocations = 0;
  #bytes = 0;
  #sessions = 0;
  #requests = 0;

  /** What was used so far. */
  get used() {
    return {
      functions: this.#functions,
      invocations: this.#invocations,
      bytes: this.#bytes,
      sessions: this.#sessions,
    };
  }

  /** All of `cost` or nothing. Throws RemoteRefusal "bento-budget". */
  charge(grant: BentoGrant, cost: Cost): Charge {
    const { functions = 0, invocations = 0, bytes = 0 } = cost;
    const beyond = (
      name: string,
      used: number,
      wanted: number,
      limit: number,
      show: (count: number) => string = String,
    ) => {
      // Nothing wanted is never too much, also where a policy was lowered since.
      if (wanted === 0 || used + wanted <= limit) return;
      throw new RemoteRefusal(
        "bento-budget",
        `Cannot go on: ${name} ${show(wanted)} exceed what is left, ${show(Math.max(0, limit - used))} of ${show(limit)}`,
      );
    };
    beyond("functions", this.#functions, functions, grant.functions);
    beyond("invocations", this.#invocations, invocations, grant.invocations);
    beyond("bytes", this.#bytes, bytes, grant.bytes, formatBytes);
    this.#functions += functions;
    this.#invocations += invocations;
    this.#bytes += bytes;
    return once(() => {
      this.#functions -= functions;
      this.#invocations -= invocations;
      this.#bytes -= bytes;
    });
  }

  /** Room for one session. Throws RemoteRefusal "bento-limit". */
  takeSession(grant: BentoGrant): Charge {
    if (this.#sessions >= grant.sessions) {
      throw new RemoteRefusal(
        "bento-limit",
        `Cannot attach: ${this.#sessions} sessions are open, and no more are granted`,
      );
    }
    this.#sessions++;
    return once(() => {
      this.#sessions--;
    });
  }

  /** Room for one request, and its bytes. Throws RemoteRefusal "bento-limit" or "bento-budget". */
  takeRequest(grant: BentoGrant): Charge {
    if (this.#requests >= REQUESTS_AT_ONCE) {
      throw new RemoteRefusal("bento-limit", `Cannot ask: ${REQUESTS_AT_ONCE} requests wait for answers`);
    }
    this.charge(grant, { bytes: REQUEST_BYTES });
    this.#requests++;
    return once(() => {
      this.#requests--;
    });
  }
}

/**
 * What deploying costs the one who deploys: the function itself and, since the tree below a function must never be
 * larger than its own grant, everything that the function may deploy, invoke and carry in its turn.
 * Throws RemoteRefusal "bento-depth" or "bento-refused" when it asks for more than its parent could hand on.
 */
export function costOfDeploying(manifest: Manifest, grant: BentoGrant, packageBytes: number): Required<Cost> {
  if (!manifest.bento) return { functions: 1, invocations: 0, bytes: packageBytes };
  const child = bentoNeeds(manifest.bento);
  if (child.depth >= grant.depth) {
    throw new RemoteRefusal(
      "bento-depth",
      `Cannot deploy: bento.depth ${child.depth} of its manifest, expected less than ${grant.depth}, this function's own`,
    );
  }
  // "self" of the far box is the far box, which was allowed already.
  const wider = child.boxes.filter((box) => box !== SELF && !hasBox(grant, box));
  if (wider.length > 0) {
    throw new RemoteRefusal(
      "bento-refused",
      `Cannot deploy: its manifest names boxes that this function may not use: ${wider.join(", ").slice(0, 300)}`,
    );
  }
  return {
    functions: 1 + child.functions,
    invocations: child.invocations,
    bytes: packageBytes + child.bytes,
  };
}

function hasBox(grant: BentoGrant, box: string): boolean {
  return grant.boxes.includes(ANY_BOX) || grant.boxes.includes(box);
}

function once(giveBack: () => void): Charge {
  let held = true;
  return {
    giveBack() {
      if (!held) return;
      held = false;
      giveBack();
    },
  };
}
