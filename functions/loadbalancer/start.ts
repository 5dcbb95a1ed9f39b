// What the function is started with, checked as far as it relies on it, and how its input is taken apart.
// Boundary: whoever holds the invocation token chooses the arguments, and sends the input.

import { Buffer } from "node:buffer";
import type { Session } from "bento/function";
import { ByteQueue } from "../../src/base/byte-queue.ts";
import { fromUtf8 } from "../../src/base/bytes.ts";
import {
  LoadBalancerLimits as Limits,
  type LoadBalancerStart,
  type OwnerMessage,
  RENEW_RUNTIME_MS_MIN,
  type ScaleSettings,
  type Serve,
  type Watermark,
} from "../../src/wire/loadbalancer.ts";

const PACKAGE_BYTES_MAX = 4 * 2 ** 20;

/** Throws Error that names the first thing that is wrong. */
export function checkedStart(given: unknown): LoadBalancerStart {
  const start = record(given);
  const { introductionPoints, clients, standby } = start;
  wants(bytesOf(start["key"]) === 64, "key");
  wants(isWhole(start["virtualPort"], 1, 0xffff), "virtualPort");
  wants(isServe(start["serve"]), "serve");
  checkScale(start["scale"]);
  wants(isList(start["boxes"], isText, Limits.boxesMax) && (start["boxes"] as string[]).length > 0, "boxes");
  wants(
    introductionPoints === undefined || isWhole(introductionPoints, 1, Limits.introductionPointsMax),
    "introductionPoints",
  );
  wants(clients === undefined || isList(clients, (one) => bytesOf(one) === 32, Limits.clientsMax), "clients");
  const packages = record(start["packages"]);
  wants(isWhole(packages["replicaBytes"], 1, PACKAGE_BYTES_MAX), "packages.replicaBytes");
  const { standbyBytes } = packages;
  wants(standbyBytes === undefined || isWhole(standbyBytes, 1, PACKAGE_BYTES_MAX), "packages.standbyBytes");
  if (standby !== undefined) {
    const { box, silentMs, others, own } = record(standby);
    wants(isText(box) && standbyBytes !== undefined, "standby");
    wants(
      silentMs === undefined || isWhole(silentMs, Limits.silentMsMin, Limits.silentMsMax),
      "standby.silentMs",
    );
    wants(others === undefined || isList(others, isText, Limits.standbyOthersMax), "standby.others");
    wants(own === undefined || isText(own), "standby.own");
  }
  return given as LoadBalancerStart;
}

/** Throws Error. */
export function checkScale(given: unknown): asserts given is ScaleSettings {
  const { replicasMin, replicasMax, high, low, choice } = record(given);
  wants(isWhole(replicasMin, 0, Limits.replicasMax), "scale.replicasMin");
  wants(
    isWhole(replicasMax, 1, Limits.replicasMax) && isWhole(replicasMin, 0, replicasMax),
    "scale.replicasMax",
  );
  wants(isWatermark(high), "scale.high");
  wants(isWatermark(low), "scale.low");
  wants(choice === "least-loaded" || choice === "random", "scale.choice");
  for (const name of MARKS) {
    const [above, below] = [(high as Watermark)[name], (low as Watermark)[name]];
    wants(
      above === undefined || below === undefined || below <= above,
      `scale.low.${name}: above the high mark`,
    );
  }
}

