// `bento monitor`: the monitor function of one box, asked for no more than the box's policy reveals, as a live view in
// the terminal or as lines.

import { stripVTControlCharacters } from "node:util";
import { BentoError } from "../../base/errors.ts";
import { BoxClient, newIsolation, type Session, type StoredFunction } from "../client.ts";
import { loadPackage } from "../package-loader.ts";
import { endFunction } from "./attached.ts";
import { boxLabel, type Cli, chooseBox, type ReachOptions } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import type { Io } from "./io.ts";
import { HISTORY_MAX, type Measurement, measurementSchema, monitorLines } from "./monitor-view.ts";
import { Progress } from "./progress.ts";

export interface MonitorOptions extends ReachOptions {
  /** Seconds between measurements. */
  readonly interval: number;
  /** Measurements; 0 until Ctrl-C. */
  readonly count: number;
}

/** A measurement is a few hundred bytes; a box that sends more is not measuring. */
const LINE_BYTES_MAX = 16 * 1024;

export async function monitor(cli: Cli, box: string | undefined, options: MonitorOptions): Promise<ExitCode> {
  const reach = await chooseBox(cli, { ...options, box: box ?? options.box });
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: newIsolation() });
  using progress = new Progress(cli.io, `Asking ${boxLabel(reach)}`);
  const { box: facts } = await client.policy({ signal: cli.signal });
  if (facts.length === 0) {
    throw new BentoError("policy-refused", `Cannot monitor ${boxLabel(reach)}: its policy reveals no facts`, {
      advice: "`bento policy` shows what it grants.",
    });
  }
  const { package: pack } = await loadPackage("monitor");
  const session = await client.run(
    { package: { ...pack, manifest: { ...pack.manifest, box: [...facts] } } },
    { args: [options.count, options.interval * 1000] },
    { signal: cli.signal },
  );
  await using _session = session;
  const leave = () => void session.detach();
  cli.signal.addEventListener("abort", leave, { once: true });
  progress[Symbol.dispose]();
  try {
    await show(cli.io, boxLabel(reach), session);
    if (cli.signal.aborted) return EXIT.interrupted;
    const outcome = await session.ended;
    if (outcome.kind === "returned") return EXIT.ok;
    throw new BentoError("function-failed", `Cannot monitor any longer: the function ${outcome.kind}`);
  } finally {
    cli.signal.removeEventListener("abort", leave);
    await endFunction(client, session.stored as StoredFunction | undefined);
  }
}

async function show(io: Io, label: string, session: Session): Promise<void> {
  const history: Measurement[] = [];
  const isLive = io.stdout.isTTY === true && !io.json;
  let linesDrawn = 0;
  try {
    for await (const message of session) {
      const measurement = parse(message);
      if (!measurement) throw new BentoError("bad-answer", "Cannot monitor: the box sent no measurement");
      if (io.json) {
        io.event(measurement);
        continue;
      }
      history.push(measurement);
      if (history.length > HISTORY_MAX) history.shift();
      const lines = [
        `${io.bold(label)}  ${new Date(measurement.time).toISOString()}`,
        ...monitorLines(history),
      ];
      if (!isLive) {
        io.print(lines.map(plain).join("\n"));
        continue;
      }
      if (linesDrawn > 0) io.stdout.write(`\u001b[${linesDrawn}A`);
      const { columns = 80 } = io.stdout;
      for (const line of lines) io.stdout.write(`\r\u001b[K${line.slice(0, columns - 1)}\n`);
      linesDrawn = lines.length;
    }
  } catch (error) {
    // Detached by Ctrl-C: what was drawn stays.
    if (!(error instanceof BentoError && error.code === "detached")) throw error;
  }
}

/** Without a terminal the course of one line would only repeat: the text alone. */
function plain(line: string): string {
  return stripVTControlCharacters(line).replaceAll(/[▁▂▃▄▅▆▇█]+ */gu, "");
}

function parse(message: Uint8Array): Measurement | undefined {
  if (message.length > LINE_BYTES_MAX) return undefined;
  try {
    return measurementSchema.safeParse(JSON.parse(Buffer.from(message).toString())).data;
  } catch {
    return undefined;
  }
}
