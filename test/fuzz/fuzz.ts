// Throws hostile bytes at one parser: valid inputs mutated, pieces of its language put together, noise; cut anywhere.
// A parser may return or throw BentoError (ProtocolError among them), nothing else; no input may take long, and
// many inputs may leave nothing behind. A failure prints fast-check's seed and the smallest input that shows it.
//
// BENTO_FUZZ_RUNS sets the number of inputs for each parser; the default keeps all of them together short, with fewer for
// those that need a socket or a file.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import * as fc from "fast-check";
import { concat } from "../../src/base/bytes.ts";
import { BentoError } from "../../src/base/errors.ts";

const ASKED = process.env["BENTO_FUZZ_RUNS"];
const RUNS = Number(ASKED ?? 1500);
/** Parsers that need a socket or a file take about a millisecond for each input: unless asked for, so many are enough. */
const SLOW_RUNS = 100;
/** No input of ours is larger than some KiB: what computes this long has no bound. Milliseconds of this process's own. */
const INPUT_MS_MAX = 5_000;
/** Below this many runs the heap says nothing. */
const RUNS_TO_MEASURE_GROWTH = 20_000;
const GROWTH_BYTES_MAX = 48 * 2 ** 20;
const INPUT_BYTES_MAX = 16 * 1024;

export interface Target {
  readonly name: string;
  /** Valid inputs, and ones at the edge. */
  readonly seeds: readonly (string | Uint8Array)[];
  /** Pieces of the language, put in anywhere. */
  readonly words?: readonly (string | Uint8Array)[];
  /** `chunks` are the bytes, cut somewhere. Returns or throws BentoError. */
  readonly parse: (bytes: Uint8Array, chunks: readonly Uint8Array[]) => unknown;
  /** One input costs milliseconds: fewer are tried. */
  readonly slow?: boolean;
}

/** Registers one test for each target. */
export function fuzz(targets: readonly Target[]): void {
  for (const target of targets) {
    test(`fuzz ${target.name}: hostile bytes are a value or a BentoError`, async () => {
      await fuzzOne(target);
    });
  }
}

export function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("utf8");
}

/** JSON.parse of text that a caller has checked to be JSON; for schemas, which see only what JSON can say. */
export function jsonOf(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(textOf(bytes));
  } catch {
    return textOf(bytes);
  }
}

async function fuzzOne(target: Target): Promise<void> {
  const runs = target.slow && ASKED === undefined ? SLOW_RUNS : RUNS;
  const before = heapBytes();
  await fc.assert(
    fc.asyncProperty(inputs(target), async ({ bytes, chunks }) => {
      // Not the wall's: a busy machine may leave a process waiting as long.
      const started = process.cpuUsage();
      try {
        await target.parse(bytes, chunks);
      } catch (error) {
        if (!(error instanceof BentoError)) throw error;
      }
      const { user, system } = process.cpuUsage(started);
      assert.ok((user + system) / 1000 < INPUT_MS_MAX, "one input is parsed in bounded time");
    }),
    { numRuns: runs, endOnFailure: false },
  );
  if (runs < RUNS_TO_MEASURE_GROWTH) return;
  const growth = heapBytes() - before;
  assert.ok(growth < GROWTH_BYTES_MAX, `${runs} inputs left ${growth} bytes behind`);
}

/** Bytes that live, after a collection. */
function heapBytes(): number {
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as () => void;
  gc();
  gc();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

function inputs(target: Target): fc.Arbitrary<{ bytes: Uint8Array; chunks: Uint8Array[] }> {
  const seeds = target.seeds.map(bytesOf);
  const words = [...(target.words ?? []).map(bytesOf), ...EDGES];
  const mutation = fc.tuple(fc.nat(5), fc.nat(0xffff), fc.nat(0xffff), fc.nat(0xff));
  return fc
    .record({
      seed: fc.nat(seeds.length + 1),
      noise: fc.uint8Array({ maxLength: 24 }),
      mutations: fc.array(mutation, { maxLength: 6 }),
      cuts: fc.array(fc.nat(0xffff), { maxLength: 3 }),
    })
    .map(({ seed, noise, mutations, cuts }) => {
      let bytes: Uint8Array = seeds[seed] ?? noise;
      for (const [kind, at, other, value] of mutations) {
        bytes = mutated(bytes, kind, { at, other, value, words, seeds, noise });
      }
      bytes = bytes.slice(0, INPUT_BYTES_MAX);
      return { bytes, chunks: cut(bytes, cuts) };
    });
}

/** What often stands where a parser counts, compares or ends. */
const EDGES = ["\0", "\r\n", "\n", '"', "\\", "\u{1f9c5}", "-1", "9".repeat(20), "%00", "__proto__", "\ufeff"]
  .map(bytesOf)
  .concat([
    Uint8Array.of(0xff, 0xff, 0xff, 0xff),
    Uint8Array.of(0, 0, 0, 0),
    Uint8Array.of(0x7f, 0xff, 0xff, 0xff),
    Uint8Array.of(0x80, 0, 0, 0),
    Uint8Array.of(0xed, 0xa0, 0x80),
  ]);

interface Choice {
  readonly at: number;
  readonly other: number;
  readonly value: number;
  readonly words: readonly Uint8Array[];
  readonly seeds: readonly Uint8Array[];
  readonly noise: Uint8Array;
}

function mutated(bytes: Uint8Array, kind: number, choice: Choice): Uint8Array {
  const { at, other, value, words, seeds, noise } = choice;
  const from = bytes.length === 0 ? 0 : at % bytes.length;
  const to = bytes.length === 0 ? 0 : Math.min(bytes.length, from + 1 + (other % 16));
  const head = bytes.subarray(0, from);
  switch (kind) {
    case 0: {
      const changed = bytes.slice();
      if (changed.length > 0) changed[from] = value;
      return changed;
    }
    case 1:
      return concat([head, bytes.subarray(to)]);
    case 2:
      return concat([head, words[other % words.length] ?? noise, bytes.subarray(from)]);
    case 3:
      return concat([
        head,
        ...Array.from({ length: 1 + (value % 64) }, () => bytes.subarray(from, to)),
        bytes.subarray(to),
      ]);
    case 4:
      return value % 2 === 0 ? head : concat([head, noise, bytes.subarray(from)]);
    default: {
      const next = seeds[other % Math.max(1, seeds.length)] ?? noise;
      return concat([head, next.subarray(next.length === 0 ? 0 : value % next.length)]);
    }
  }
}

function cut(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const places = cuts.map((place) => place % (bytes.length + 1)).sort((a, b) => a - b);
  return [0, ...places].map((place, index) => bytes.subarray(place, places[index] ?? bytes.length));
}

function bytesOf(value: string | Uint8Array): Uint8Array {
  return typeof value === "string" ? new Uint8Array(Buffer.from(value)) : value;
}