/** One message of an owner. Throws Error. `current` is what a change of the scale begins from. */
export function checkedOwnerMessage(bytes: Uint8Array, current: ScaleSettings): OwnerMessage {
  const message = record(JSON.parse(fromUtf8(bytes)));
  if (message["stop"] === true) return { stop: true };
  if ("scale" in message) {
    const scale = { ...current, ...record(message["scale"]) };
    checkScale(scale);
    const { replicasMin, replicasMax, high, low, choice } = scale;
    return { scale: { replicasMin, replicasMax, high, low, choice } };
  }
  if ("renew" in message) {
    const { token, runtimeMs, shutdownToken } = record(message["renew"]);
    wants(isText(token), "renew.token");
    wants(shutdownToken === undefined || isText(shutdownToken), "renew.shutdownToken");
    wants(isWhole(runtimeMs, RENEW_RUNTIME_MS_MIN, Number.MAX_SAFE_INTEGER), "renew.runtimeMs");
    const known = shutdownToken === undefined ? {} : { shutdownToken: shutdownToken as string };
    return { renew: { token: token as string, runtimeMs: runtimeMs as number, ...known } };
  }
  const { everyMs, id } = record(message["watch"]);
  wants(everyMs === 0 || isWhole(everyMs, Limits.reportMsMin, 3600_000), "watch.everyMs");
  wants(id === undefined || isWhole(id, 0, Number.MAX_SAFE_INTEGER), "watch.id");
  return { watch: { everyMs: everyMs as number, ...(id === undefined ? {} : { id: id as number }) } };
}

const MARKS = ["connections", "bytesPerSecond", "cpuPercent"] as const;

function isWatermark(given: unknown): boolean {
  if (typeof given !== "object" || given === null) return false;
  return Object.entries(given).every(
    ([name, value]) =>
      (MARKS as readonly string[]).includes(name) &&
      typeof value === "number" &&
      value > 0 &&
      Number.isFinite(value),
  );
}

function isServe(given: unknown): given is Serve {
  const { kind, siteBytes, host, port } = record(given);
  if (kind === "files") return isWhole(siteBytes, 1, Limits.siteBytesMax);
  return kind === "target" && isText(host) && isWhole(port, 1, 0xffff);
}

function record(given: unknown): Record<string, unknown> {
  return typeof given === "object" && given !== null ? (given as Record<string, unknown>) : {};
}

function isText(given: unknown): boolean {
  return typeof given === "string" && given.length > 0 && given.length <= 300;
}

function isList(given: unknown, isOne: (one: unknown) => boolean, most: number): boolean {
  return Array.isArray(given) && given.length <= most && given.every(isOne);
}

function isWhole(given: unknown, from: number, to: number): given is number {
  return typeof given === "number" && Number.isSafeInteger(given) && given >= from && given <= to;
}

/** Of base64; undefined when it is none. */
function bytesOf(given: unknown): number | undefined {
  if (typeof given !== "string" || !/^[A-Za-z0-9+/]{0,200}={0,2}$/u.test(given)) return undefined;
  return Buffer.from(given, "base64").length;
}

function wants(condition: boolean, what: string): void {
  if (!condition) throw new Error(`Cannot balance: the request is malformed: ${what}`);
}

/** Input of a session: first so many bytes, cut into messages anywhere, then messages. */
export class Input {
  readonly #messages: AsyncIterator<Uint8Array>;
  readonly #queue = new ByteQueue();

  constructor(session: Pick<Session, typeof Symbol.asyncIterator>) {
    this.#messages = session[Symbol.asyncIterator]();
  }

  /** Exactly the next `count` bytes, as they come. */
  async *bytes(count: number): AsyncGenerator<Uint8Array> {
    for (let left = count; left > 0; ) {
      if (this.#queue.length === 0) await this.#next();
      const piece = this.#queue.take(Math.min(left, this.#queue.length)) ?? new Uint8Array(0);
      left -= piece.length;
      yield piece;
    }
  }

  /** JSON of `count` bytes. */
  async json(count: number): Promise<unknown> {
    while (this.#queue.length < count) await this.#next();
    return JSON.parse(fromUtf8(this.#queue.take(count) ?? new Uint8Array(0)));
  }

  /** Whole messages from now on; undefined at the end. Throws Error when bytes were left over. */
  async message(): Promise<Uint8Array | undefined> {
    if (this.#queue.length > 0) throw new Error("Cannot go on: more input came than was announced");
    const { value, done } = await this.#messages.next();
    return done === true ? undefined : value;
  }

  async #next(): Promise<void> {
    const { value, done } = await this.#messages.next();
    if (done === true) throw new Error("Cannot begin: the input ended early");
    this.#queue.push(value);
  }
}
