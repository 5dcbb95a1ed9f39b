// `bento bench bulk-direct`: how fast a function's output leaves a box when no Tor slows it down, so that it is known
// how far the box itself is from limiting a circuit. Against a plain HTTP download from a process without Bento.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { get, type IncomingMessage } from "node:http";
import type { BoxClient } from "../../client/client.ts";
import type { InvocationToken } from "../../wire/token.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { BenchBox } from "./support/box-process.ts";
import { BULK } from "./support/functions.ts";
import { interleaved } from "./support/samples.ts";

const MIB = 2 ** 20;
const BYTES = 64 * MIB;
const SAMPLES = 5;
/** Tor carries less than this on one circuit; a box must not be what limits it. */
const CIRCUIT_MIB_PER_S = 25;

export const benchmark: Benchmark = {
  name: "bulk-direct",
  description: "output of a function without Tor: what the box itself can carry on one session",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  context.phase("starting a box");
  await using box = await BenchBox.start({ toml: "[policy.net]\nenabled = false" });
  using client = box.client();
  const { invocationToken } = await client.store(BULK);
  await using plain = await PlainServer.start();
  const samples = await interleaved(
    { plain: () => plain.download(), bulk: () => output(client, invocationToken) },
    {
      warmUp: 1,
      samples: SAMPLES,
      signal: context.signal,
      before: () => box.warmedUp(),
      onRound: (done, all) => context.phase(`round ${done} of ${all}, ${BYTES / MIB} MiB each`),
    },
  );
  const rate = (of: number[]) => BYTES / MIB / (median(of) / 1000);
  const note = `${BYTES / MIB} MiB, n ${SAMPLES}, median`;
  return [
    {
      name: "function",
      value: rate(samples.bulk),
      unit: "MiB/s",
      target: { least: CIRCUIT_MIB_PER_S },
      note: `${note}; above what one circuit carries`,
    },
    { name: "plain HTTP download", value: rate(samples.plain), unit: "MiB/s", note },
  ];
}

async function output(client: BoxClient, token: InvocationToken): Promise<void> {
  await using session = await client.run({ token }, { args: [BYTES] });
  for await (const _ of session.chunks());
}

const SERVER = `
const body = Buffer.alloc(${BYTES}, 1);
const server = require("node:http").createServer((_, response) => response.end(body));
server.listen(0, "127.0.0.1", () => process.send(server.address().port));
process.once("disconnect", () => process.exit());
`;

class PlainServer implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #port: number;

  private constructor(child: ChildProcess, port: number) {
    this.#child = child;
    this.#port = port;
  }

  static async start(): Promise<PlainServer> {
    const child = spawn(process.execPath, ["-e", SERVER], { stdio: ["ignore", "ignore", "inherit", "ipc"] });
    const [port] = (await once(child, "message")) as [number];
    return new PlainServer(child, port);
  }

  async download(): Promise<void> {
    const request = get({ host: "127.0.0.1", port: this.#port, agent: false });
    const [response] = (await once(request, "response")) as [IncomingMessage];
    for await (const _ of response);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const exited = once(this.#child, "exit");
    this.#child.disconnect();
    await exited;
  }
}
