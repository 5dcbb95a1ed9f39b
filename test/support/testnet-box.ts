// A box in this process whose tor is a client of a private network, at a port of loopback that the system chooses.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { Box } from "../../src/box/box.ts";
import { parseBoxConfig } from "../../src/box/config.ts";
import type { Testnet } from "../../src/testnet/testnet.ts";

export interface TestnetBoxOptions {
  /** The test's folder: the box's data and its tor's configuration come to lie there. */
  readonly dir: string;
  /** The rest of the box's configuration. Its user ids are the test's own. */
  readonly toml: string;
  /** A relay of the network whose exit policy is the box's, and the port at which circuits through it reach the box. */
  readonly companion?: { readonly relay: string; readonly exitPort: number };
}

/** Errors of the box go to standard error. Whoever starts it disposes of it before the network goes down. */
export async function startTestnetBox(net: Testnet, options: TestnetBoxOptions): Promise<Box> {
  const { dir, toml, companion } = options;
  const torrc = join(dir, "join.torrc");
  await writeFile(torrc, `${net.joinTorrc.join("\n")}\n`);
  const config = parseBoxConfig(`
[box]
data_dir = "${join(dir, "box")}"
[tor]
torrc = "${torrc}"
${companion ? await companionToml(net, companion) : ""}
${toml}`);
  const listen = [{ kind: "tcp", host: "127.0.0.1", port: 0 }] as const;
  const log = createLog((line) => process.stderr.write(line), "error");
  return await Box.start({ ...config, listen }, { clock: systemClock, log });
}

/** Where it listens on loopback. */
export function portOf(box: Box): number {
  const [address] = box.addresses.listen;
  if (address?.kind !== "tcp") throw new Error("the box listens at no port");
  return address.port;
}

async function companionToml(
  net: Testnet,
  { relay, exitPort }: NonNullable<TestnetBoxOptions["companion"]>,
): Promise<string> {
  const control = await net.controlAddress(relay);
  return `[relay]
control = "${control.host}:${control.port}"
[exit_port]
listen = "${net.node(relay).address}:${exitPort}"`;
}
