// Starting a load balancer: one invocation with the settings, then the packages that it deploys and the site, then
// waiting until the service can be reached (spec/loadbalancer 2 and 3). The box is untrusted: that it serves under our
// address is checked, and what it makes of the key is known only to it.

import { orAborted } from "../../base/abort.ts";
import { concat, utf8 } from "../../base/bytes.ts";
import { Channel } from "../../base/channel.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import type { Outcome } from "../../wire/api.ts";
import { Limits } from "../../wire/limits.ts";
import {
  LoadBalancerLimits,
  type LoadBalancerResume,
  type LoadBalancerStart,
  type LoadBalancerWhere,
  RENEW_RUNTIME_MS_MIN,
  type StandbyPlace,
  type StandbyReserve,
} from "../../wire/loadbalancer.ts";
import type { PackageInput } from "../../wire/package.ts";
import { type InstanceId, type InvocationToken, parseInstanceId } from "../../wire/token.ts";
import type { BoxClient, Session, StoredFunction } from "../client.ts";
import { orStalled } from "../dropbox/retry.ts";
import { answersOf, type BalancerEvent } from "./answers.ts";
import { encodeOwnerMessage } from "./follow.ts";
import type { Site } from "./site.ts";

/** For the box to take one message. */
const SEND_MS = 120_000;
/** From the last byte of the site until it is published and a replica serves: milliseconds. */
const START_MS = 240_000;
/** After that, for the standby to be ready. */
const STANDBY_MS = 120_000;
/** And then for the function to be at the other boxes where a standby may be. */
const RESERVES_MS = 30_000;
const RESERVES_MAX = LoadBalancerLimits.standbyOthersMax;
/** For an instance to begin, and to say where the one that serves is. */
const WHERE_MS = 30_000;
const MESSAGE_BYTES = Limits.inputMessageBytesMax / 4;

export interface BalancerStart {
  /** The load balancer, with a manifest that asks for what it needs. */
  readonly package: PackageInput;
  /** Without sizes of the packages: they are measured. */
  readonly settings: Omit<LoadBalancerStart, "packages">;
  readonly replica: PackageInput;
  /** The second load balancer, where the settings name a box for it. */
  readonly standby: PackageInput | undefined;
  readonly site: Site | undefined;
  /** The address that goes with the key. */
  readonly address: string;
}

export interface StartOptions {
  readonly signal: AbortSignal;
  readonly clock?: Clock;
  /** As soon as the box has installed the function: from then on it must be ended if it is not wanted. */
  readonly onStored: (stored: StoredFunction, session: Session) => Promise<void>;
  readonly onSent?: (bytes: number, total: number) => void;
  /** Everything is sent. */
  readonly onWaiting?: (what: "service" | "standby") => void;
  readonly onEvent?: (event: BalancerEvent) => void;
  readonly onStandby?: (place: StandbyPlace) => Promise<void>;
  /** The function is at another box where a standby may be. */
  readonly onReserve?: (reserve: StandbyReserve) => Promise<void>;
}

/**
 * Resolves when the service is published, a replica serves, and the standby is ready, where one was wanted: whether it came
 * in time, and at how many further boxes one may be. The function goes on by itself afterwards. Throws what the box refuses, "function-failed" with the function's
 * reason, "integrity" when it serves another address.
 */
export async function startBalancer(
  client: BoxClient,
  start: BalancerStart,
  options: StartOptions,
): Promise<{ readonly hasStandby: boolean; readonly reserves: number }> {
  const { signal, clock = systemClock } = options;
  const replica = utf8(JSON.stringify(start.replica));
  const standby = start.standby ? utf8(JSON.stringify(start.standby)) : undefined;
  const packages = {
    replicaBytes: replica.length,
    ...(standby ? { standbyBytes: standby.length } : {}),
  };
  const args: [LoadBalancerStart] = [{ ...start.settings, packages }];
  const session = await client.run({ package: start.package }, { args }, { signal });
  await using _session = session;
  if (session.stored) await options.onStored(session.stored as StoredFunction, session);
  const heard = listen(session, options);
  const within = async <T>(promise: Promise<T>, stallMs: number) => {
    // Where all was interrupted before, nobody waits for it any more.
    promise.catch(() => undefined);
    return await orStalled({ signal, clock, stallMs }, (until) => orAborted(promise, until));
  };

  let sent = 0;
  const total = replica.length + (standby?.length ?? 0) + (start.site?.bytes ?? 0);
  for await (const message of inputOf(replica, standby, start.site)) {
    const sending = session.send(message).catch(async (error: unknown) => {
      // That it has ended says less than why.
      if (error instanceof BentoError && error.code === "already-ended") await heard.over;
      throw error;
    });
    await within(Promise.race([sending, heard.over]), SEND_MS);
    sent += message.length;
    options.onSent?.(sent, total);
  }
  // Before its box ends the instance, it starts the next one.
  if (session.stored) {
    const { invocationToken: token, shutdownToken, grant } = session.stored;
    // For a standby that took over: it may start one where the first load balancer was.
    const known = start.standby ? { shutdownToken } : {};
    const { runtimeMs } = grant.limits;
    if (runtimeMs >= RENEW_RUNTIME_MS_MIN) {
      const saying = session.send(encodeOwnerMessage({ renew: { token, runtimeMs, ...known } }));
      await within(Promise.race([saying, heard.over]), SEND_MS);
    }
  }
  options.onWaiting?.("service");
  checkAddress(await within(heard.started, START_MS), start.address);
  if (!start.standby) return { hasStandby: false, reserves: 0 };
  options.onWaiting?.("standby");
  const place = await unlessStalled(within(heard.standby, STANDBY_MS));
  if (place) await options.onStandby?.(place);
  if (!place) return { hasStandby: false, reserves: 0 };
  const others = start.settings.standby?.others?.length ?? 0;
  const endMs = clock.now() + RESERVES_MS;
  let reserves = 0;
  for (; reserves < others; reserves++) {
    const reserve = await unlessStalled(within(heard.reserve(), Math.max(1, endMs - clock.now())));
    if (!reserve) break;
    await options.onReserve?.(reserve);
  }
  return { hasStandby: true, reserves };
}

