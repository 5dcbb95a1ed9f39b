// What every command gets: streams, the user's context, a signal for Ctrl-C, and how boxes are reached. The way
// through Tor is the default everywhere; direct TCP has to be asked for by name.

import { isIP } from "node:net";
import { BentoError } from "../../base/errors.ts";
import type { ControlAddress } from "../../tor/control-connection.ts";
import type { SocksAddress } from "../../tor/socks.ts";
import { type Manifest, parseManifest } from "../../wire/manifest.ts";
import { type BoxAddress, formatAddress, isOnion, tryParseAddress } from "../address.ts";
import { chooseAmong } from "../choose-boxes.ts";
import type { BoxEntry, Context, SavedReach } from "../context.ts";
import { type Dial, directDial } from "../dial.ts";
import type { LoadedPackage } from "../package-loader.ts";
import { type RelayDialers, tryParseFingerprint } from "../relay-dial.ts";
import { torDial, tryParseSocks } from "../tor-dial.ts";
import type { Io } from "./io.ts";

export interface Cli {
  readonly io: Io;
  readonly context: Context;
  readonly env: NodeJS.ProcessEnv;
  /** Aborted by the first Ctrl-C; the second ends the process. */
  readonly signal: AbortSignal;
  /** For boxes at their relays' addresses; the process that made it disposes of it. */
  readonly relays: RelayDialers;
}

/** Options that every command which talks to a box has. */
export interface ReachOptions {
  /** host:port, ….onion[:port] or a name from the context. */
  readonly box?: string | undefined;
  /** TCP without Tor. */
  readonly direct?: boolean | undefined;
  /** host:port of Tor's SOCKS port. */
  readonly socks?: string | undefined;
  /** Fingerprint: the box is at this relay's own address, reached by a circuit that ends there. */
  readonly relay?: string | undefined;
  /** host:port or unix:/path of the control port of the tor behind the SOCKS port. */
  readonly torControl?: string | undefined;
}

/** A box, and the way to it. */
export interface Reach {
  /** As the user names it: goes into messages and saved entries. */
  readonly box: string;
  readonly address: BoxAddress;
  readonly dial: Dial;
  readonly direct: boolean;
  readonly socks: string | undefined;
  /** Set when circuits end at the box's relay. */
  readonly relay: { readonly fingerprint: string; readonly control: string } | undefined;
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
  const address = tryParseAddress(entry ? addressOf(entry, options) : name);
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
    return { box: name, address, dial: directDial, direct: true, socks: undefined, relay: undefined };
  }
  const socks =
    options.socks ?? entry?.socks ?? data.network?.socks ?? cli.env["BENTO_SOCKS"] ?? DEFAULT_SOCKS;
  const proxy = socksAddress(socks);
  const relay = relayOf(cli, name, address, entry, options);
  const dial = relay
    ? cli.relays.dial(controlAddress(relay.control), proxy, relay.fingerprint)
    : torDial(proxy);
  return { box: name, address, dial, direct: false, socks, relay };
}

function addressOf(entry: BoxEntry, options: ReachOptions): string {
  if (options.direct) return entry.direct ?? entry.address;
  if (options.relay !== undefined) return entry.exit ?? entry.address;
  return entry.address;
}

/**
 * The relay where circuits to a box end: the one named, or the companion of a known box that has no onion service. Throws
 * "usage" when that cannot be; a plain stream would leave Tor at any exit, so there is no other way to fall back to.
 */
function relayOf(
  cli: Cli,
  name: string,
  address: BoxAddress,
  entry: BoxEntry | undefined,
  options: ReachOptions,
): Reach["relay"] {
  const own = entry?.control !== undefined && !isOnion(address) ? entry.fingerprint : undefined;
  const given = options.relay ?? own;
  if (given === undefined) {
    if (options.torControl === undefined) return undefined;
    throw usage(
      "Cannot use --tor-control alone: it serves circuits to a relay",
      "Name the relay with --relay.",
    );
  }
  const fingerprint = tryParseFingerprint(given);
  if (fingerprint === undefined)
    throw usage(`Cannot use relay "${given.slice(0, 80)}": wanted a fingerprint, 40 hexadecimal digits`);
  if (entry?.fingerprint !== undefined && entry.fingerprint.toUpperCase() !== fingerprint)
    throw usage(`Cannot reach ${name} at relay ${fingerprint}: its relay is ${entry.fingerprint}`);
  if (!isIP(address.host))
    throw usage(
      `Cannot reach ${name} at a relay: wanted the relay's own IP address and the box's port`,
      isOnion(address) ? "An onion address needs no --relay." : undefined,
    );
  const control = options.torControl ?? entry?.control ?? cli.env["BENTO_TOR_CONTROL"];
  if (control === undefined)
    throw usage(
      `Cannot reach ${name} at its relay: that needs the control port of your tor`,
      "Name it with --tor-control, e.g. 127.0.0.1:9051; torrc: ControlPort 9051, CookieAuthentication 1.",
    );
  return { fingerprint, control };
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

/** What is saved with a function or instance, to reach it the same way again. */
export function savedReach(reach: Reach): SavedReach {
  return {
    box: reach.box,
    ...(reach.socks === undefined ? {} : { socks: reach.socks }),
    ...(reach.direct ? { direct: true } : {}),
    ...(reach.relay ? { relay: reach.relay.fingerprint, control: reach.relay.control } : {}),
  };
}

function controlAddress(text: string): ControlAddress {
  const address = tryParseSocks(text);
  if (address) return address;
  throw usage(`Cannot use control port "${text}": wanted host:port or unix:/path`);
}

/** The SOCKS port that the user named. */
export function socksAddress(text: string): SocksAddress {
  const address = tryParseSocks(text);
  if (address) return address;
  throw usage(`Cannot use SOCKS address "${text}": wanted host:port or unix:/path`);
}
