// The command line's entry: argv, environment, signals, exit codes. Commands live in commands.ts and src/client/cli.

import { readFileSync } from "node:fs";
import { enableCompileCache } from "node:module";
import { fileURLToPath } from "node:url";

/**
 * Most of a command's start is compiling our TypeScript. It is kept where whoever may write could change the code as well;
 * where nothing can be written, Node does without.
 */
enableCompileCache(fileURLToPath(new URL("../../node_modules/.cache/compile", import.meta.url)));

const started = process.argv.slice(2);

/** Asked for so often, and by scripts, that it does not wait for the command tree. */
if (started.length === 1 && (started[0] === "--version" || started[0] === "-V")) {
  process.stdout.write(`${version()}\n`);
} else {
  const { main } = await import("./main.ts");
  await main(version());
}

function version(): string {
  const file = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
