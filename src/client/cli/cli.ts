// What every command gets: streams, the user's context, a signal for Ctrl-C, and how boxes are reached. The way
// through Tor is the default everywhere; direct TCP has to be asked for by name.

import { BentoError } from "../../base/errors.ts";
import type { SocksAddress } from "../../tor/socks.ts";
import { type Manifest, parseManifest } from "../../wire/manifest.ts";
import { type BoxAddress, formatAddress, isOnion, tryParseAddress } from "../address.ts";
import { chooseAmong } from "../choose-boxes.ts";
import type { BoxEntry, Context } from "../context.ts";
import { type Dial, directDial } from "../dial.ts";
import type { LoadedPackage } from "../package-loader.ts";
import { torDial, tryParseSocks } from "../tor-dial.ts";
import type { Io } from "./io.ts";

export interface Cli {
  readonly io: Io;
  readonly context: Context;
  readonly env: NodeJS.ProcessEnv;
  /** Aborted by the first Ctrl-C; the second ends the process. */
  readonly signal: AbortSignal;
}

/** Options that every command which talks to a box has. */
export interface ReachOptions {
  /** host:port, ….onion[:port] or a name from the context. */
  readonly box?: string | undefined;
  /** TCP without Tor. */
  readonly direct?: boolean | undefined;
  /** host:port of Tor's SOCKS port. */
  readonly socks?: string | undefined;
}

/** A box, and the way to it. */
export interface Reach {
  /** As the user names it: goes into messages and saved entries. */
  readonly box: string;
  readonly address: BoxAddress;
  readonly dial: Dial;
  readonly direct: boolean;
  readonly socks: string | undefined;
}

/** Tor's usual SOCKS port, where nothing else is said. */
const DEFAULT_SOCKS = "127.0.0.1:9050";

/** The error of wrong arguments. */
export function usage(message: string, advice?: string): BentoError {
  return new BentoError("usage", message, advice === undefined ? {} : { advice });
}

/** The way to one named box. Throws "usage" when there is no such box. */
export async function reachBox(cli: Cli, name: string, options: ReachOptions): Promise<Reach> {
  const data = await cli.context.read();
  const entry: BoxEntry | undefined = Object.hasOwn(data.boxes, name) ? data.boxes[name] : undefined;
  const address = tryParseAddress(
    entry ? ((options.direct ? entry.direct : undefined) ?? entry.address) : name,
  );
  if (!address) {
    const names = Object.keys(data.boxes);
    throw usage(
      `Cannot use box "${name}": wanted host:port, ….onion or a name from \`bento net status\``,
      names.length > 0
        ? `Known names: ${names.join(", ")}.`
        : "No network is known: start one with `bento net up`.",
    );
  }
  if (options.direct) {
    if (isOnion(address))
      throw usage(`Cannot reach ${name} directly: an onion address needs Tor`, "Leave out --direct.");
    return { box: name, address, dial: directDial, direct: true, socks: undefined };
  }
  const socks =
    options.socks ?? entry?.socks ?? data.network?.socks ?? cli.env["BENTO_SOCKS"] ?? DEFAULT_SOCKS;
  return { box: name, address, dial: torDial(socksAddress(socks)), direct: false, socks };
}

/**
 * The box a command talks to: the one named, else of the known boxes the one that answers fastest among those that
 * grant what the manifest asks for. Without a manifest the first box.
 */
export async function chooseBox(cli: Cli, options: ReachOptions, manifest?: Manifest): Promise<Reach> {
  if (options.box !== undefined) return reachBox(cli, options.box, options);
  const names = Object.keys((await cli.context.read()).boxes);
  const [only] = names;
  if (only === undefined) {
    throw usage(
      "Cannot choose a box: none is named and no network is running",
      "Name one with --box, or `bento net up`.",
    );
  }
  if (names.length === 1 || !manifest) return reachBox(cli, only, options);
  return bestOf(cli, names, options, manifest);
}

async function bestOf(
  cli: Cli,
  names: readonly string[],
  options: ReachOptions,
  manifest: Manifest,
): Promise<Reach> {
  const reaches = new Map<string, Reach>();
  for (const name of names) reaches.set(name, await reachBox(cli, name, options));
  const errors: unknown[] = [];
  const { chosen, left } = await chooseAmong(
    [...reaches].map(([name, { address, dial }]) => ({ name, address, dial })),
    { manifest, signal: cli.signal, onError: (_box, error) => errors.push(error) },
  );
  const best = chosen[0] && reaches.get(chosen[0].box);
  if (best) return best;
  // Where no box could be asked, that is what is wrong.
  if (errors.length === names.length) throw errors[0];
  const reasons = left.map(({ box, reason }) => `${box}: ${reason}`);
  throw new BentoError(
    "policy-refused",
    `Cannot choose a box: none is suitable (${reasons.join("; ")})`.slice(0, 2000),
    { advice: "`bento boxes --for FN` and `bento check FN` show why." },
  );
}

export function manifestOf(loaded: LoadedPackage): Manifest {
  return parseManifest(loaded.package.manifest);
}

export function boxLabel(reach: Reach): string {
  const address = formatAddress(reach.address);
  return reach.box === address ? address : reach.box;
}

/** The SOCKS port that the user named. */
export function socksAddress(text: string): SocksAddress {
  const address = tryParseSocks(text);
  if (address) return address;
  throw usage(`Cannot use SOCKS address "${text}": wanted host:port or unix:/path`);
}
