// `--later` of `bento run` and `bento browse`: starts, and lets go. One box runs the function, another keeps its answer,
// sealed, until `bento get NAME` or `bento browse --collect NAME`. What ends either is saved before anything runs.

import { randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { formatBytes } from "../../base/bytes.ts";
import type { Invocation } from "../../wire/api.ts";
import { BROWSE_DEFAULTS, encodeRequest, encodeSettings, type Shape } from "../../wire/browse.ts";
import { LaterLimits } from "../../wire/later.ts";
import { parseManifest } from "../../wire/manifest.ts";
import { SELF } from "../../wire/policy.ts";
import { parseBytes } from "../../wire/quantity.ts";
import { SEAL_KEY_BYTES } from "../../wire/sealed-file.ts";
import { loadBrowser } from "../browse/browser-package.ts";
import { BoxClient, newIsolation, type StoredFunction } from "../client.ts";
import type { LaterEntry } from "../context.ts";
import { formatLink } from "../dropbox/link.ts";
import { newWriter } from "../dropbox/put.ts";
import { type AnswerTerms, answerDropbox, laterPackage, startLater } from "../later/start.ts";
import { type LoadedPackage, loadPackage } from "../package-loader.ts";
import { endFunction } from "./attached.ts";
import { boxLabel, type Cli, manifestOf, type Reach, savedReach, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { chooseLaterBoxes, type LaterReachOptions } from "./later-boxes.ts";
import { Progress } from "./progress.ts";
import { durationOf } from "./put.ts";
import { saveFunction } from "./store.ts";

export interface LaterOptions extends LaterReachOptions {
  readonly later?: boolean | undefined;
  /** The name that collects the answer. */
  readonly as?: string | undefined;
  /** How long the answer waits, e.g. "12h". */
  readonly expires?: string | undefined;
  /** Room for output, e.g. "64MiB". */
  readonly max?: string | undefined;
}

const OUTPUT_BYTES = 16 * 1024 * 1024;

/** What is left to be run. */
interface Left {
  readonly loaded: LoadedPackage;
  readonly invocation: Invocation;
  readonly input: AsyncIterable<Uint8Array | string>;
  readonly name: string;
  readonly page?: LaterEntry["page"];
  readonly terms: AnswerTerms;
}

/** `bento run FN --later`. */
export async function runLater(
  cli: Cli,
  loaded: LoadedPackage,
  invocation: Invocation,
  input: Readable | undefined,
  options: LaterOptions & { readonly lines?: boolean | undefined },
): Promise<ExitCode> {
  return leave(cli, options, {
    loaded,
    invocation,
    input: messagesOf(input, options.lines ?? false),
    name: loaded.name,
    terms: {
      outputBytesMax: options.max === undefined ? OUTPUT_BYTES : outputBytesOf(options.max),
      padding: { kind: "padme" },
      gets: 1,
      lifetimeMs: options.expires === undefined ? undefined : durationOf(options.expires),
    },
  });
}

/** `bento browse URL --later`. */
export async function browseLater(
  cli: Cli,
  url: URL,
  shape: Shape,
  options: LaterOptions & { readonly scripts?: boolean | undefined },
): Promise<ExitCode> {
  const loaded = await loadBrowser({ urls: [url] });
  const settings = { ...BROWSE_DEFAULTS, shape, scripts: options.scripts ?? false };
  const request = encodeRequest({
    id: 1,
    url: url.href,
    method: "GET",
    body: undefined,
    referrer: undefined,
    stop: false,
  });
  const largest = shape.kind === "bucket" ? shape.bytes.at(-1) : undefined;
  if (largest !== undefined && options.max !== undefined)
    throw usage("Cannot use --max: the largest size of the shape is the room for a page", "Leave it out.");
  return leave(cli, options, {
    loaded,
    invocation: { args: [encodeSettings(settings, JSON.stringify(loaded.package.manifest))] },
    input: (async function* () {
      yield request;
    })(),
    name: "page",
    page: { url: url.href, sizes: shape.kind === "bucket" ? [...shape.bytes] : [] },
    terms: {
      outputBytesMax: largest ?? (options.max === undefined ? OUTPUT_BYTES : outputBytesOf(options.max)),
      // A shaped answer has one of a few sizes already.
      padding: { kind: largest === undefined ? "padme" : "none" },
      gets: 1,
      lifetimeMs: options.expires === undefined ? undefined : durationOf(options.expires),
    },
  });
}

async function leave(cli: Cli, options: LaterOptions, left: Left): Promise<ExitCode> {
  const { loaded, terms } = left;
  const later = (await loadPackage("later")).package;
  const writer = newWriter();
  const key = randomBytes(SEAL_KEY_BYTES);
  const dropbox = answerDropbox((await loadPackage("dropbox")).package, writer, terms);
  const inner = loaded.package;
  using progress = new Progress(cli.io, "Choosing two boxes");
  const { runner, keeper, keeperAddress } = await chooseLaterBoxes(cli, options, {
    runner: [parseManifest(laterPackage(later, inner, SELF, terms).manifest), manifestOf(loaded)],
    keeper: parseManifest(dropbox.package.manifest),
  });
  await cli.context.checkWritable();
  using clients = new DisposableStack();
  const undo = new AsyncDisposableStack();
  await using _undo = undo;
  progress.phase(`Making room at ${boxLabel(keeper)}`);
  const kept = await keepDropbox(cli, keeper, dropbox.package, { clients, undo });
  const entry: LaterEntry = {
    writer,
    key: key.toString("base64url"),
    of: loaded.name,
    gets: terms.gets,
    startedAt: Date.now(),
    ...(left.page ? { page: left.page } : {}),
  };
  const name = await saveFunction(cli, options.as ?? left.name, kept.stored, keeper, kept.isolation);
  undo.defer(() => forgetLater(cli, name));
  await cli.context.update((data) => {
    data.laters[name] = entry;
  });
  progress.phase(`Starting ${loaded.name} at ${boxLabel(runner)}`);
  await startAt(
    cli,
    runner,
    { clients, undo },
    {
      name,
      start: {
        package: laterPackage(later, inner, keeperAddress, terms),
        inner,
        invocation: left.invocation,
        input: left.input,
        key,
        terms,
        dropbox: { box: keeperAddress, token: kept.stored.invocationToken, put: dropbox.put },
      },
    },
  );
  // It runs: from here on both boxes go on without this client.
  undo.move();
  progress[Symbol.dispose]();
  const link = formatLink({
    box: keeper.address,
    token: kept.stored.invocationToken,
    key,
    isAnswer: true,
  });
  return report(cli, { name, link, runner, keeper, isPage: left.page !== undefined, stored: kept.stored });
}

/** What a command holds while it starts something, and what it takes back when that fails. */
interface Stacks {
  readonly clients: DisposableStack;
  readonly undo: AsyncDisposableStack;
}

async function keepDropbox(
  cli: Cli,
  keeper: Reach,
  pack: Parameters<BoxClient["store"]>[0],
  { clients, undo }: Stacks,
): Promise<{ stored: StoredFunction; isolation: string }> {
  const isolation = newIsolation();
  const client = clients.use(new BoxClient({ address: keeper.address, dial: keeper.dial, isolation }));
  const stored = await client.store(pack, { signal: cli.signal });
  undo.defer(() => endFunction(client, stored));
  return { stored, isolation };
}

async function startAt(
  cli: Cli,
  runner: Reach,
  { clients, undo }: Stacks,
  { name, start }: { readonly name: string; readonly start: Parameters<typeof startLater>[1] },
): Promise<void> {
  const isolation = newIsolation();
  const client = clients.use(new BoxClient({ address: runner.address, dial: runner.dial, isolation }));
  await startLater(client, start, {
    signal: cli.signal,
    onStored: async (stored) => {
      undo.defer(() => endFunction(client, stored));
      await cli.context.update((data) => {
        const entry = data.laters[name];
        if (entry) entry.runner = { ...savedReach(runner), isolation, shutdownToken: stored.shutdownToken };
      });
    },
  });
}

/** Forgets an answer that was collected, or that never will be. */
export async function forgetLater(cli: Cli, name: string): Promise<void> {
  await cli.context.update((data) => {
    delete data.functions[name];
    delete data.laters[name];
  });
}

function report(
  cli: Cli,
  left: {
    readonly name: string;
    readonly link: string;
    readonly runner: Reach;
    readonly keeper: Reach;
    readonly isPage: boolean;
    readonly stored: StoredFunction;
  },
): ExitCode {
  const { io } = cli;
  const { name, link, runner, keeper, isPage } = left;
  const { expiresAt } = left.stored;
  io.result({ event: "left", name, link, box: runner.box, dropboxBox: keeper.box, expiresAt }, () => link);
  if (io.json) return EXIT.ok;
  io.note(
    `It runs at ${boxLabel(runner)} now; ${boxLabel(keeper)} keeps its answer until ${new Date(expiresAt).toISOString()}. You can go offline.`,
  );
  io.note(
    `  To collect it, once: ${io.bold(isPage ? `bento browse --collect ${name}` : `bento get ${name} -o FILE`)} · take it back: bento shutdown ${name}`,
  );
  io.note("  The line above is a secret: whoever has it can collect the answer in your place.");
  return EXIT.ok;
}

async function* messagesOf(
  source: Readable | undefined,
  lines: boolean,
): AsyncGenerator<Uint8Array | string> {
  if (!source) return;
  if (lines) yield* createInterface({ input: source, crlfDelay: Number.POSITIVE_INFINITY });
  else yield* source as AsyncIterable<Uint8Array>;
}

function outputBytesOf(text: string): number {
  const bytes = parseBytes(text);
  if (bytes !== undefined && bytes > 0 && bytes <= LaterLimits.outputBytesMax) return bytes;
  throw usage(`Cannot use --max "${text}": wanted a size up to ${formatBytes(LaterLimits.outputBytesMax)}`);
}
