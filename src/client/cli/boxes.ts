// `bento boxes [BOX...]`: asks boxes what they are and what they grant, and says which a choice would take, and what
// stands against each other one. Relay, region and family are the boxes' own claims.

import { DISTINCT } from "../../wire/choose-boxes.ts";
import { type BoxChoice, chooseAmong } from "../choose-boxes.ts";
import { loadPackage } from "../package-loader.ts";
import { type Cli, chooseBox, manifestOf, type ReachOptions, reachBox, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { type Io, printable, table } from "./io.ts";
import { Progress } from "./progress.ts";

export interface BoxesOptions extends ReachOptions {
  readonly for?: string | undefined;
  readonly manifest?: string | undefined;
  readonly count?: number | undefined;
  readonly distinct?: readonly string[] | undefined;
  readonly region?: readonly string[] | undefined;
  readonly avoidRegion?: readonly string[] | undefined;
  readonly not?: readonly string[] | undefined;
}

/** Exit code 4 when fewer boxes suit than --count, or one without it; 0 otherwise. */
export async function boxes(cli: Cli, named: readonly string[], options: BoxesOptions): Promise<ExitCode> {
  const distinct = (options.distinct ?? []).map((kind) => {
    const known = DISTINCT.find((one) => one === kind);
    if (!known) throw usage(`Cannot tell boxes apart by "${kind}": wanted ${DISTINCT.join(" or ")}`);
    return known;
  });
  for (const code of [...(options.region ?? []), ...(options.avoidRegion ?? [])]) {
    if (!/^[A-Za-z]{2}$/.test(code))
      throw usage(`Cannot use region "${code}": wanted a country code of two letters`);
  }
  const manifest =
    options.for === undefined
      ? undefined
      : manifestOf(await loadPackage(options.for, { manifest: options.manifest }));
  const names = await candidates(cli, named, options);
  const reaches = await Promise.all(names.map((name) => reachBox(cli, name, options)));
  let choice: BoxChoice;
  {
    using _progress = new Progress(cli.io, `Asking ${names.length} box${names.length === 1 ? "" : "es"}`);
    choice = await chooseAmong(
      reaches.map(({ box, address, dial }) => ({ name: box, address, dial })),
      {
        manifest,
        constraints: {
          count: options.count ?? names.length,
          distinct,
          regions: options.region,
          avoidRegions: options.avoidRegion,
          not: options.not,
        },
        all: true,
        signal: cli.signal,
      },
    );
  }
  cli.io.result(choice, () => shown(cli.io, choice));
  return choice.chosen.length >= (options.count ?? 1) ? EXIT.ok : EXIT.denied;
}

async function candidates(cli: Cli, named: readonly string[], options: BoxesOptions): Promise<string[]> {
  if (named.length > 0) return [...new Set(named)];
  if (options.box !== undefined) return [options.box];
  const known = Object.keys((await cli.context.read()).boxes);
  // Says what to do where no box is known.
  if (known.length === 0) await chooseBox(cli, options);
  return known;
}

function shown(io: Io, { chosen, left }: BoxChoice): string {
  const rows = [
    ...chosen.map(({ box, name, relay, region, roundTripMs }) => [
      `${io.green("✓")} ${box}`,
      `${Math.round(roundTripMs)} ms`,
      region ?? "–",
      relay?.slice(0, 8) ?? "–",
      printable(name),
    ]),
    ...left.map(({ box, reason }) => [`${io.red("✗")} ${box}`, "", "", "", printable(reason)]),
  ];
  return table(rows);
}
