// Which boxes a load balancer uses: its own, those of its replicas in order of preference, its standby's. All that are known
// and grant what a replica asks for, unless some are named or there are wishes. Boxes are told the addresses by which
// boxes reach each other, through Tor, however this client reaches them.

import { BentoError } from "../../base/errors.ts";
import { DISTINCT } from "../../wire/choose-boxes.ts";
import { LoadBalancerLimits } from "../../wire/loadbalancer.ts";
import type { Manifest } from "../../wire/manifest.ts";
import { SELF } from "../../wire/policy.ts";
import { formatAddress } from "../address.ts";
import { chooseAmong } from "../choose-boxes.ts";
import { type Cli, chooseBox, type Reach, type ReachOptions, reachBox, usage } from "./cli.ts";

export interface LbReachOptions extends ReachOptions {
  /** Of replicas, in order of preference. */
  readonly boxes?: readonly string[] | undefined;
  /** Of a second load balancer, in order of preference: it waits at one of them. */
  readonly standby?: readonly string[] | undefined;
  readonly distinct?: readonly string[] | undefined;
  readonly region?: readonly string[] | undefined;
  readonly avoidRegion?: readonly string[] | undefined;
  readonly not?: readonly string[] | undefined;
}

export interface LbBoxes {
  readonly primary: Reach;
  /** As the load balancer names them, "self" for its own. */
  readonly replicas: readonly string[];
  /** The load balancer's own box as other boxes name it. */
  readonly ownAddress: string;
  readonly standbys: readonly StandbyBox[];
}

export interface StandbyBox {
  readonly reach: Reach;
  readonly address: string;
}

/** Throws "usage" for boxes that cannot be, "policy-refused" where none suits. */
export async function chooseLbBoxes(
  cli: Cli,
  options: LbReachOptions,
  manifests: { readonly balancer: Manifest; readonly replica: Manifest },
): Promise<LbBoxes> {
  const { boxes, distinct, region, avoidRegion, not } = options;
  if (boxes && [distinct, region, avoidRegion, not].some((wish) => wish !== undefined))
    throw usage("Cannot use --boxes together with wishes: it names the boxes", "Leave one of them out.");
  const primary = await chooseBox(cli, options, manifests.balancer);
  const standbys = await standbysAt(cli, options.standby ?? [], primary, options);
  const replicas = boxes
    ? await named(cli, boxes, primary, options)
    : await suitable(cli, primary, options, manifests.replica);
  return {
    primary,
    standbys,
    replicas: [...new Set(replicas)].slice(0, LoadBalancerLimits.boxesMax),
    ownAddress: await addressOf(cli, primary),
  };
}

/** Ways to a relay are for one box, the one that --box names. */
function othersOf({ direct, socks }: ReachOptions): ReachOptions {
  return { direct, socks };
}

async function standbysAt(
  cli: Cli,
  names: readonly string[],
  primary: Reach,
  options: ReachOptions,
): Promise<StandbyBox[]> {
  const most = 1 + LoadBalancerLimits.standbyOthersMax;
  if (names.length > most)
    throw usage(`Cannot use ${names.length} boxes for the standby: at most ${most}`, "Name fewer.");
  const found: StandbyBox[] = [];
  for (const name of names) {
    const reach = await reachBox(cli, name, othersOf(options));
    const address = await addressFrom(cli, primary, reach);
    if (address === SELF)
      throw usage(
        `Cannot use ${name} for the standby: the load balancer itself is there`,
        "It would go down with it.",
      );
    if (!found.some((one) => one.address === address)) found.push({ reach, address });
  }
  return found;
}

async function named(
  cli: Cli,
  names: readonly string[],
  primary: Reach,
  options: ReachOptions,
): Promise<string[]> {
  const addresses: string[] = [];
  for (const name of names) {
    addresses.push(
      name === SELF ? SELF : await addressFrom(cli, primary, await reachBox(cli, name, othersOf(options))),
    );
  }
  return addresses;
}

/** Of the known boxes, and of the load balancer's own, which comes first: nothing lies in between. */
async function suitable(
  cli: Cli,
  primary: Reach,
  options: LbReachOptions,
  manifest: Manifest,
): Promise<string[]> {
  const byAddress = new Map<string, Reach>([[SELF, primary]]);
  for (const name of Object.keys((await cli.context.read()).boxes)) {
    const reach = await reachBox(cli, name, othersOf(options));
    const address = await addressFrom(cli, primary, reach);
    if (address !== SELF) byAddress.set(address, reach);
  }
  const { distinct = [], region: regions, avoidRegion: avoidRegions, not = [] } = options;
  const kinds = distinct.map((kind) => {
    const known = DISTINCT.find((one) => one === kind);
    if (!known) throw usage(`Cannot tell boxes apart by "${kind}": wanted ${DISTINCT.join(" or ")}`);
    return known;
  });
  const unwanted = await Promise.all(not.map((one) => candidateOf(cli, one, primary, options)));
  const { chosen, left } = await chooseAmong(
    [...byAddress].map(([name, { address, dial }]) => ({ name, address, dial })),
    {
      manifest,
      constraints: { count: byAddress.size, distinct: kinds, regions, avoidRegions, not: unwanted },
      all: true,
      signal: cli.signal,
    },
  );
  if (chosen.length === 0) {
    const reasons = left.map(({ box, reason }) => `${byAddress.get(box)?.box ?? box}: ${reason}`);
    throw new BentoError(
      "policy-refused",
      `Cannot choose boxes for replicas: none is suitable (${reasons.join("; ")})`.slice(0, 2000),
      { advice: "Name them with --boxes; `bento check replica BOX` shows what stands against one." },
    );
  }
  const names = chosen.map(({ box }) => box);
  return [...names.filter((name) => name === SELF), ...names.filter((name) => name !== SELF)];
}

/** A box by its name here, or what the choice knows by itself: an address or a relay's fingerprint. */
async function candidateOf(cli: Cli, text: string, primary: Reach, options: ReachOptions): Promise<string> {
  const { boxes } = await cli.context.read();
  if (!Object.hasOwn(boxes, text)) return text;
  return addressFrom(cli, primary, await reachBox(cli, text, othersOf(options)));
}

async function addressFrom(cli: Cli, from: Reach, to: Reach): Promise<string> {
  if (formatAddress(from.address) === formatAddress(to.address)) return SELF;
  return addressOf(cli, to);
}

async function addressOf(cli: Cli, to: Reach): Promise<string> {
  const { boxes } = await cli.context.read();
  const known = Object.hasOwn(boxes, to.box) ? boxes[to.box] : undefined;
  return known?.address ?? formatAddress(to.address);
}
