// `bento bench cold-start`: an instance of an installed function when no runtime waits for it, from the request to
// its first output, per image.

import { systemClock } from "../../base/clock.ts";
import type { BoxClient } from "../../client/client.ts";
import type { InvocationToken } from "../../wire/token.ts";
import { type BenchContext, type Benchmark, type Figure } from "./benchmark.ts";
import { BenchBox } from "./support/box-process.ts";
import { ECHO, firstMessage, invocationOf } from "./support/functions.ts";
import { interleaved, spread } from "./support/samples.ts";

const WARM_UP = 3;
const SAMPLES = 30;
/** The instance of the sample before is cleaned up meanwhile. */
const SETTLE_MS = 50;

export const benchmark: Benchmark = {
  name: "cold-start",
  description: "a new instance with no runtime waiting, until it has answered a message, no Tor",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  context.phase("starting a box without a warm pool");
  await using box = await BenchBox.start({
    toml: "[policy.net]\nenabled = false\n[policy.function]\ninstances = 64\n[warm]\ndeno = 0\npython = 0",
  });
  using client = box.client();
  const tokens = {
    deno: (await client.store(ECHO.deno)).invocationToken,
    python: (await client.store(ECHO.python)).invocationToken,
  };
  const samples = await interleaved(
    {
      deno: () => echoOnce(client, "deno", tokens.deno),
      python: () => echoOnce(client, "python", tokens.python),
    },
    {
      warmUp: WARM_UP,
      samples: SAMPLES,
      signal: context.signal,
      before: () => systemClock.sleep(SETTLE_MS, context.signal),
      onRound: (done, all) => context.phase(`round ${done} of ${all}`),
    },
  );
  return [...spread("deno", samples.deno, { p50: 60 }), ...spread("python", samples.python, { p50: 60 })];
}

async function echoOnce(client: BoxClient, image: "deno" | "python", token: InvocationToken): Promise<void> {
  await using session = await client.run({ token }, invocationOf(image, "echo"));
  await session.send("x");
  await firstMessage(session);
  // Ends the instance; that part is cheap and asked for only after the answer.
  await session.endInput();
}
