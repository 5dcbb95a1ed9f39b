// Which replica gets the next client. Pure but for chance.

import type { ScaleSettings } from "../../src/wire/loadbalancer.ts";
import type { ReplicaLink } from "./replica-link.ts";

/**
 * Of those that take clients the one with the fewest, ties at random; or one at random. Not the one to avoid, where there
 * is another. undefined: none can take it now.
 */
export function chooseReplica(
  links: readonly ReplicaLink[],
  how: ScaleSettings["choice"],
  avoid: number | undefined,
  uniform: () => number = Math.random,
): ReplicaLink | undefined {
  const all = links.filter(({ takes }) => takes);
  const others = all.filter(({ place }) => place.id !== avoid);
  const candidates = others.length > 0 ? others : all;
  const least = Math.min(...candidates.map(({ connections }) => connections));
  const best = how === "random" ? candidates : candidates.filter(({ connections }) => connections === least);
  return best[Math.floor(uniform() * best.length)];
}
