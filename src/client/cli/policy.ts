// `bento policy BOX` and `bento check FN [BOX...]`: what a box grants, and whether it would take a function, rule by
// rule, with the same pure function that the box itself decides with.

import { formatBytes } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import { type GrantResult, grant } from "../../wire/grant.ts";
import type { Policy } from "../../wire/policy.ts";
import { formatDuration } from "../../wire/quantity.ts";
import { BoxClient } from "../client.ts";
import { loadPackage } from "../package-loader.ts";
import { type Cli, chooseBox, manifestOf, type ReachOptions, reachBox } from "./cli.ts";
import { EXIT, type ExitCode, exitCodeOf } from "./exit-code.ts";
import { printable, table } from "./io.ts";
import { Progress } from "./progress.ts";

export async function policy(cli: Cli, box: string | undefined, options: ReachOptions): Promise<ExitCode> {
  const reach = await chooseBox(cli, { ...options, box: box ?? options.box });
  using client = new BoxClient({ address: reach.address, dial: reach.dial });
  using progress = new Progress(cli.io, `Asking ${reach.box}`);
  const [info, policy] = await Promise.all([
    client.info({ signal: cli.signal }),
    client.policy({ signal: cli.signal }),
  ]);
  progress[Symbol.dispose]();
  cli.io.result({ box: reach.box, info, policy }, () => {
    const facts: string[][] = [
      ["box", `${printable(info.name)} (${printable(info.software)})`],
      ["relay", printable(info.relay ?? "not said")],
      ["contact", printable(info.contact ?? "none")],
      ["accepting", info.accepting ? "yes" : "no: it cannot start functions now"],
      ...policyRows(policy),
    ];
    return table(facts);
  });
  return EXIT.ok;
}

function policyRows(policy: Policy): string[][] {
  const each = policy.function;
  const exit = policy.net?.exit ?? [];
  const shown = exit.slice(0, 12).map(printable);
  return [
    ["store", policy.store ? "takes new functions" : "takes no new functions"],
    ["images", policy.images.join(", ") || "none"],
    ["syscalls", policy.syscalls.join(", ") || "none beyond the runtime's"],
    ["package", `at most ${formatBytes(policy.packageBytes)}`],
    ["memory", `at most ${formatBytes(each.memoryBytes)}`],
    ["cpu", `at most ${each.cpuPercent}% of a core`],
    ["pids", `at most ${each.pids}`],
    ["tmp", `at most ${formatBytes(each.tmpBytes)}`],
    ["instances", `at most ${each.instances}`],
    ["lifetime", `at most ${formatDuration(each.lifetimeMs)}`],
    ["runtime", `at most ${formatDuration(each.runtimeMs)}`],
    ["backlog", `at most ${formatBytes(each.backlogBytes)}`],
    ["storage", policy.storage ? `at most ${formatBytes(policy.storage.bytes)}` : "none"],
    ["facts", policy.box.join(", ") || "none"],
    [
      "net",
      policy.net
        ? `at most ${policy.net.connections} connections, ${formatBytes(policy.net.bytes)} an instance`
        : "none",
    ],
    ...shown.map((rule, index) => [index === 0 ? "exit" : "", rule]),
    ...(exit.length > shown.length
      ? [["", `and ${exit.length - shown.length} more rules (--json shows all)`]]
      : []),
  ];
}

interface Verdict {
  readonly box: string;
  readonly result?: GrantResult;
  readonly error?: BentoError;
}

export interface CheckOptions extends ReachOptions {
  readonly manifest?: string | undefined;
}

/** Exit code 0 when every box asked would take the function, else 4; the error's own when none answered. */
export async function check(
  cli: Cli,
  fn: string,
  boxes: readonly string[],
  options: CheckOptions,
): Promise<ExitCode> {
  const manifest = manifestOf(await loadPackage(fn, { manifest: options.manifest }));
  const known = Object.keys((await cli.context.read()).boxes);
  const wanted = boxes.length > 0 ? boxes : options.box !== undefined ? [options.box] : known;
  if (wanted.length === 0) await chooseBox(cli, options);
  using progress = new Progress(
    cli.io,
    `Asking ${wanted.length === 1 ? wanted[0] : `${wanted.length} boxes`}`,
  );
  const verdicts = await Promise.all(
    wanted.map(async (box): Promise<Verdict> => {
      try {
        const reach = await reachBox(cli, box, options);
        using client = new BoxClient({ address: reach.address, dial: reach.dial });
        return { box, result: grant(manifest, await client.policy({ signal: cli.signal })) };
      } catch (error) {
        if (error instanceof BentoError && error.code !== "usage") return { box, error };
        throw error;
      }
    }),
  );
  progress[Symbol.dispose]();
  for (const verdict of verdicts) showVerdict(cli, verdict);
  const answered = verdicts.filter((verdict) => verdict.result);
  if (answered.some((verdict) => verdict.result?.kind === "refused")) return EXIT.denied;
  const [failed] = verdicts.filter((verdict) => verdict.error);
  return failed?.error ? exitCodeOf(failed.error.code) : EXIT.ok;
}

function showVerdict(cli: Cli, { box, result, error }: Verdict): void {
  const { io } = cli;
  if (error) {
    io.result(
      { box, error: { code: error.code, message: error.message } },
      () => `${io.red("?")} ${box}: ${printable(error.message)}`,
    );
    return;
  }
  if (!result) return;
  io.result({ box, ...result }, () => {
    if (result.kind === "refused") {
      const rows = result.refusals.map(({ rule, wanted, limit }) => [
        `    ${rule}`,
        `wanted ${wanted}`,
        `granted ${printable(limit)}`,
      ]);
      return `${io.red("✗")} ${box}: refuses\n${table(rows)}`;
    }
    const { limits, net, storage, image } = result.grant;
    const rows = [
      ["    image", image],
      ["    memory", formatBytes(limits.memoryBytes)],
      ["    cpu", `${limits.cpuPercent}%`],
      ["    runtime", formatDuration(limits.runtimeMs)],
      ["    lifetime", formatDuration(limits.lifetimeMs)],
      [
        "    net",
        net ? `${net.allow.join(", ")}; ${net.connections} connections, ${formatBytes(net.bytes)}` : "none",
      ],
      ["    storage", storage ? formatBytes(storage.bytes) : "none"],
    ];
    return `${io.green("✓")} ${box}: grants\n${table(rows)}`;
  });
}
