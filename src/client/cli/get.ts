// `bento get WHAT -o FILE`: what lies in a Dropbox, verified and decrypted here. WHAT is a link, a saved name, a file
// or standard input with either, or TOKEN@BOX. An interrupted download goes on when the same command is given again:
// FILE.part keeps what was verified, FILE.part.json the ticket.

import { formatBytes } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import { openFile, SEGMENT_BYTES, SEGMENT_CAPACITY } from "../../wire/sealed-file.ts";
import { type InvocationToken, parseInvocationToken } from "../../wire/token.ts";
import { formatAddress } from "../address.ts";
import { BoxClient, newIsolation } from "../client.ts";
import type { LaterEntry } from "../context.ts";
import { Download } from "../dropbox/get.ts";
import { isDropboxLink, parseLink } from "../dropbox/link.ts";
import { tokenName } from "../dropbox/put.ts";
import { Answer } from "../later/answer.ts";
import { reportOutcome } from "./attached.ts";
import { boxLabel, type Cli, chooseBox, type Reach, type ReachOptions, reachBox, usage } from "./cli.ts";
import { readSecret } from "./credentials.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { forgetLater } from "./later.ts";
import { PartFile } from "./part-file.ts";
import { Progress } from "./progress.ts";

export interface GetCommandOptions extends ReachOptions {
  readonly output?: string | undefined;
}

export interface Source {
  readonly reach: Reach;
  readonly isolation: string;
  readonly token: InvocationToken;
  readonly key: Uint8Array | undefined;
  /** What lies there says at its end how the function ended that it comes from (spec/later). */
  readonly isAnswer: boolean;
  /** Such an answer that is saved here. */
  readonly later?: { readonly name: string; readonly entry: LaterEntry } | undefined;
}

export async function get(cli: Cli, given: string, options: GetCommandOptions): Promise<ExitCode> {
  const source = await findSource(cli, given, options);
  for (;;) {
    try {
      return await fetchFrom(cli, source, options);
    } catch (error) {
      // An answer that is not there: whether it will come, the box that makes it may know.
      const missing = await (await import("./collect.ts")).whyMissing(cli, source, error);
      if (missing !== "came") throw missing;
    }
  }
}

async function fetchFrom(cli: Cli, source: Source, options: GetCommandOptions): Promise<ExitCode> {
  using client = new BoxClient({
    address: source.reach.address,
    dial: source.reach.dial,
    isolation: source.isolation,
  });
  const target =
    options.output === undefined ? undefined : await PartFile.open(options.output, tokenName(source.token));
  const label = `Fetching from ${boxLabel(source.reach)}`;
  using progress = new Progress(cli.io, label);
  const startSegment = source.key ? Math.floor((target?.bytes ?? 0) / SEGMENT_CAPACITY) : 0;
  const from = source.key ? startSegment * SEGMENT_BYTES : (target?.bytes ?? 0);
  await target?.cut(source.key ? startSegment * SEGMENT_CAPACITY : from);
  await using download = new Download(client, source.token, {
    signal: cli.signal,
    from,
    ticket: target?.ticket,
    onBegun: ({ ticket }) => target?.saveTicket(ticket),
    onRetry: ({ reason }) => progress.phase(`${reason}; again`),
  });
  let received = from;
  const content = async function* () {
    for await (const piece of download.content()) {
      received += piece.length;
      progress.phase(label);
      progress.update(received, download.size);
      yield piece;
    }
  };
  const opened = source.key ? openFile(content(), source.key, { first: startSegment }) : content();
  const answer = source.isAnswer ? new Answer() : undefined;
  const bytes = answer ? answer.output(opened) : opened;
  let written = target?.bytes ?? 0;
  try {
    for await (const piece of bytes) {
      if (target) await target.write(piece);
      else await cli.io.write(piece);
      written += piece.length;
    }
  } catch (error) {
    await target?.close();
    if (target && written > 0 && !isDamage(error))
      cli.io.note(
        `${formatBytes(written)} are kept in ${options.output}.part; the same command goes on from there.`,
      );
    throw error;
  }
  await target?.finish();
  await download.confirm();
  progress[Symbol.dispose]();
  cli.io.event({ event: "got", bytes: written, file: options.output, verified: source.key !== undefined });
  if (!cli.io.json) report(cli, written, source.key !== undefined, options.output);
  if (source.later && source.later.entry.gets === 1) await forgetLater(cli, source.later.name);
  return answer?.outcome ? reportOutcome(cli, answer.outcome) : EXIT.ok;
}

function report(cli: Cli, bytes: number, isVerified: boolean, file: string | undefined): void {
  const { io } = cli;
  io.note(
    `${formatBytes(bytes)}${isVerified ? io.green(", whole and as it was put") : "; it was not encrypted, so the box may have changed it"}.`,
  );
  if (file !== undefined) io.note(`Written to ${file}`);
}

function isDamage(error: unknown): boolean {
  return error instanceof BentoError && error.code === "integrity";
}

export async function findSource(cli: Cli, given: string, options: ReachOptions): Promise<Source> {
  const data = await cli.context.read();
  const saved = Object.hasOwn(data.functions, given) ? data.functions[given] : undefined;
  if (saved) {
    const direct = options.direct ?? (saved.direct && options.socks === undefined);
    const reach = await reachBox(cli, options.box ?? saved.box, {
      direct,
      socks: options.socks ?? saved.socks,
    });
    const later = Object.hasOwn(data.laters, given) ? data.laters[given] : undefined;
    const entry = later ?? (Object.hasOwn(data.dropboxes, given) ? data.dropboxes[given] : undefined);
    return {
      reach,
      isolation: saved.isolation,
      token: parseInvocationToken(saved.invocationToken),
      key: entry?.key === undefined ? undefined : Buffer.from(entry.key, "base64url"),
      isAnswer: later !== undefined,
      later: later && { name: given, entry: later },
    };
  }
  const text = await readSecret(cli, given);
  const isolation = newIsolation();
  if (isDropboxLink(text)) {
    const link = parseLink(text);
    const reach = await reachBox(cli, options.box ?? formatAddress(link.box), options);
    return { reach, isolation, token: link.token, key: link.key, isAnswer: link.isAnswer ?? false };
  }
  const at = text.indexOf("@");
  const token = tokenOf(at < 0 ? text : text.slice(0, at));
  const reach = at < 0 ? await chooseBox(cli, options) : await reachBox(cli, text.slice(at + 1), options);
  return { reach, isolation, token, key: undefined, isAnswer: false };
}

function tokenOf(text: string): InvocationToken {
  try {
    return parseInvocationToken(text);
  } catch {
    throw usage(
      "Cannot fetch: this is no saved name, no link and no TOKEN@BOX",
      "`bento put` prints links; `bento ls` shows saved names. Secrets are best given as @FILE or - (stdin).",
    );
  }
}
