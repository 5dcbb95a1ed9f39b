// `bento store FN`: install a function and save its tokens under a name. The invocation token goes to stdout, so
// that scripts can pass it on; the shutdown token stays in the context unless JSON output is asked for.

import { formatBytes } from "../../base/bytes.ts";
import { BoxClient, newIsolation, type StoredFunction } from "../client.ts";
import { freeName } from "../context.ts";
import { type LoadedPackage, loadPackage } from "../package-loader.ts";
import {
  boxLabel,
  type Cli,
  chooseBox,
  manifestOf,
  type Reach,
  type ReachOptions,
  savedReach,
  usage,
} from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { Progress } from "./progress.ts";

export interface StoreOptions extends ReachOptions {
  readonly manifest?: string | undefined;
  readonly as?: string | undefined;
  readonly dryRun?: boolean | undefined;
}

export async function store(cli: Cli, fn: string, options: StoreOptions): Promise<ExitCode> {
  const { io } = cli;
  const loaded = await loadPackage(fn, { manifest: options.manifest });
  if (options.as !== undefined) checkName(options.as);
  if (options.dryRun) {
    showPackage(cli, loaded, options.box);
    return EXIT.ok;
  }
  const reach = await chooseBox(cli, options, manifestOf(loaded));
  await cli.context.checkWritable();
  const isolation = newIsolation();
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation });
  let stored: StoredFunction;
  {
    using _progress = new Progress(
      io,
      `Storing ${loaded.name} (${formatBytes(loaded.bytes)}) on ${boxLabel(reach)}`,
    );
    stored = await client.store(loaded.package, { signal: cli.signal });
  }
  const name = await saveFunction(cli, options.as ?? loaded.name, stored, reach, isolation);
  const { invocationToken, shutdownToken, sourceHash, expiresAt, grant } = stored;
  io.result(
    { name, box: reach.box, invocationToken, shutdownToken, sourceHash, expiresAt, grant },
    () => invocationToken,
  );
  if (!io.json) {
    io.note(`Stored as ${io.bold(name)} on ${boxLabel(reach)} until ${new Date(expiresAt).toISOString()}.`);
    io.note(`  bento run ${name} · bento exec ${name} · bento shutdown ${name}`);
  }
  return EXIT.ok;
}

/** Saves tokens under `base` or the next free name like it; returns the name. */
export async function saveFunction(
  cli: Cli,
  base: string,
  stored: StoredFunction,
  reach: Reach,
  isolation: string,
): Promise<string> {
  checkName(base);
  return cli.context.update((data) => {
    const name = freeName(base, data.functions);
    data.functions[name] = {
      ...savedReach(reach),
      isolation,
      invocationToken: stored.invocationToken,
      shutdownToken: stored.shutdownToken,
      sourceHash: stored.sourceHash,
      expiresAt: stored.expiresAt,
    };
    return name;
  });
}

/** Throws "usage" for what cannot be a saved name. */
export function checkName(name: string): void {
  if (/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(name)) return;
  throw usage(`Cannot save under "${name}": wanted letters, digits, "_", "." and "-", at most 64`);
}

/** What would be sent, and where. */
export function showPackage(cli: Cli, loaded: LoadedPackage, box: string | undefined): void {
  const { name, bytes, sourceHash, inputs, files } = loaded;
  cli.io.result({ name, bytes, sourceHash, files: inputs, manifest: loaded.package.manifest, box }, () =>
    [
      `name      ${name}`,
      `size      ${formatBytes(bytes)}`,
      `sha256    ${sourceHash}`,
      `manifest  ${files.manifest ?? "none: asks for nothing beyond the defaults"}`,
      ...inputs.map((input, index) => `${index === 0 ? "files     " : "          "}${input}`),
      ...(box === undefined ? [] : [`box       ${box}`]),
      "Nothing was sent.",
    ].join("\n"),
  );
}
