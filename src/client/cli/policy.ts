// `bento policy BOX` and `bento check FN [BOX...]`: what a box grants, and whether it would take a function, rule by
// rule, with the same pure function that the box itself decides with.

import { formatBytes } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import type { Refusal } from "../../wire/error-code.ts";
import { type GrantResult, grant, type RuleVerdict } from "../../wire/grant.ts";
import type { Manifest } from "../../wire/manifest.ts";
import type { Policy } from "../../wire/policy.ts";
import { formatDuration } from "../../wire/quantity.ts";
import { BoxClient } from "../client.ts";
import { loadPackage } from "../package-loader.ts";
import { type Cli, chooseBox, manifestOf, type ReachOptions, reachBox } from "./cli.ts";
import { EXIT, type ExitCode, exitCodeOf } from "./exit-code.ts";
import { type Io, printable, table } from "./io.ts";
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
    ["tor", policy.tor ? policy.tor.routines.join(", ") : "none"],
    [
      "relays",
      policy.relays
        ? `at most ${policy.relays.links} links, ${formatBytes(policy.relays.bytes)} an instance`
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
  readonly rules: readonly RuleVerdict[];
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
      const rules: RuleVerdict[] = [];
      try {
        const reach = await reachBox(cli, box, options);
        using client = new BoxClient({ address: reach.address, dial: reach.dial });
        const policy = await client.policy({ signal: cli.signal });
        return { box, result: grant(manifest, policy, (rule) => rules.push(rule)), rules };
      } catch (error) {
        if (error instanceof BentoError && error.code !== "usage") return { box, rules, error };
        throw error;
      }
    }),
  );
  progress[Symbol.dispose]();
  for (const { box, result, rules, error } of verdicts) {
    if (error) cli.io.event({ box, error: { code: error.code, message: error.message } });
    else cli.io.event({ box, ...result, rules });
  }
  if (!cli.io.json) cli.io.print(verdictTable(cli.io, verdicts));
  const answered = verdicts.filter((verdict) => verdict.result);
  if (answered.some((verdict) => verdict.result?.kind === "refused")) return EXIT.denied;
  const [failed] = verdicts.filter((verdict) => verdict.error);
  return failed?.error ? exitCodeOf(failed.error.code) : EXIT.ok;
}

/** One row a rule, one column a box; below, for each box, what it says. */
function verdictTable(io: Io, verdicts: readonly Verdict[]): string {
  const rules = new Map<string, RuleVerdict>();
  for (const verdict of verdicts) for (const rule of verdict.rules) rules.set(rule.rule, rule);
  const asked = verdicts.filter(({ result }) => result);
  const rows = [...rules.values()].map(({ rule, asked: isAsked }) => [
    rule,
    wantedOf(rule, asked) + (isAsked ? "" : " (not asked for)"),
    ...asked.map(({ rules }) => {
      const found = rules.find((each) => each.rule === rule);
      if (!found) return "";
      return `${found.holds ? "✓" : "✗"} ${printable(found.limit)}`;
    }),
  ]);
  const lines = verdicts.map(({ box, result, error }) => {
    if (error) return `${io.red("?")} ${box}: ${printable(error.message)}`;
    if (result?.kind === "refused") {
      const why = result.refusals.map(({ rule }) => rule).join(", ");
      return `${io.red("✗")} ${box}: refuses (${why})`;
    }
    return `${io.green("✓")} ${box}: grants`;
  });
  if (asked.length === 0) return lines.join("\n");
  const head = ["RULE", "WANTED", ...asked.map(({ box }) => box)];
  return [table([head, ...rows]), "", ...lines].join("\n");
}

/** What is wanted is the same everywhere, unless boxes refuse different parts of it, or cap what was left open. */
function wantedOf(rule: string, verdicts: readonly Verdict[]): string {
  const found = verdicts.flatMap(({ rules }) => rules.filter((each) => each.rule === rule));
  return [...new Set(found.map(({ wanted }) => wanted))].join(" / ");
}

/** A refusal in three columns. */
export function refusalRows(refusals: readonly Refusal[]): string[][] {
  return refusals.map(({ rule, wanted, limit }) => [
    `    ${printable(rule)}`,
    `wanted ${printable(wanted)}`,
    `granted ${printable(limit)}`,
  ]);
}

/** What a function gets, capability by capability and limit by limit. */
export function grantRows(manifest: Manifest, policy: Policy): string[][] {
  const rows: string[][] = [];
  grant(manifest, policy, ({ rule, wanted, limit, asked }) => {
    if (rule !== "store") rows.push([`    ${rule}`, wanted, asked ? printable(limit) : "default"]);
  });
  return rows;
}
