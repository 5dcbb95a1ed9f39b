// The path of a circuit to one relay: a guard of tor's own, a middle relay by bandwidth, the target. As tor does, no two
// relays of one operator: not of one family, nor of one /16 (or IPv6 /32) unless this network does without that rule.
// Spec: path-spec 2.2, dir-spec 3.4.1 (status entries), 3.3 (microdescriptors), prop. 321 (family-ids).

import { BentoError } from "../base/errors.ts";
import type { ControlClient, Wait } from "./control-client.ts";
import {
  areFamily,
  type Family,
  isUsable,
  type ListedRelay,
  membersOf,
  NO_FAMILY,
  names,
  parseFamily,
  parseGuards,
  parseRelays,
  pickByBandwidth,
  shareSubnet,
} from "./relay-list.ts";

/** What is asked of a control client here. */
export type PathSource = Pick<ControlClient, "getInfo" | "getConf">;

/** Middle relays that are looked at before giving up: each costs one question to the local tor. */
const MIDDLES_TRIED_MAX = 30;

/** Three fingerprints. Throws BentoError "tor-circuit-failed" when there is no such path. */
export async function choosePath(control: PathSource, target: string, wait: Wait = {}): Promise<string[]> {
  const info = await control.getInfo(["entry-guards", "ns/all"], wait);
  const conf = await control.getConf(["EnforceDistinctSubnets", "NodeFamily"], wait);
  const relays = parseRelays(info["ns/all"]).filter(isUsable);
  const last = relays.find(({ fingerprint }) => fingerprint === target);
  const apart = new Apart(control, {
    distinctSubnets: conf.EnforceDistinctSubnets[0] !== "0",
    groups: conf.NodeFamily.map(membersOf),
    wait,
  });
  // Tor's guards protect against a first relay that changes all the time; a guard of our own choice would undo that.
  let guard: ListedRelay | undefined;
  for (const fingerprint of parseGuards(info["entry-guards"])) {
    const relay = relays.find((one) => one.fingerprint === fingerprint);
    if (!relay || fingerprint === target || !(await apart.areApart(relay, last))) continue;
    guard = relay;
    break;
  }
  if (!guard) throw noPath("none of Tor's guards is usable with this relay");
  const left = relays.filter(
    ({ fingerprint }) => fingerprint !== target && fingerprint !== guard.fingerprint,
  );
  for (let tries = 0; tries < MIDDLES_TRIED_MAX; tries++) {
    const middle = pickByBandwidth(left);
    if (!middle) break;
    if ((await apart.areApart(middle, guard)) && (await apart.areApart(middle, last)))
      return [guard.fingerprint, middle.fingerprint, target];
    left.splice(left.indexOf(middle), 1);
  }
  throw noPath("no relay is left for the middle");
}

/** Whether two relays may serve on one circuit. Families are asked for as they are needed, each once. */
class Apart {
  readonly #control: PathSource;
  readonly #rules: {
    readonly distinctSubnets: boolean;
    readonly groups: readonly ReadonlySet<string>[];
    readonly wait: Wait;
  };
  readonly #families = new Map<string, Promise<Family>>();

  constructor(
    control: PathSource,
    rules: { distinctSubnets: boolean; groups: readonly ReadonlySet<string>[]; wait: Wait },
  ) {
    this.#control = control;
    this.#rules = rules;
  }

  async areApart(one: ListedRelay, other: ListedRelay | undefined): Promise<boolean> {
    if (!other) return true;
    if (one.fingerprint === other.fingerprint) return false;
    if (this.#rules.distinctSubnets && shareSubnet(one, other)) return false;
    if (this.#rules.groups.some((group) => names(group, one) && names(group, other))) return false;
    const [ofOne, ofOther] = await Promise.all([this.#family(one), this.#family(other)]);
    return !areFamily({ ...one, family: ofOne }, { ...other, family: ofOther });
  }

  async #family({ fingerprint }: ListedRelay): Promise<Family> {
    const asked = this.#families.get(fingerprint) ?? this.#ask(fingerprint);
    this.#families.set(fingerprint, asked);
    return asked;
  }

  async #ask(fingerprint: string): Promise<Family> {
    // A tor has microdescriptors or, with UseMicrodescriptors 0, whole ones; the lines read alike.
    for (const key of [`md/id/${fingerprint}`, `desc/id/${fingerprint}`] as const) {
      try {
        return parseFamily((await this.#control.getInfo([key], this.#rules.wait))[key] ?? "");
      } catch (error) {
        if (!(error instanceof BentoError) || error.code !== "tor-refused") throw error;
      }
    }
    return NO_FAMILY;
  }
}

function noPath(why: string): BentoError {
  return new BentoError("tor-circuit-failed", `Cannot build circuit: ${why}`, {
    advice: "Try again in a minute, or use the box's onion address.",
  });
}
