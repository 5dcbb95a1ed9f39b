// `bento box serve` and `bento box check-config`: the daemon, and what its configuration means.

import { readFile } from "node:fs/promises";
import { formatBytes } from "../../base/bytes.ts";
import { systemClock } from "../../base/clock.ts";
import { BentoError, systemCode } from "../../base/errors.ts";
import { createLog, type LogLevel } from "../../base/log.ts";
import { type BoxConfig, parseBoxConfig, type SocketAddress } from "../../box/config.ts";
import { type Cli, usage } from "../../client/cli/cli.ts";
import { EXIT } from "../../client/cli/exit-code.ts";
import { table } from "../../client/cli/io.ts";
import { formatDuration } from "../../wire/quantity.ts";
import { inspectorFlag } from "../inspector-bridge.ts";

const LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error"];

export interface ServeOptions {
  readonly config: string;
  readonly log: string;
  /** End when standard input does: for a parent that starts boxes and may be killed. */
  readonly whileStdin?: boolean;
  /** Rules, comma-separated, in place of a relay's: for the boxes of `bento fn`. */
  readonly exitWithoutRelay?: string;
  /** Functions have an inspector, in their own network namespace: for the box of `bento fn dev --inspect`. */
  readonly inspector?: boolean;
}

/** Serves until Ctrl-C or SIGTERM, then ends instances and closes the store. Exit code 0. */
export async function serve(cli: Cli, options: ServeOptions): Promise<number> {
  const level = LEVELS.find((name) => name === options.log);
  if (!level) throw usage(`Cannot log at "${options.log}": wanted ${LEVELS.join(", ")}`);
  const config = await readConfig(options.config);
  const { Box } = await import("../../box/box.ts");
  const { remoteBoxes } = await import("../remote-boxes.ts");
  const { bundledPackages } = await import("../bundled-packages.ts");
  const log = createLog((line) => {
    // systemd and people read it as it stands; nothing sensitive is ever logged.
    cli.io.stderr.write(line);
  }, level);
  const stop = Promise.withResolvers<void>();
  cli.signal.addEventListener("abort", () => stop.resolve(), { once: true });
  if (cli.signal.aborted) return EXIT.ok;
  if (options.whileStdin)
    cli.io.stdin
      .on("end", () => stop.resolve())
      .on("error", () => stop.resolve())
      .resume();
  await using box = await Box.start(config, {
    clock: systemClock,
    log,
    remote: remoteBoxes,
    // An author tries functions of their own, and waits for the box.
    bundled: options.exitWithoutRelay === undefined ? await bundledPackages(config.policy.images) : [],
    exitWithoutRelay: options.exitWithoutRelay?.split(","),
    denoFlags: options.inspector ? [inspectorFlag()] : [],
  });
  const { listen, exitPort, onion } = box.addresses;
  cli.io.event({
    event: "ready",
    listen: listen.map(formatSocket),
    exitPort: exitPort && formatSocket(exitPort),
    onion,
  });
  if (!cli.io.json) {
    cli.io.note(
      `Box "${config.name}" serves at ${listen.map(formatSocket).join(", ") || "no address of its own"}`,
    );
    if (onion) cli.io.note(`  onion: ${onion}`);
    if (!box.info.accepting) cli.io.note("  It starts no functions: `bento doctor` says why.");
  }
  await stop.promise;
  return EXIT.ok;
}

export async function checkConfig(cli: Cli, file: string): Promise<number> {
  const config = await readConfig(file);
  cli.io.result({ file, valid: true, config }, () => {
    const { policy } = config;
    const rows = [
      ["name", config.name],
      ["data", config.dataDir],
      ["listen", config.listen.map(formatSocket).join(", ") || "nowhere"],
      ["onion", config.onion.kind],
      ["exit port", config.exitPort ? formatSocket(config.exitPort) : "none"],
      [
        "relay",
        config.relay.control
          ? `control port ${formatSocket(config.relay.control)}`
          : "none: no connections out",
      ],
      ["images", policy.images.join(", ") || "none"],
      [
        "net",
        policy.net
          ? `${policy.net.connections} connections, ${formatBytes(policy.net.bytes)} an instance`
          : "none",
      ],
      ["storage", policy.storage ? `${formatBytes(policy.storage.bytes)} a function` : "none"],
      [
        "function",
        `${formatBytes(policy.function.memoryBytes)}, ${policy.function.cpuPercent}% cpu, ${formatDuration(policy.function.runtimeMs)}`,
      ],
      [
        "all",
        `${policy.total.instances} instances, ${formatBytes(policy.total.memoryBytes)}, ${policy.total.functions} functions`,
      ],
    ];
    return `${table(rows)}\n${file} is valid.`;
  });
  return EXIT.ok;
}

async function readConfig(file: string): Promise<BoxConfig> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw new BentoError("bad-config", `Cannot read ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
  return parseBoxConfig(text);
}

function formatSocket(address: SocketAddress): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  return address.host.includes(":") ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}
