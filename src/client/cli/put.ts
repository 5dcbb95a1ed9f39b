// `bento put FILE...`: each file into a Dropbox of its own, encrypted here; prints the links that fetch them. What a
// broken put needs to go on is saved before any content leaves.

import { randomBytes } from "node:crypto";
import path from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import { parseBytes, parseDuration } from "../../wire/quantity.ts";
import { SEAL_KEY_BYTES } from "../../wire/sealed-file.ts";
import { parseInvocationToken } from "../../wire/token.ts";
import { BoxClient, newIsolation, type StoredFunction } from "../client.ts";
import type { DropboxEntry } from "../context.ts";
import { type FileFacts, fileFacts, plainContent, sealedContent } from "../dropbox/file-content.ts";
import { formatLink } from "../dropbox/link.ts";
import { dropboxPackage, newWriter, type PutContent, putContent, putRequest } from "../dropbox/put.ts";
import { loadPackage } from "../package-loader.ts";
import { boxLabel, type Cli, chooseBox, manifestOf, type Reach, type ReachOptions, usage } from "./cli.ts";
import { findFunction } from "./credentials.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { parsePadding } from "./padding.ts";
import { Progress } from "./progress.ts";
import { saveFunction } from "./store.ts";

export interface PutCommandOptions extends ReachOptions {
  readonly as?: string | undefined;
  readonly gets: number;
  readonly bytes?: string | undefined;
  readonly expires?: string | undefined;
  readonly pad: string;
  /** False with --no-encrypt. */
  readonly encrypt: boolean;
  readonly continue?: string | undefined;
}

export async function put(cli: Cli, files: readonly string[], options: PutCommandOptions): Promise<ExitCode> {
  if (options.continue !== undefined) {
    if (files.length > 1) throw usage("Cannot continue: --continue is for one put");
    return continuePut(cli, options.continue, files[0], options);
  }
  if (files.length === 0) throw usage("Cannot put: no file is named");
  if (options.as !== undefined && files.length > 1)
    throw usage("Cannot put: --as is for one file, several are named");
  const facts: FileFacts[] = [];
  for (const file of files) facts.push(await fileFacts(path.resolve(file)));
  for (const file of facts) await putOne(cli, file, options);
  return EXIT.ok;
}

async function putOne(cli: Cli, file: FileFacts, options: PutCommandOptions): Promise<void> {
  const entry: DropboxEntry = {
    writer: newWriter(),
    ...(options.encrypt ? { key: randomBytes(SEAL_KEY_BYTES).toString("base64url") } : {}),
    file: file.path,
    size: file.size,
    modifiedAt: file.modifiedAt,
    padding: options.pad,
    gets: options.gets,
    ...(options.bytes === undefined ? {} : { bytes: sizeOf(options.bytes) }),
    isSealed: false,
  };
  const content = contentOf(entry);
  const request = requestOf(entry, content);
  const loaded = await loadPackage("dropbox");
  const lifetimeMs = options.expires === undefined ? undefined : durationOf(options.expires);
  const pack = dropboxPackage(loaded.package, request, { size: content.size ?? 0, lifetimeMs });
  const reach = await chooseBox(cli, options, manifestOf({ ...loaded, package: pack }));
  const isolation = newIsolation();
  let name = "";
  const onStored = async (stored: StoredFunction) => {
    name = await saveFunction(cli, options.as ?? "dropbox", stored, reach, isolation);
    await cli.context.update((data) => {
      data.dropboxes[name] = entry;
    });
    link = formatLink({ box: reach.address, token: stored.invocationToken, key: keyOf(entry) });
    expiresAt = stored.expiresAt;
  };
  let link = "";
  let expiresAt = 0;
  await cli.context.checkWritable();
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation });
  const bytes = await transfer(cli, reach, file, content, (callbacks) =>
    putContent(client, { package: pack }, request, content, { ...callbacks, onStored }),
  ).catch((error: unknown) => {
    if (name !== "") cli.io.note(`To go on: ${cli.io.bold(`bento put --continue ${name}`)}`);
    throw error;
  });
  await finish(cli, { name, link, expiresAt, file, bytes, gets: entry.gets });
}

