// Which of several boxes to use, by what they say of themselves, by their policies and by how fast they answer. Pure:
// the client library and boxes (for their functions) ask the boxes and decide here, so that both choose alike.
// What a box says is untrusted: a lie can make it look suitable, and never keeps another box from being chosen, apart
// from a box that claims to be beside the same relay.

import type { Info } from "./api.ts";
import { grant } from "./grant.ts";
import type { Manifest } from "./manifest.ts";
import type { Policy } from "./policy.ts";

/** Candidates of one choice. */
export const CANDIDATES_MAX = 64;
/** Round trips that differ by less say nothing about the boxes: milliseconds. */
const SAME_SPEED_MS = 100;

export const DISTINCT = ["relay", "family"] as const;
export type Distinct = (typeof DISTINCT)[number];

export interface BoxConstraints {
  /** How many boxes are wanted: 1 when left out. */
  readonly count?: number | undefined;
  /** No two of those chosen beside one relay, or beside relays that name each other as family. */
  readonly distinct?: readonly Distinct[] | undefined;
  /** ISO 3166 codes as operators claim them: only these, and none of these. A box that claims none is in no region. */
  readonly regions?: readonly string[] | undefined;
  readonly avoidRegions?: readonly string[] | undefined;
  /** Addresses and relay fingerprints that are not wanted. */
  readonly not?: readonly string[] | undefined;
}

/** What a box answered, or why it did not. */
export type Candidate =
  | {
      readonly box: string;
      readonly info: Info;
      readonly policy: Policy;
      /** Time of one question and its answer over a circuit that was there. */
      readonly roundTripMs: number;
    }
  | { readonly box: string; readonly failure: string };

export interface ChosenBox {
  readonly box: string;
  readonly name: string;
  readonly relay: string | null;
  readonly region: string | null;
  readonly roundTripMs: number;
}

export interface BoxChoice {
  /** Fastest first; among boxes of about the same speed in random order. */
  readonly chosen: readonly ChosenBox[];
  /** Every other candidate. */
  readonly left: readonly { readonly box: string; readonly reason: string }[];
}

type Answered = Extract<Candidate, { info: Info }>;

/**
 * @param manifest what the boxes must grant; undefined when any policy will do
 * @param random numbers from 0 to 1
 */
export function chooseBoxes(
  candidates: readonly Candidate[],
  manifest: Manifest | undefined,
  constraints: BoxConstraints,
  random: () => number,
): BoxChoice {
  const left: { box: string; reason: string }[] = [];
  const suitable: { candidate: Answered; tie: number }[] = [];
  for (const candidate of candidates) {
    const reason = "failure" in candidate ? candidate.failure : unsuitable(candidate, manifest, constraints);
    if (reason !== undefined) left.push({ box: candidate.box, reason });
    else if ("info" in candidate) suitable.push({ candidate, tie: random() });
  }
  suitable.sort((a, b) => speedOf(a.candidate) - speedOf(b.candidate) || a.tie - b.tie);
  const groups = groupsOf(
    suitable.map(({ candidate }) => candidate),
    constraints.distinct ?? [],
  );
  const taken = new Map<number, string>();
  const chosen: ChosenBox[] = [];
  for (const { candidate } of suitable) {
    const { box, info, roundTripMs } = candidate;
    const group = groups.get(candidate) ?? -1;
    const other = taken.get(group);
    if (other !== undefined)
      left.push({ box, reason: `same ${constraints.distinct?.join(" or ")} as ${other}` });
    else if (chosen.length >= (constraints.count ?? 1))
      left.push({ box, reason: "slower than those chosen" });
    else {
      taken.set(group, box);
      const { name, relay, region } = info;
      chosen.push({ box, name, relay, region, roundTripMs });
    }
  }
  return { chosen, left };
}

/** The first thing that stands against a box by itself. */
function unsuitable(
  { box, info, policy }: Answered,
  manifest: Manifest | undefined,
  { not = [], regions, avoidRegions, distinct = [] }: BoxConstraints,
): string | undefined {
  const unwanted = not.map((text) => text.toUpperCase());
  if (unwanted.includes(box.toUpperCase()) || unwanted.includes(info.relay ?? "")) return "not wanted";
  if (!info.accepting) return "it starts no functions now";
  if (distinct.length > 0 && info.relay === null) return "it does not say beside which relay it is";
  const region = info.region?.toUpperCase();
  const among = (codes: readonly string[]) => codes.some((code) => code.toUpperCase() === region);
  if ((regions ?? avoidRegions) && region === undefined) return "it does not say in which region it is";
  if (regions && !among(regions)) return `region ${region}`;
  if (avoidRegions && among(avoidRegions)) return `region ${region}`;
  if (!manifest) return undefined;
  const result = grant(manifest, policy);
  if (result.kind === "granted") return undefined;
  const rules = result.refusals.map(
    ({ rule, wanted, limit }) => `${rule}: wanted ${wanted}, granted ${limit}`,
  );
  return rules.join("; ").slice(0, 500);
}

function speedOf({ roundTripMs }: Answered): number {
  return Math.round(roundTripMs / SAME_SPEED_MS);
}

/**
 * A number for each candidate: the same for those of which only one may be chosen. Families count when both sides
 * name each other, as Tor has it: else one box could keep all others from being chosen by calling them its family.
 * Chains of such pairs are one group, so that the fastest of each group is the best choice.
 */
function groupsOf(candidates: readonly Answered[], distinct: readonly Distinct[]): Map<Answered, number> {
  const groups = new Map(candidates.map((candidate, index) => [candidate, index]));
  const join = (a: Answered, b: Answered) => {
    const [into, from] = [groups.get(a), groups.get(b)];
    for (const [candidate, group] of groups) {
      if (group === from && into !== undefined) groups.set(candidate, into);
    }
  };
  for (const [index, a] of candidates.entries()) {
    for (const b of candidates.slice(index + 1)) {
      const isFamily = distinct.includes("family") && names(a.info, b.info) && names(b.info, a.info);
      // Every relay is of its own family.
      if (distinct.length > 0 && (isFamily || a.info.relay === b.info.relay)) join(a, b);
    }
  }
  return groups;
}

function names(one: Info, other: Info): boolean {
  return other.relay !== null && one.family.includes(other.relay);
}
