// Collecting what ran meanwhile: `bento browse --collect NAME` makes the page of it; `bento get NAME` uses `whyMissing`
// when nothing is there. Then both boxes are asked, so that "not yet" and "never" are told apart.

import { BentoError } from "../../base/errors.ts";
import type { Listing } from "../../wire/api.ts";
import { openFile } from "../../wire/sealed-file.ts";
import { parseShutdownToken } from "../../wire/token.ts";
import { BoxClient } from "../client.ts";
import type { LaterEntry } from "../context.ts";
import { type Page, PageReceiver } from "../digest/receive-page.ts";
import { Download, dropboxStatus } from "../dropbox/get.ts";
import { Answer } from "../later/answer.ts";
import { reportOutcome } from "./attached.ts";
import { type BrowseOptions, deliverPage, report } from "./browse.ts";
import { boxLabel, type Cli, reachBox, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { findSource, type Source } from "./get.ts";
import { forgetLater } from "./later.ts";
import { OutputFile } from "./output-file.ts";
import { formatSeconds, Progress } from "./progress.ts";

/** How long the box that ran it may take to say what became of it: milliseconds. */
const ASK_MS = 60_000;

export async function collectPage(cli: Cli, given: string, options: BrowseOptions): Promise<ExitCode> {
  const source = await findSource(cli, given, options);
  if (!source.isAnswer || !source.key || (source.later && !source.later.entry.page))
    throw usage(
      `Cannot collect "${given.slice(0, 80)}": it is no page`,
      "`bento get` fetches what is no page.",
    );
  await using output = options.output === undefined ? undefined : await OutputFile.open(options.output);
  const sizes = source.later?.entry.page?.sizes ?? [];
  const answer = new Answer();
  const { page, bytes } = await receive(cli, source, answer);
  const { outcome } = answer;
  const code = outcome === undefined || outcome.kind === "returned" ? EXIT.ok : reportOutcome(cli, outcome);
  if (!page) return code === EXIT.ok ? EXIT.functionFailed : code;
  const isShaped = sizes.length === 0 || sizes.includes(bytes);
  const file = await deliverPage(cli, page, output, options);
  report(cli, { ...page, isShaped }, file);
  if (code !== EXIT.ok) return code;
  if (page.url === undefined) return EXIT.functionFailed;
  if (!isShaped) return EXIT.integrity;
  return page.verified ? EXIT.ok : EXIT.partial;
}

/** The page, undefined when the function said nothing; then the Dropbox is told that all is here. */
async function receive(
  cli: Cli,
  source: Source,
  answer: Answer,
): Promise<{ page: Page | undefined; bytes: number }> {
  for (;;) {
    try {
      return await receiveOnce(cli, source, answer);
    } catch (error) {
      if (!source.later) throw error;
      // It may have come while the boxes were asked.
      const missing = await whyMissing(cli, source, error);
      if (missing !== "came") throw missing;
    }
  }
}

async function receiveOnce(
  cli: Cli,
  { reach, isolation, token, key, later }: Source,
  answer: Answer,
): Promise<{ page: Page | undefined; bytes: number }> {
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation });
  const label = `Collecting from ${boxLabel(reach)}`;
  using progress = new Progress(cli.io, label);
  await using download = new Download(client, token, {
    signal: cli.signal,
    onRetry: ({ reason }) => progress.phase(`${reason}; again`),
  });
  using receiver = new PageReceiver({});
  let bytes = 0;
  for await (const piece of answer.output(openFile(download.content(), key as Uint8Array))) {
    bytes += piece.length;
    progress.phase(label);
    progress.update(bytes, download.size);
    await receiver.push(piece);
  }
  const page = bytes === 0 ? undefined : await receiver.finish();
  await download.confirm();
  if (later && later.entry.gets === 1) await forgetLater(cli, later.name);
  return { page, bytes };
}

/**
 * What it means that an answer of ours could not be fetched, with `error`: an error to be shown in its place, or "came"
 * when it has come meanwhile.
 */