async function continuePut(
  cli: Cli,
  name: string,
  given: string | undefined,
  options: PutCommandOptions,
): Promise<ExitCode> {
  const data = await cli.context.read();
  const entry = Object.hasOwn(data.dropboxes, name) ? data.dropboxes[name] : undefined;
  if (!entry)
    throw usage(`Cannot continue "${name}": no put is saved under this name`, "`bento ls` shows names.");
  const found = await findFunction(cli, name, options);
  const file = await fileFacts(given === undefined ? entry.file : path.resolve(given));
  if (file.size !== entry.size || file.modifiedAt !== entry.modifiedAt)
    throw usage(`Cannot continue "${name}": ${file.path} is not the file it was`, "Put it anew.");
  const content = contentOf({ ...entry, file: file.path });
  const { reach, value: token } = found;
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: found.isolation });
  const bytes = await transfer(cli, reach, file, content, (callbacks) =>
    putContent(client, { token }, requestOf(entry, content), content, callbacks),
  );
  const expiresAt = data.functions[name]?.expiresAt ?? 0;
  const link = formatLink({ box: reach.address, token: parseInvocationToken(token), key: keyOf(entry) });
  await finish(cli, { name, link, expiresAt, file, bytes, gets: entry.gets });
  return EXIT.ok;
}

/** Shows progress while `start` runs. */
async function transfer(
  cli: Cli,
  reach: Reach,
  file: FileFacts,
  content: PutContent,
  start: (callbacks: {
    readonly signal: AbortSignal;
    readonly onKept: (bytes: number) => void;
    readonly onRetry: (retry: { readonly reason: string }) => void;
  }) => Promise<number>,
): Promise<number> {
  const label = `Putting ${path.basename(file.path)} on ${boxLabel(reach)}`;
  using progress = new Progress(cli.io, label, content.size === undefined ? {} : { total: content.size });
  return await start({
    signal: cli.signal,
    onKept: (bytes) => {
      progress.phase(label);
      progress.update(bytes);
      cli.io.event({ event: "kept", bytes });
    },
    onRetry: ({ reason }) => progress.phase(`${reason}; again`),
  });
}

async function finish(
  cli: Cli,
  done: {
    readonly name: string;
    readonly link: string;
    readonly expiresAt: number;
    readonly file: FileFacts;
    readonly bytes: number;
    readonly gets: number;
  },
): Promise<void> {
  const { name, link, expiresAt, file, bytes, gets } = done;
  await cli.context.update((data) => {
    const entry = data.dropboxes[name];
    if (entry) data.dropboxes[name] = { ...entry, isSealed: true };
  });
  const { io } = cli;
  io.result({ event: "put", file: file.path, name, link, bytes, gets, expiresAt }, () => link);
  if (io.json) return;
  const often = gets === 1 ? "once" : `${gets} times`;
  io.note(
    `${formatBytes(bytes)} kept as ${io.bold(name)}, to be fetched ${often} until ${new Date(expiresAt).toISOString()}.`,
  );
  io.note(
    `  The line above is a secret: bento get @FILE-WITH-IT -o FILE · take it back: bento shutdown ${name}`,
  );
}

function contentOf(entry: DropboxEntry): PutContent {
  const file = { path: entry.file, size: entry.size, modifiedAt: entry.modifiedAt };
  const key = keyOf(entry);
  return key ? sealedContent(file, key, parsePadding(entry.padding)) : plainContent(file);
}

function requestOf(entry: DropboxEntry, content: PutContent) {
  return putRequest(entry.writer, content.size ?? 0, { gets: entry.gets, bytes: entry.bytes });
}

function keyOf(entry: DropboxEntry): Uint8Array | undefined {
  return entry.key === undefined ? undefined : Buffer.from(entry.key, "base64url");
}

function sizeOf(text: string): number {
  const bytes = parseBytes(text);
  if (bytes !== undefined && bytes > 0) return bytes;
  throw usage(`Cannot use --bytes "${text}": wanted a size such as 100MiB`);
}

export function durationOf(text: string): number {
  const durationMs = parseDuration(text);
  if (durationMs !== undefined && durationMs > 0) return durationMs;
  throw usage(`Cannot use --expires "${text}": wanted a duration such as 12h or 7d`);
}
