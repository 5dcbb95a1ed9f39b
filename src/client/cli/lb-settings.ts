// What people write for a load balancer's settings: "connections=2,rate=1MiB/s,cpu=80%", "1..4", client keys. Wrong input is
// answered with what was wanted, before anything is asked of a box.

import { readFile } from "node:fs/promises";
import { systemCode } from "../../base/errors.ts";
import { LoadBalancerLimits, type ScaleSettings, type Watermark } from "../../wire/loadbalancer.ts";
import { parseBytes } from "../../wire/quantity.ts";
import { usage } from "./cli.ts";

export interface ScaleOptions {
  readonly replicas?: string | undefined;
  readonly high?: string | undefined;
  readonly low?: string | undefined;
  readonly choice?: ScaleSettings["choice"] | undefined;
}

/** The low watermark where none is given, as a share of the high one: one replica less must not come up to it again. */
const LOW_SHARE = 0.4;
const { clientsMax } = LoadBalancerLimits;

export const DEFAULT_SCALE: ScaleSettings = {
  replicasMin: 1,
  replicasMax: 4,
  high: { connections: 8, cpuPercent: 80 },
  low: { connections: 8 * LOW_SHARE, cpuPercent: 80 * LOW_SHARE },
  choice: "least-loaded",
};

/** Settings for a start. Throws "usage". */
export function scaleOf(options: ScaleOptions): ScaleSettings {
  return { ...DEFAULT_SCALE, ...changesOf(options) };
}

/** What is to be changed: undefined where nothing was given. A new high watermark brings its low one along. */
export function changesOf(options: ScaleOptions): Partial<ScaleSettings> {
  const { replicas, choice } = options;
  const high = options.high === undefined ? undefined : watermarkOf("--high", options.high);
  const low = options.low === undefined ? high && lowOf(high) : watermarkOf("--low", options.low);
  if (high && low) checkWatermarks(high, low);
  return {
    ...(replicas === undefined ? {} : replicasOf(replicas)),
    ...(high ? { high } : {}),
    ...(low ? { low } : {}),
    ...(choice === undefined ? {} : { choice }),
  };
}

/** "2..4" or "3". */
function replicasOf(text: string): Pick<ScaleSettings, "replicasMin" | "replicasMax"> {
  const [, from = "", to = from] = /^(\d{1,3})(?:\.\.(\d{1,3}))?$/.exec(text) ?? [];
  const [replicasMin, replicasMax] = [Number(from), Number(to)];
  const { replicasMax: most } = LoadBalancerLimits;
  if (from !== "" && replicasMin >= 1 && replicasMin <= replicasMax && replicasMax <= most)
    return { replicasMin, replicasMax };
  throw usage(`Cannot use --replicas "${text.slice(0, 80)}": wanted e.g. 1..4, from 1 to ${most}`);
}

/** "connections=2,rate=1MiB/s,cpu=80%", any of the three. */
export function watermarkOf(option: string, text: string): Watermark {
  const wanted = 'wanted e.g. "connections=2,rate=1MiB/s,cpu=80%", any of the three';
  const mark: { connections?: number; bytesPerSecond?: number; cpuPercent?: number } = {};
  for (const item of text.split(",")) {
    const [, key = "", value = ""] = /^\s*(connections|rate|cpu)\s*=\s*(.+?)\s*$/.exec(item) ?? [];
    const number = valueOf(key, value);
    const field = ({ connections: "connections", rate: "bytesPerSecond", cpu: "cpuPercent" } as const)[key];
    if (field === undefined || number === undefined || number <= 0 || field in mark)
      throw usage(`Cannot use ${option} "${text.slice(0, 80)}": ${wanted}`);
    mark[field] = number;
  }
  return mark;
}

function valueOf(key: string, text: string): number | undefined {
  if (key === "rate") return parseBytes(text.replace(/\/s$/, ""));
  const [, number] =
    (key === "cpu" ? /^(\d{1,4}(?:\.\d{1,2})?)%$/ : /^(\d{1,6}(?:\.\d{1,2})?)$/).exec(text) ?? [];
  return number === undefined ? undefined : Number(number);
}

