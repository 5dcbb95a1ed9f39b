// `bento exec TOKEN [ARG...]`: start an instance and leave it running; prints the name to attach to.

import { rememberInstance } from "./attached.ts";
import { boxLabel, type Cli, type ReachOptions } from "./cli.ts";
import { clientOf, findFunction } from "./credentials.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { type InvocationOptions, invocationOf } from "./invocation.ts";
import { Progress } from "./progress.ts";

export interface ExecOptions extends ReachOptions, InvocationOptions {}

export async function exec(
  cli: Cli,
  token: string,
  args: readonly string[],
  options: ExecOptions,
): Promise<ExitCode> {
  const { io } = cli;
  const invocation = invocationOf(args, options);
  const found = await findFunction(cli, token, options);
  await cli.context.checkWritable();
  using client = clientOf(found);
  using progress = new Progress(io, `Starting on ${boxLabel(found.reach)}`);
  const instance = await client.exec(found.value, invocation, { signal: cli.signal });
  progress[Symbol.dispose]();
  const { reach, isolation } = found;
  const name = await rememberInstance(cli, instance, found.name ?? "instance", {
    reach,
    isolation,
    function: found.name,
  });
  io.result({ name, instance, box: reach.box }, () => name);
  if (!io.json) io.note(`Started. Attach: ${io.bold(`bento open ${name}`)}`);
  return EXIT.ok;
}