export async function whyMissing(
  cli: Cli,
  { later, reach, token, isolation }: Source,
  error: unknown,
): Promise<unknown> {
  if (!later || !(error instanceof BentoError)) return error;
  if (error.code !== "dropbox-empty") return error;
  const { entry } = later;
  const state = await stateOf(cli, entry);
  if (state.kind === "unreachable") {
    return new BentoError(
      "box-unreachable",
      `Cannot collect: no answer has come yet, and ${entry.runner?.box ?? "the box"}, which runs ${entry.of}, does not answer (${state.reason})`,
      { advice: "If that box died, no answer will come. Try again later, or start it again." },
    );
  }
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation });
  const { writer } = entry;
  const kept = await dropboxStatus(client, token, { writer, signal: cli.signal }).catch(() => undefined);
  if (kept?.isSealed) return "came";
  const forS = formatSeconds((Date.now() - entry.startedAt) / 1000);
  if (state.kind === "running") {
    return new BentoError(
      "dropbox-empty",
      `Not there yet: ${entry.of} runs at ${state.box}, started ${forS} ago`,
      {
        advice: "Try again later.",
      },
    );
  }
  return new BentoError("answer-lost", `Cannot collect: no answer will come: ${state.reason}`, {
    advice: `Start it again; \`bento shutdown ${later.name}\` frees what is left of it.`,
  });
}

type State =
  | { readonly kind: "running"; readonly box: string }
  | { readonly kind: "over"; readonly reason: string }
  | { readonly kind: "unreachable"; readonly reason: string };

/** What the box that ran it says has become of it. */
async function stateOf(cli: Cli, { runner, of }: LaterEntry): Promise<State> {
  if (!runner) return { kind: "over", reason: `${of} was never started` };
  const { box } = runner;
  try {
    const { direct, socks, relay, control } = runner;
    const reach = await reachBox(cli, box, { direct, socks, relay, torControl: control });
    using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: runner.isolation });
    const signal = AbortSignal.any([cli.signal, AbortSignal.timeout(ASK_MS)]);
    return stateIn(await client.list(parseShutdownToken(runner.shutdownToken), { signal }), box);
  } catch (error) {
    cli.signal.throwIfAborted();
    const code: unknown = error instanceof Error ? Reflect.get(error, "code") : undefined;
    // The function removes itself when everything is delivered, so the other box lost what it had.
    if (code === "bad-token")
      return { kind: "over", reason: `${box} has nothing left of it, and what it delivered is gone` };
    return { kind: "unreachable", reason: error instanceof Error ? error.message : String(error) };
  }
}

function stateIn({ instances }: Listing, box: string): State {
  const last = instances.at(-1);
  if (last && !last.outcome) return { kind: "running", box };
  if (!last?.outcome)
    return { kind: "over", reason: `${box} has lost it; it was restarted, or the instance ended long ago` };
  switch (last.outcome.kind) {
    case "failed":
      return { kind: "over", reason: `${box} could not deliver it (${last.outcome.message})` };
    case "killed":
      return { kind: "over", reason: `${box} ended it (${last.outcome.reason})` };
    case "returned":
      return { kind: "over", reason: `${box} has delivered it, and what it delivered is gone` };
  }
}

/** Ends what still runs for an answer that is no longer wanted. Never throws, never waits long. */
export async function endRunner(cli: Cli, name: string): Promise<void> {
  const { laters } = await cli.context.read();
  const runner = Object.hasOwn(laters, name) ? laters[name]?.runner : undefined;
  if (!runner) return;
  const { box, direct, socks, relay, control, isolation } = runner;
  try {
    const reach = await reachBox(cli, box, { direct, socks, relay, torControl: control });
    using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation });
    const signal = AbortSignal.any([cli.signal, AbortSignal.timeout(END_MS)]);
    await client.shutdown(parseShutdownToken(runner.shutdownToken), { signal });
  } catch {
    // It has removed itself, or ends by itself when its Dropbox is gone.
  }
}

const END_MS = 10_000;