function lowOf({ connections, bytesPerSecond, cpuPercent }: Watermark): Watermark {
  return {
    ...(connections === undefined ? {} : { connections: connections * LOW_SHARE }),
    ...(bytesPerSecond === undefined ? {} : { bytesPerSecond: Math.floor(bytesPerSecond * LOW_SHARE) }),
    ...(cpuPercent === undefined ? {} : { cpuPercent: cpuPercent * LOW_SHARE }),
  };
}

function checkWatermarks(high: Watermark, low: Watermark): void {
  for (const key of ["connections", "bytesPerSecond", "cpuPercent"] as const) {
    const [above, below] = [high[key], low[key]];
    if (above !== undefined && below !== undefined && below >= above)
      throw usage("Cannot use --low: it must be below --high", "Else replicas would start and end in turns.");
  }
}

type Readable = { readonly [Field in keyof Watermark]?: number | undefined };

/** `2 clients or 1 MiB/s or 80 % cpu` */
export function watermarkText(mark: Readable, formatRate: (bytes: number) => string): string {
  const { connections, bytesPerSecond, cpuPercent } = mark;
  const parts = [
    ...(connections === undefined
      ? []
      : [`${short(connections)} ${connections === 1 ? "client" : "clients"}`]),
    ...(bytesPerSecond === undefined ? [] : [`${formatRate(bytesPerSecond)}/s`]),
    ...(cpuPercent === undefined ? [] : [`${short(cpuPercent)} % cpu`]),
  ];
  return parts.join(" or ") || "never";
}

function short(value: number): string {
  return String(Math.round(value * 10) / 10);
}

/** `host:port`, `[::1]:port`. */
export function targetOf(text: string): { readonly host: string; readonly port: number } {
  const [, six, name = six ?? "", port = ""] =
    /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]/]{1,255})):(\d{1,5})$/.exec(text) ?? [];
  if (name !== "" && Number(port) >= 1 && Number(port) <= 65535) return { host: name, port: Number(port) };
  throw usage(`Cannot use --target "${text.slice(0, 80)}": wanted host:port`);
}

/**
 * Public keys of the only clients that may come, X25519: base32 as tor's `authorized_clients/*.auth` has them, the line of
 * such a file, or `@file` with one a line. Returns base64.
 */
export async function clientKeysOf(given: readonly string[]): Promise<string[]> {
  const keys: string[] = [];
  for (const text of given) {
    if (!text.startsWith("@")) keys.push(clientKeyOf(text));
    else for (const line of await linesOf(text.slice(1))) keys.push(clientKeyOf(line));
  }
  if (keys.length > clientsMax)
    throw usage(`Cannot use --client-key: ${keys.length} keys, at most ${clientsMax}`);
  return [...new Set(keys)];
}

async function linesOf(file: string): Promise<string[]> {
  try {
    const lines = (await readFile(file, "utf8")).split("\n").map((line) => line.trim());
    const keys = lines.filter((line) => line !== "" && !line.startsWith("#"));
    if (keys.length > 0) return keys;
  } catch (cause) {
    throw usage(`Cannot read client keys from ${file}: ${systemCode(cause) ?? "failed"}`);
  }
  throw usage(`Cannot read client keys from ${file}: it holds none`);
}

function clientKeyOf(text: string): string {
  const base32 = /^(?:descriptor:x25519:)?([A-Za-z2-7]{52})$/.exec(text.trim())?.[1];
  if (base32 === undefined)
    throw usage(
      `Cannot use client key "${text.slice(0, 20)}…": wanted an X25519 public key, 52 characters of base32`,
      "Tor has it in authorized_clients/NAME.auth, as descriptor:x25519:KEY.",
    );
  let bits = 0n;
  for (const letter of base32.toLowerCase())
    bits = (bits << 5n) | BigInt("abcdefghijklmnopqrstuvwxyz234567".indexOf(letter));
  // 52 letters have 260 bits, 32 bytes have 256.
  return Buffer.from((bits >> 4n).toString(16).padStart(64, "0"), "hex").toString("base64");
}
