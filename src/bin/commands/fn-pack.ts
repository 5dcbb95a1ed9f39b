// `bento fn pack FN [-o FILE]`: a function as one file that every command takes in place of its folder. Says what it
// holds, whose code that is, what it asks for, and whether a box with the default policy grants it.

import { writeFile } from "node:fs/promises";
import path from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import { BentoError, systemCode } from "../../base/errors.ts";
import { publishedPolicy } from "../../box/admit/policy.ts";
import { parseBoxConfig } from "../../box/config.ts";
import { noticesOf } from "../../client/bundle.ts";
import { type Cli, manifestOf } from "../../client/cli/cli.ts";
import { EXIT, type ExitCode } from "../../client/cli/exit-code.ts";
import { printable, table } from "../../client/cli/io.ts";
import { grantRows, refusalRows } from "../../client/cli/policy.ts";
import { packageFileText } from "../../client/package-file.ts";
import { loadPackage } from "../../client/package-loader.ts";
import { grant } from "../../wire/grant.ts";

export interface FnPackOptions {
  readonly output?: string | undefined;
  readonly manifest?: string | undefined;
}

/** A box as `box.toml` leaves it, beside a relay that exits everywhere. */
const DEFAULT_EXIT = ["accept *:*"];

export async function fnPack(cli: Cli, fn: string, options: FnPackOptions): Promise<ExitCode> {
  const loaded = await loadPackage(fn, { manifest: options.manifest });
  const notices = loaded.notices ?? (await noticesOf(path.dirname(loaded.files.source), loaded.inputs));
  const text = packageFileText(loaded, notices);
  const file = options.output ?? `${loaded.name}.bento.json`;
  await write(file, text);
  const manifest = manifestOf(loaded);
  const policy = publishedPolicy(parseBoxConfig("").policy, DEFAULT_EXIT);
  const result = grant(manifest, policy);
  const { name, bytes, sourceHash, inputs } = loaded;
  const licences = notices.map(({ name, version, licence }) => ({ name, version, licence }));
  const own = inputs.filter((input) => !input.includes("node_modules/"));
  const asks = loaded.package.manifest;
  cli.io.result({ file, name, bytes, sourceHash, files: inputs, licences, asks, defaultPolicy: result }, () =>
    [
      table([
        ["file", `${file} (${formatBytes(Buffer.byteLength(text))})`],
        ["sent", `${formatBytes(bytes)} to a box`],
        ["sha256", sourceHash],
        [
          "files",
          own.length > 8 ? `${own.slice(0, 8).join(", ")} and ${own.length - 8} more` : own.join(", "),
        ],
        ...licences.map((each, index) => [
          index === 0 ? "bundled" : "",
          printable(`${each.name} ${each.version} (${each.licence})`),
        ]),
        ...asksRows(asks),
      ]),
      result.kind === "granted"
        ? `${cli.io.green("✓")} the default policy grants it\n${table(grantRows(manifest, policy))}`
        : `${cli.io.red("✗")} the default policy refuses it\n${table(refusalRows(result.refusals))}`,
    ].join("\n"),
  );
  return EXIT.ok;
}

/** What the manifest says, key by key, as its author wrote it. */
function asksRows(manifest: Readonly<Record<string, unknown>>): string[][] {
  const about = ["name", "version", "description"];
  return Object.entries(manifest)
    .filter(([key]) => !about.includes(key))
    .map(([key, value], index) => [
      index === 0 ? "asks for" : "",
      printable(`${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`),
    ]);
}

async function write(file: string, text: string): Promise<void> {
  try {
    await writeFile(file, text);
  } catch (cause) {
    throw new BentoError("bad-config", `Cannot write ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
}
