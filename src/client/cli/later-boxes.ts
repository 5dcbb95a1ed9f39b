// The two boxes of an answer that is fetched later: one runs the function, the other keeps the answer. They are different
// boxes beside different relays unless both are named: neither then knows what was fetched and who fetches it.

import { BentoError } from "../../base/errors.ts";
import { type Manifest } from "../../wire/manifest.ts";
import { SELF } from "../../wire/policy.ts";
import { formatAddress } from "../address.ts";
import { type ChosenBox, chooseAmong } from "../choose-boxes.ts";
import { type Cli, type Reach, type ReachOptions, reachBox, usage } from "./cli.ts";

export interface LaterReachOptions extends ReachOptions {
  /** The box that keeps the answer; `box` is the one that runs the function. */
  readonly dropboxBox?: string | undefined;
}

export interface LaterBoxes {
  readonly runner: Reach;
  readonly keeper: Reach;
  /** The keeper's address as the runner reaches it. */
  readonly keeperAddress: string;
}

/** Throws "usage" where too few boxes are known, BentoError "policy-refused" where none suit. */
export async function chooseLaterBoxes(
  cli: Cli,
  options: LaterReachOptions,
  wanted: { readonly runner: readonly Manifest[]; readonly keeper: Manifest },
): Promise<LaterBoxes> {
  const names = Object.keys((await cli.context.read()).boxes);
  const { box, dropboxBox } = options;
  if ((box === undefined || dropboxBox === undefined) && names.length === 0)
    throw usage(
      "Cannot choose boxes: no network is running",
      "Name the box that runs it with --box, and the one that keeps its answer with --dropbox-box.",
    );
  // Ways to a relay are for one box, the one that --box names.
  const others = { direct: options.direct, socks: options.socks };
  const reasons: string[] = [];
  const suitable = async (named: string | undefined, manifests: readonly Manifest[]): Promise<Suitable[]> => {
    if (named !== undefined) return [{ box: named, relay: null }];
    const found = await Promise.all(
      manifests.map((manifest) => survey(cli, names, others, manifest, reasons)),
    );
    const [first = [], ...more] = found;
    return first.filter((one) => more.every((list) => list.some((other) => other.box === one.box)));
  };
  const [runners, keepers] = await Promise.all([
    suitable(box, wanted.runner),
    suitable(dropboxBox, [wanted.keeper]),
  ]);
  const areBothNamed = box !== undefined && dropboxBox !== undefined;
  for (const one of runners) {
    const runner = await reachBox(cli, one.box, box === undefined ? others : options);
    for (const other of keepers) {
      const keeper = await reachBox(cli, other.box, others);
      const isSame =
        formatAddress(runner.address) === formatAddress(keeper.address) ||
        (one.relay !== null && one.relay === other.relay);
      if (isSame && !areBothNamed) continue;
      return { runner, keeper, keeperAddress: await addressFrom(cli, runner, keeper) };
    }
  }
  throw new BentoError(
    "policy-refused",
    `Cannot choose boxes: no two suit (${[...new Set(reasons)].join("; ") || "one box is known, wanted two"})`.slice(
      0,
      2000,
    ),
    { advice: "Name others with --box and --dropbox-box; the same twice if one box shall do both." },
  );
}

type Suitable = Pick<ChosenBox, "box" | "relay">;

async function survey(
  cli: Cli,
  names: readonly string[],
  options: ReachOptions,
  manifest: Manifest,
  reasons: string[],
): Promise<readonly Suitable[]> {
  const boxes = await Promise.all(names.map((name) => reachBox(cli, name, options)));
  const { chosen, left } = await chooseAmong(
    boxes.map(({ box, address, dial }) => ({ name: box, address, dial })),
    { manifest, constraints: { count: names.length }, all: true, signal: cli.signal },
  );
  reasons.push(...left.map(({ box, reason }) => `${box}: ${reason}`));
  return chosen;
}

/** Boxes reach each other through Tor, however this client reaches them. */
async function addressFrom(cli: Cli, runner: Reach, keeper: Reach): Promise<string> {
  if (formatAddress(runner.address) === formatAddress(keeper.address)) return SELF;
  const { boxes } = await cli.context.read();
  const known = Object.hasOwn(boxes, keeper.box) ? boxes[keeper.box] : undefined;
  return known?.address ?? formatAddress(keeper.address);
}
