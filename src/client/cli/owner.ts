// `bento shutdown` and `bento ls`: the owner's view of functions, and what this user has saved.

import { formatBytes } from "../../base/bytes.ts";
import type { Listing } from "../../wire/api.ts";
import { boxLabel, type Cli, type ReachOptions, usage } from "./cli.ts";
import { clientOf, findOwned } from "./credentials.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable, table } from "./io.ts";
import { formatSeconds, Progress } from "./progress.ts";

export async function shutdown(cli: Cli, given: string, options: ReachOptions): Promise<ExitCode> {
  const ended = await shutdownFunction(cli, given, options);
  cli.io.result({ instancesEnded: ended }, () => "");
  if (!cli.io.json)
    cli.io.note(`Shut down; ${ended === 1 ? "1 instance was" : `${ended} instances were`} ended.`);
  return EXIT.ok;
}

/** Ends a function and forgets its saved name: how many instances were ended. */
export async function shutdownFunction(cli: Cli, given: string, options: ReachOptions): Promise<number> {
  const found = await findOwned(cli, given, options);
  if (found.name !== undefined && Object.hasOwn((await cli.context.read()).balancers, found.name))
    throw usage(
      `Cannot shut down ${found.name} by itself: it is a load balancer`,
      `\`bento lb stop ${found.name}\` ends its replicas and its standby, too.`,
    );
  if (found.name !== undefined) await (await import("./collect.ts")).endRunner(cli, found.name);
  using client = clientOf(found);
  using _progress = new Progress(cli.io, `Shutting down on ${boxLabel(found.reach)}`);
  const ended = await client.shutdown(found.value, { signal: cli.signal });
  const { name } = found;
  if (name !== undefined) {
    await cli.context.update((data) => {
      delete data.functions[name];
      for (const [key, entry] of Object.entries(data.instances)) {
        if (entry.function === name) delete data.instances[key];
      }
    });
  }
  return ended;
}

/** Without a name: what is saved here. With one: what the box says of that function. */
export async function list(cli: Cli, given: string | undefined, options: ReachOptions): Promise<ExitCode> {
  if (given === undefined) return listSaved(cli);
  const found = await findOwned(cli, given, options);
  using client = clientOf(found);
  using progress = new Progress(cli.io, `Asking ${boxLabel(found.reach)}`);
  const listing = await client.list(found.value, { signal: cli.signal });
  progress[Symbol.dispose]();
  cli.io.result(listing, () => listingText(listing));
  return EXIT.ok;
}

async function listSaved(cli: Cli): Promise<ExitCode> {
  const data = await cli.context.read();
  const now = Date.now();
  const functions = Object.entries(data.functions).map(([name, entry]) => ({
    name,
    box: entry.box,
    expiresAt: entry.expiresAt,
    ...(Object.hasOwn(data.laters, name) ? { answerOf: data.laters[name]?.of } : {}),
    ...(Object.hasOwn(data.balancers, name) ? { serves: data.balancers[name]?.address } : {}),
  }));
  const instances = Object.entries(data.instances).map(([name, entry]) => ({
    name,
    box: entry.box,
    offset: entry.offset,
  }));
  cli.io.result({ functions, instances }, () => {
    if (functions.length + instances.length === 0) return "";
    return table([
      ["KIND", "NAME", "BOX", ""],
      ...functions.map(({ name, box, expiresAt, answerOf, serves }) => [
        answerOf !== undefined
          ? `answer of ${answerOf}`
          : serves === undefined
            ? "function"
            : "load balancer",
        name,
        box,
        `expires in ${formatSeconds((expiresAt - now) / 1000)}`,
      ]),
      ...instances.map(({ name, box, offset }) => ["instance", name, box, `${formatBytes(offset)} read`]),
    ]);
  });
  if (!cli.io.json && functions.length + instances.length === 0)
    cli.io.note("Nothing is saved. `bento store FN` saves a function.");
  return EXIT.ok;
}

function listingText(listing: Listing): string {
  const now = Date.now();
  const head = [
    `name      ${printable(listing.name)}`,
    `image     ${listing.image}`,
    `sha256    ${printable(listing.sourceHash)}`,
    `storage   ${formatBytes(listing.storageBytes)}`,
    `expires   in ${formatSeconds((listing.expiresAt - now) / 1000)}`,
  ];
  if (listing.instances.length === 0) return [...head, "instances none"].join("\n");
  const rows = listing.instances.map((instance) => [
    `${formatSeconds((now - instance.startedAt) / 1000)} ago`,
    instance.outcome ? instance.outcome.kind : instance.attached ? "attached" : "running",
    formatBytes(instance.outputBytes),
    formatBytes(instance.waitingBytes),
  ]);
  return [...head, "", table([["STARTED", "STATE", "OUTPUT", "WAITING"], ...rows])].join("\n");
}