/** undefined: it did not come in time. */
async function unlessStalled<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof BentoError && error.code === "stalled") return undefined;
    throw error;
  }
}

/**
 * Starts another instance of an installed load balancer, which goes on where the one before it ended: same address, same
 * introduction points, the replicas that are left. Resolves with it when it serves. Throws as `startBalancer` does.
 */
export async function resumeBalancer(
  client: BoxClient,
  { token, address }: { readonly token: InvocationToken; readonly address: string },
  options: Pick<StartOptions, "signal" | "clock" | "onEvent">,
): Promise<InstanceId> {
  const { signal, clock = systemClock } = options;
  const args: [LoadBalancerResume] = [{ resume: true }];
  const session = await client.run({ token }, { args }, { signal });
  await using _session = session;
  const heard = listen(session, options);
  const started = await orStalled({ signal, clock, stallMs: START_MS }, (until) =>
    orAborted(heard.started, until),
  );
  checkAddress(started, address);
  return session.instance;
}

/** What runs as an installed load balancer, as far as it says so. */
export interface Newest {
  /** The newest instance that its owner did not start; undefined: none. */
  readonly instance: InstanceId | undefined;
  readonly role: "primary" | "standby" | undefined;
}

/** Asks an installed load balancer, by an instance for that alone. Throws what the box says, or "bad-answer". */
export async function newestInstance(
  client: BoxClient,
  token: InvocationToken,
  { signal, clock = systemClock }: Pick<StartOptions, "signal" | "clock">,
): Promise<Newest> {
  const args: [LoadBalancerWhere] = [{ where: true }];
  return await orStalled({ signal, clock, stallMs: WHERE_MS }, async (until) => {
    const session = await client.run({ token }, { args }, { signal: until });
    await using _session = session;
    const leave = () => void session.detach();
    until.addEventListener("abort", leave, { once: true });
    try {
      for await (const answer of answersOf(session.chunks())) {
        if (!("at" in answer)) break;
        const { instance, role } = answer.at;
        return { instance: instance === null ? undefined : parseInstanceId(instance), role };
      }
      throw new ProtocolError("bad-answer", "Cannot find the load balancer: it does not say where it is");
    } finally {
      until.removeEventListener("abort", leave);
    }
  });
}

function checkAddress(found: string, wanted: string): void {
  if (found === wanted) return;
  throw new ProtocolError("integrity", "Cannot trust box: it serves another address than that of the key");
}

interface Heard {
  readonly started: Promise<string>;
  readonly standby: Promise<StandbyPlace>;
  /** The next box where a standby may be. */
  readonly reserve: () => Promise<StandbyReserve>;
  /** Rejects with the reason when the function or the session ends; never resolves. */
  readonly over: Promise<never>;
}

/** Reads what the function says until it or the session ends. */
function listen(session: Session, { onEvent, signal }: Pick<StartOptions, "onEvent" | "signal">): Heard {
  const started = Promise.withResolvers<string>();
  const standby = Promise.withResolvers<StandbyPlace>();
  const over = Promise.withResolvers<never>();
  const reserves = new Channel<StandbyReserve>(RESERVES_MAX);
  const reserve = async () => {
    return (await reserves.receive()) ?? over.promise;
  };
  const read = async () => {
    for await (const answer of answersOf(session.chunks())) {
      if ("event" in answer) onEvent?.(answer.event);
      if ("started" in answer) started.resolve(answer.started.address);
      if ("standby" in answer) standby.resolve(answer.standby);
      if ("reserve" in answer && reserves.cost < RESERVES_MAX) reserves.push(answer.reserve);
    }
    throw failed(await session.ended);
  };
  const leave = () => void session.detach();
  signal.addEventListener("abort", leave, { once: true });
  read()
    .catch((error: unknown) => {
      for (const one of [started, standby, over]) one.reject(error);
      reserves.close();
    })
    .finally(() => signal.removeEventListener("abort", leave));
  for (const { promise } of [started, standby, over]) promise.catch(() => undefined);
  return { started: started.promise, standby: standby.promise, reserve, over: over.promise };
}

function failed(outcome: Outcome): BentoError {
  const { kind } = outcome;
  const why = kind === "failed" ? outcome.message : kind === "killed" ? outcome.reason : "it returned";
  return new BentoError("function-failed", `Cannot start the load balancer: ${why}`.slice(0, 2000));
}

/** What follows the arguments: messages of equal size, the last ones of each part excepted. */
async function* inputOf(
  replica: Uint8Array,
  standby: Uint8Array | undefined,
  site: Site | undefined,
): AsyncGenerator<Uint8Array> {
  yield* cut([replica]);
  if (standby) yield* cut([standby]);
  if (site) yield* cut(site.read());
}

async function* cut(pieces: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let parts: Uint8Array[] = [];
  let length = 0;
  for await (let piece of pieces) {
    while (length + piece.length >= MESSAGE_BYTES) {
      const room = MESSAGE_BYTES - length;
      yield concat([...parts, piece.subarray(0, room)]);
      piece = piece.subarray(room);
      parts = [];
      length = 0;
    }
    if (piece.length > 0) parts.push(piece);
    length += piece.length;
  }
  if (length > 0) yield concat(parts);
}
