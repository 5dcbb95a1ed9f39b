// `bento lb resume`: another instance of a load balancer whose instance has ended, by a crash or because a box lets none run
// for longer. The function keeps what it needs to go on.

import { parseInvocationToken } from "../../wire/token.ts";
import { eventText, withNames } from "../loadbalancer/event-text.ts";
import { resumeBalancer } from "../loadbalancer/start.ts";
import { type Cli, type ReachOptions, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable } from "./io.ts";
import { findBalancer, namesOfBoxes } from "./lb-places.ts";
import { Progress } from "./progress.ts";

export async function lbResume(
  cli: Cli,
  given: string | undefined,
  options: ReachOptions,
): Promise<ExitCode> {
  using found = await findBalancer(cli, given, options);
  const { name, entry } = found;
  const [primary] = found.places;
  const saved = (await cli.context.read()).functions[name];
  if (!primary || !saved) throw usage(`Cannot resume ${name}: nothing is saved of it`);
  const { client, label } = primary;
  const names = await namesOfBoxes(cli, label);
  using progress = new Progress(cli.io, `Starting ${name} again at ${label}`);
  const what = { token: parseInvocationToken(saved.invocationToken), address: entry.address };
  const instance = await resumeBalancer(client, what, {
    signal: cli.signal,
    onEvent: (event) => {
      cli.io.event({ event: "balancer", ...event });
      const shown = withNames({ event }, names);
      if (!cli.io.json && "event" in shown) cli.io.note(`  ${printable(eventText(shown.event))}`);
    },
  });
  await cli.context.update((data) => {
    const kept = data.balancers[name];
    if (kept) kept.instance = instance;
  });
  progress[Symbol.dispose]();
  cli.io.result({ event: "resumed", name, address: entry.address, box: label }, () => entry.address);
  if (!cli.io.json) cli.io.note(`${cli.io.bold(name)} serves again.`);
  return EXIT.ok;
}
