// `bento bench message-latency`: a message to a running instance and back, without Tor.

import { type BenchContext, type Benchmark, type Figure } from "./benchmark.ts";
import { BenchBox } from "./support/box-process.ts";
import { ECHO, invocationOf } from "./support/functions.ts";
import { interleaved, spread } from "./support/samples.ts";

const WARM_UP = 500;
const SAMPLES = 4000;
const MESSAGE = "x".repeat(100);

export const benchmark: Benchmark = {
  name: "message-latency",
  description: "a message of 100 bytes to a running instance and its echo, no Tor",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  context.phase("starting a box");
  await using box = await BenchBox.start({
    toml: "[policy.net]\nenabled = false\n[policy.function]\ninstances = 64",
  });
  await box.warmedUp();
  await using deno = await Echo.open(box, "deno");
  await using python = await Echo.open(box, "python");
  const samples = await interleaved(
    { deno: () => deno.exchange(), python: () => python.exchange() },
    { warmUp: WARM_UP, samples: SAMPLES, signal: context.signal },
  );
  return [...spread("deno", samples.deno, { p99: 1 }), ...spread("python", samples.python, { p99: 1 })];
}

/** An echo instance with a session attached. */
class Echo implements AsyncDisposable {
  readonly #session: Awaited<ReturnType<ReturnType<BenchBox["client"]>["run"]>>;
  readonly #messages: AsyncIterator<Uint8Array>;

  private constructor(session: Awaited<ReturnType<ReturnType<BenchBox["client"]>["run"]>>) {
    this.#session = session;
    this.#messages = session[Symbol.asyncIterator]();
  }

  static async open(box: BenchBox, image: "deno" | "python"): Promise<Echo> {
    using client = box.client();
    return new Echo(await client.run({ package: ECHO[image] }, invocationOf(image, "echo")));
  }

  async exchange(): Promise<void> {
    await this.#session.send(MESSAGE);
    await this.#messages.next();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session[Symbol.asyncDispose]();
  }
}
