// Choice of boxes for programs that use the client library: asks each over a context of its own, so that boxes cannot
// tell by circuits that one client asks them all, and decides as boxes do for their functions (wire/choose-boxes.ts).

import { type Clock, systemClock } from "../base/clock.ts";
import { type BoxChoice, type BoxConstraints, type Candidate, chooseBoxes } from "../wire/choose-boxes.ts";
import type { Manifest } from "../wire/manifest.ts";
import { surveyBoxes } from "../wire/survey-boxes.ts";
import type { BoxAddress } from "./address.ts";
import { BoxClient } from "./client.ts";
import type { Dial } from "./dial.ts";

export type { BoxChoice, BoxConstraints, ChosenBox } from "../wire/choose-boxes.ts";

/** A box that may be chosen. */
export interface BoxCandidate {
  /** How the choice names it. */
  readonly name: string;
  readonly address: BoxAddress;
  readonly dial: Dial;
}

export interface ChooseOptions {
  /** What the boxes must grant; left out when any policy will do. */
  readonly manifest?: Manifest | undefined;
  readonly constraints?: BoxConstraints;
  /** Wait for every box, also when there are enough: for listings. */
  readonly all?: boolean;
  /** Told why a box could not be asked. */
  readonly onError?: (box: string, error: unknown) => void;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
  readonly random?: () => number;
}

/** Fewer than `count` may be chosen; `left` says for each other box why. Rejects with the signal's reason only. */
export async function chooseAmong(
  boxes: readonly BoxCandidate[],
  { manifest, constraints = {}, all = false, signal, onError, ...options }: ChooseOptions,
): Promise<BoxChoice> {
  const { clock = systemClock, random = Math.random } = options;
  const byName = new Map(boxes.map((box) => [box.name, box]));
  const choose = (found: readonly Candidate[]) => chooseBoxes(found, manifest, constraints, random);
  using clients = new DisposableStack();
  const ask = (name: string) => {
    const { address, dial } = byName.get(name) as BoxCandidate;
    const client = clients.use(new BoxClient({ address, dial, clock }));
    const telling = async <T>(answer: Promise<T>): Promise<T> => {
      answer.catch((error: unknown) => onError?.(name, error));
      return answer;
    };
    return {
      info: (wait: AbortSignal) => telling(client.info({ signal: wait })),
      policy: (wait: AbortSignal) => telling(client.policy({ signal: wait })),
    };
  };
  const candidates = await surveyBoxes([...byName.keys()], ask, {
    clock,
    signal,
    ...(all ? {} : { enough: (found) => choose(found).chosen.length >= (constraints.count ?? 1) }),
  });
  return choose(candidates);
}
