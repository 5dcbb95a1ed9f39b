// Who gets in: functions by the policy, instances by the room that is left (docs/spec/policy.md 5). Decides and
// counts, starts nothing. Room is reserved before anything is awaited, so that two requests at once cannot both
// take the last of it. How many functions are installed is bounded by the store itself.

import { formatBytes } from "../../base/bytes.ts";
import { assert } from "../../base/errors.ts";
import { BoxError } from "../../wire/error-code.ts";
import { type Grant, grant } from "../../wire/grant.ts";
import type { FunctionPackage } from "../../wire/package.ts";
import type { FunctionLimits, Policy } from "../../wire/policy.ts";
import type { FunctionId } from "../store/function-store.ts";

/** Room for one instance. Giving it back twice is fine. */
export type InstanceSlot = Disposable;

export class Admission {
  #policy: Policy;
  #unavailable = true;
  #instances = 0;
  #memoryBytes = 0;
  readonly #perFunction = new Map<FunctionId, number>();

  /** No instance is admitted before `setAvailable(true)`: somebody must have found the sandbox working. */
  constructor(policy: Policy) {
    this.#policy = policy;
  }

  get policy(): Policy {
    return this.#policy;
  }

  /** Takes effect for functions and instances from now on; those that run keep what they were granted. */
  setPolicy(policy: Policy): void {
    this.#policy = policy;
  }

  /** Whether the sandbox can enforce its limits. False refuses every instance. */
  setAvailable(available: boolean): void {
    this.#unavailable = !available;
  }

  /** Whether an instance could start now: what `/v1/info` calls accepting. */
  get accepting(): boolean {
    return !this.#unavailable && this.#instances < this.#policy.total.instances;
  }

  /** Running instances, and the memory that is promised to them. */
  get used(): { readonly instances: number; readonly memoryBytes: number } {
    return { instances: this.#instances, memoryBytes: this.#memoryBytes };
  }

  /** What a new function gets. Throws BoxError "store-closed", "too-large" or "policy-refused". */
  admitFunction(pack: FunctionPackage): Grant {
    const { store, packageBytes } = this.#policy;
    if (!store) throw new BoxError("store-closed", "Cannot store function: this box takes no new ones");
    const bytes = Buffer.byteLength(pack.source) + Buffer.byteLength(JSON.stringify(pack.manifestInput));
    if (bytes > packageBytes) {
      throw new BoxError(
        "too-large",
        `Cannot store function: package of ${formatBytes(bytes)} exceeds policy ${formatBytes(packageBytes)}`,
      );
    }
    return this.#grant("store function", pack, this.#policy);
  }

  /** What an installed function gets by the policy of today. Throws BoxError "policy-refused". */
  admitInvocation(pack: FunctionPackage): Grant {
    // A box that takes no new functions still runs those it has.
    return this.#grant("start instance", pack, { ...this.#policy, store: true });
  }

  /**
   * Reserves room for one instance of a function. The caller gives it back when the instance has ended.
   * Throws BoxError "functions-unavailable", "too-many-instances" or "box-full".
   */
  reserveInstance(id: FunctionId, limits: FunctionLimits): InstanceSlot {
    if (this.#unavailable) {
      throw new BoxError("functions-unavailable", "Cannot start instance: the sandbox is not ready");
    }
    const running = this.#perFunction.get(id) ?? 0;
    if (running >= limits.instances) {
      throw new BoxError(
        "too-many-instances",
        `Cannot start instance: ${running} run, and the function may have ${limits.instances}`,
      );
    }
    const { total } = this.#policy;
    if (this.#instances >= total.instances) {
      throw new BoxError("box-full", `Cannot start instance: this box runs ${this.#instances} and no more`);
    }
    if (this.#memoryBytes + limits.memoryBytes > total.memoryBytes) {
      const left = formatBytes(Math.max(0, total.memoryBytes - this.#memoryBytes));
      throw new BoxError(
        "box-full",
        `Cannot start instance: memory ${formatBytes(limits.memoryBytes)} exceeds what is left, ${left}`,
      );
    }
    this.#instances++;
    this.#memoryBytes += limits.memoryBytes;
    this.#perFunction.set(id, running + 1);
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        this.#giveBack(id, limits.memoryBytes);
      },
    };
  }

  #giveBack(id: FunctionId, memoryBytes: number): void {
    const running = this.#perFunction.get(id);
    assert(running !== undefined && running > 0, "a slot is given back to the function it was taken from");
    this.#instances--;
    this.#memoryBytes -= memoryBytes;
    if (running === 1) this.#perFunction.delete(id);
    else this.#perFunction.set(id, running - 1);
  }

  #grant(action: string, pack: FunctionPackage, policy: Policy): Grant {
    const result = grant(pack.manifest, policy);
    if (result.kind === "granted") return result.grant;
    const { refusals } = result;
    const rules = refusals.map(({ rule, wanted, limit }) => `${rule}: wanted ${wanted}, policy ${limit}`);
    throw new BoxError("policy-refused", `Cannot ${action}: ${rules.join("; ").slice(0, 1500)}`, {
      refusals,
    });
  }
}
