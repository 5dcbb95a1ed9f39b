// Tokens and instance ids as people give them: a saved name, `@file`, `-` for standard input, or the text itself.
// A saved name brings its box and its circuits' isolation along. Tokens need never stand in an argument list.

import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { BentoError, systemCode } from "../../base/errors.ts";
import {
  type InstanceId,
  type InvocationToken,
  parseInstanceId,
  parseInvocationToken,
  parseShutdownToken,
  type ShutdownToken,
} from "../../wire/token.ts";
import { BoxClient, newIsolation } from "../client.ts";
import type { ContextData, SavedReach } from "../context.ts";
import { nearest } from "../nearest.ts";
import { type Cli, chooseBox, type Reach, type ReachOptions, reachBox, usage } from "./cli.ts";

/** A capability, where it is good, and under which name it is saved if it is. */
export interface Found<T> {
  readonly value: T;
  readonly name: string | undefined;
  readonly reach: Reach;
  readonly isolation: string;
  /** Output bytes read so far; 0 for what is not saved. */
  readonly offset: number | undefined;
  /** Of a saved function: its owner's token. Of an instance: set by `run`, ends the function with it. */
  readonly shutdownToken: ShutdownToken | undefined;
}

interface Saved extends SavedReach {
  readonly secret: string;
  readonly isolation: string;
  readonly offset?: number;
  readonly shutdownToken?: string | undefined;
}

export async function findFunction(
  cli: Cli,
  text: string,
  options: ReachOptions,
): Promise<Found<InvocationToken>> {
  return find(cli, text, options, parseInvocationToken, "function", (data, name) => {
    const entry = own(data.functions, name);
    return entry && { ...entry, secret: entry.invocationToken };
  });
}

/** For the owner's commands. Throws "usage" for a saved function whose shutdown token is not known. */
export async function findOwned(
  cli: Cli,
  text: string,
  options: ReachOptions,
): Promise<Found<ShutdownToken>> {
  return find(cli, text, options, parseShutdownToken, "function", (data, name) => {
    const entry = own(data.functions, name);
    if (entry && entry.shutdownToken === undefined)
      throw usage(`Cannot use ${name}: its shutdown token is not known`);
    return entry && { ...entry, secret: entry.shutdownToken ?? "" };
  });
}

export async function findInstance(
  cli: Cli,
  text: string,
  options: ReachOptions,
): Promise<Found<InstanceId>> {
  return find(cli, text, options, parseInstanceId, "instance", (data, name) => {
    const entry = own(data.instances, name);
    return entry && { ...entry, secret: entry.instance };
  });
}

/** A client for what was found, on its own circuits. */
export function clientOf(found: Found<unknown>): BoxClient {
  return new BoxClient({ address: found.reach.address, dial: found.reach.dial, isolation: found.isolation });
}

async function find<T>(
  cli: Cli,
  given: string,
  options: ReachOptions,
  parse: (text: string) => T,
  what: "function" | "instance",
  saved: (data: ContextData, name: string) => Saved | undefined,
): Promise<Found<T>> {
  const data = await cli.context.read();
  const entry = saved(data, given);
  if (entry) {
    const direct = options.direct ?? (entry.direct && options.socks === undefined);
    // Whoever names another box names the way there as well.
    const saved = options.box === undefined && !direct ? entry : undefined;
    const how = {
      direct,
      socks: options.socks ?? entry.socks,
      relay: options.relay ?? saved?.relay,
      torControl: options.torControl ?? saved?.control,
    };
    return {
      value: parse(entry.secret),
      name: given,
      reach: await reachBox(cli, options.box ?? entry.box, how),
      isolation: entry.isolation,
      offset: entry.offset,
      shutdownToken: entry.shutdownToken === undefined ? undefined : parseShutdownToken(entry.shutdownToken),
    };
  }
  const secret = await readSecret(cli, given);
  let value: T;
  try {
    value = parse(secret);
  } catch (error) {
    // A mistyped name is likelier than a malformed token, unless it looks like one.
    if (secret !== given || /^[0-9a-fA-F-]{20,}$|^end-/.test(given)) throw error;
    const names = Object.keys(what === "function" ? data.functions : data.instances);
    const near = nearest(given, names);
    throw usage(
      `Cannot find ${what} "${given}": no saved name, no token`,
      near
        ? `Did you mean ${near}?`
        : names.length > 0
          ? `Saved: ${names.join(", ")}.`
          : "`bento ls` shows what is saved.",
    );
  }
  const reach = await chooseBox(cli, options);
  return {
    value,
    name: undefined,
    reach,
    isolation: newIsolation(),
    offset: undefined,
    shutdownToken: undefined,
  };
}

/** `@file` and `-` are read; anything else is the secret itself. At most one line of at most 4096 characters. */
export async function readSecret(cli: Cli, given: string): Promise<string> {
  if (given === "-") return firstLine(await text(cli.io.stdin));
  if (!given.startsWith("@")) return given;
  const file = given.slice(1);
  try {
    return firstLine(await readFile(file, "utf8"));
  } catch (cause) {
    throw new BentoError("usage", `Cannot read token from ${file}: ${systemCode(cause) ?? "failed"}`, {
      cause,
    });
  }
}

function firstLine(text: string): string {
  return (text.split("\n", 1)[0] ?? "").trim().slice(0, 4096);
}

function own<T>(record: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(record, name) ? record[name] : undefined;
}
