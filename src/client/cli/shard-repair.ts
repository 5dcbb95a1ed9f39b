// `bento shard status|repair`: which shards of a file are still there and honest, and putting anew those that are not.

import { loadPackage } from "../package-loader.ts";
import { type Receipt, readReceipt, writeReceipt } from "../shard/receipt.ts";
import { checkShards, repairShards, type ShardState } from "../shard/repair.ts";
import type { Cli, ReachOptions } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable, table } from "./io.ts";
import { formatSeconds, Progress } from "./progress.ts";
import { durationOf } from "./put.ts";
import { tellFailed, tellFault } from "./shard.ts";
import { ShardBoxes, type ShardReachOptions } from "./shard-boxes.ts";

export async function shardStatus(
  cli: Cli,
  given: string,
  options: Omit<ReachOptions, "box">,
): Promise<ExitCode> {
  const receipt = await readReceipt(given);
  const states = await checkAlone(cli, receipt, options);
  const good = states.filter(({ fault }) => fault === undefined).length;
  const { k, n } = receipt;
  const rows = states.map(({ index, shard, fault, detail }) => ({
    index,
    box: shard?.box,
    expiresAt: shard?.expiresAt,
    state: fault ?? "good",
    ...(detail === undefined ? {} : { detail }),
  }));
  cli.io.result({ k, n, good, shards: rows }, () =>
    [
      table([
        ["SHARD", "BOX", "STATE", "EXPIRES"],
        ...rows.map(({ index, box = "", expiresAt, state }) => [
          String(index),
          printable(box),
          state,
          expiresAt === undefined ? "" : `in ${formatSeconds((expiresAt - Date.now()) / 1000)}`,
        ]),
      ]),
      `${good} of ${n} are good, it takes ${k}.`,
    ].join("\n"),
  );
  return good === n ? EXIT.ok : EXIT.partial;
}

async function checkAlone(
  cli: Cli,
  receipt: Receipt,
  options: Omit<ReachOptions, "box">,
): Promise<ShardState[]> {
  await using boxes = new ShardBoxes(cli, options);
  await boxes.reach(receipt.shards.map(({ box }) => box));
  using _progress = new Progress(cli.io, `Asking ${receipt.shards.length} boxes for a block each`);
  return await checkShards(receipt, {
    signal: cli.signal,
    clientOf: (shard) => boxes.clientOf(shard),
    attemptsMax: 2,
  });
}

export interface ShardRepairOptions extends ShardReachOptions {
  readonly renew?: string | undefined;
}

/** Shards that expire within this share of their lifetime are put anew. */
const RENEW_SHARE = 1 / 3;
const DEFAULT_LIFETIME_MS = 7 * 86_400_000;

export async function shardRepair(cli: Cli, given: string, options: ShardRepairOptions): Promise<ExitCode> {
  const receipt = await readReceipt(given);
  const lifetimeMs = receipt.lifetimeMs ?? DEFAULT_LIFETIME_MS;
  const renewMs = options.renew === undefined ? lifetimeMs * RENEW_SHARE : durationOf(options.renew);
  const states = await checkAlone(cli, receipt, options);
  const good = states.flatMap(({ shard, fault }) => (shard && fault === undefined ? [shard] : []));
  for (const { shard, fault, detail = "" } of states)
    if (shard && fault !== undefined && fault !== "missing") tellFault(cli, shard, fault, detail);
  const expiring = good.filter(({ expiresAt }) => expiresAt - Date.now() < renewMs);
  const lost = states.filter(({ fault }) => fault !== undefined).map(({ index }) => index);
  if (lost.length + expiring.length === 0) {
    cli.io.result({ event: "repaired", put: 0, good: good.length }, () => "");
    if (!cli.io.json) cli.io.note(`All ${receipt.n} shards are good; none expires soon.`);
    return EXIT.ok;
  }
  const count = options.shareBoxes ? Math.min(1, lost.length) : 0;
  const taken = good.flatMap(({ box, relay }) => (relay === undefined ? [box] : [box, relay]));
  await using boxes = await ShardBoxes.choose(cli, options, { count, taken });
  await boxes.reach(receipt.shards.map(({ box }) => box));
  const targets = [
    // A lease is renewed where it is; what was lost goes to boxes that hold no other shard of this file.
    ...expiring.map((shard) => ({ index: shard.index, box: shard.box, client: boxes.clientOf(shard) })),
    ...boxes.freshTargets(
      lost,
      good.map(({ box }) => box),
    ),
  ];
  if (targets.length < lost.length + expiring.length)
    cli.io.note(
      `Only ${targets.length} of ${lost.length + expiring.length} shards have a box to go to: name more with --box.`,
    );
  using progress = new Progress(cli.io, `Putting ${targets.length} shards anew`, {
    total: receipt.sealedBytes,
  });
  const repaired = await repairShards(receipt, good, targets, {
    signal: cli.signal,
    clientOf: (shard) => boxes.clientOf(shard),
    package: (await loadPackage("dropbox")).package,
    lifetimeMs: receipt.lifetimeMs,
    onReceipt: (changed) => writeReceipt(given, changed),
    onProgress: (bytes) => progress.update(bytes),
    onFault: (shard, fault, detail) => tellFault(cli, shard, fault, detail),
    onFailed: ({ index, box }, reason) => tellFailed(cli, index, box, reason),
  });
  const put = repaired.shards.filter((shard) => !receipt.shards.includes(shard)).length;
  const whole = new Set(
    [...good, ...repaired.shards.filter((shard) => !receipt.shards.includes(shard))].map(
      ({ index }) => index,
    ),
  );
  progress[Symbol.dispose]();
  cli.io.result({ event: "repaired", put, good: whole.size }, () => "");
  if (!cli.io.json) cli.io.note(`${put} shards were put anew; ${whole.size} of ${receipt.n} are good.`);
  return whole.size === receipt.n && put === lost.length + expiring.length ? EXIT.ok : EXIT.partial;
}
