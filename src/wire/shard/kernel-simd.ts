// The vector way of kernel.ts: WebAssembly SIMD, in Node and in functions alike. Blocks pass through the module's
// fixed memory in slabs that fit the processor's cache. Its source is kernel-simd.wat.
//
//   memory: tables (32 bytes a cell of the matrix) | sources, one slab each | one output slab

import { multiply } from "./gf256.ts";
import { checkBlocks, type MultiplyBlocks, multiplyBlocksPlain } from "./kernel.ts";
import { KERNEL_SIMD_BASE64 } from "./kernel-simd-bytes.ts";
import { type Matrix, SHARDS_MAX } from "./matrix.ts";

/** Bytes of one block that are worked on at once; a multiple of 64. */
const SLAB_BYTES = 8 * 1024;
/** Most cells of a matrix: k data blocks times n - k others, with n at most 255. */
const CELLS_MAX = 128 * 128;
const TABLE_BYTES = 32;
const SOURCES_AT = CELLS_MAX * TABLE_BYTES;
const OUTPUT_AT = SOURCES_AT + SHARDS_MAX * SLAB_BYTES;

interface Kernel {
  readonly memory: Uint8Array;
  dot(tables: number, sources: number, stride: number, count: number, out: number, length: number): void;
  /** The matrix whose tables lie in memory. */
  matrix: Matrix | undefined;
}

/** What of WebAssembly is used; Node's types leave it to the browser's library. */
interface WebAssemblyApi {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
  ) => {
    readonly exports: { readonly memory: { readonly buffer: ArrayBuffer }; readonly dot: Kernel["dot"] };
  };
}

let loaded: Kernel | undefined;

/** As multiplyBlocksPlain, many times faster. Throws where WebAssembly or its vectors are missing. */
export const multiplyBlocksSimd: MultiplyBlocks = (matrix, sources, outputs) => {
  checkBlocks(matrix, sources, outputs);
  if (matrix.cells.length > CELLS_MAX)
    throw new RangeError("Cannot multiply blocks: the matrix is too large");
  loaded ??= load();
  const { memory } = loaded;
  if (loaded.matrix !== matrix) {
    writeTables(matrix, memory);
    loaded.matrix = matrix;
  }
  const length = sources[0]?.length ?? 0;
  for (let at = 0; at < length; at += SLAB_BYTES) {
    const part = Math.min(SLAB_BYTES, length - at);
    for (const [index, source] of sources.entries())
      memory.set(source.subarray(at, at + part), SOURCES_AT + index * SLAB_BYTES);
    const vectors = Math.ceil(part / 64) * 64;
    for (const [row, output] of outputs.entries()) {
      const tables = row * matrix.columns * TABLE_BYTES;
      loaded.dot(tables, SOURCES_AT, SLAB_BYTES, sources.length, OUTPUT_AT, vectors);
      output.set(memory.subarray(OUTPUT_AT, OUTPUT_AT + part), at);
    }
  }
};

/** The vector way where this machine has it, else the plain one. */
export function bestMultiplyBlocks(): MultiplyBlocks {
  try {
    loaded ??= load();
    return multiplyBlocksSimd;
  } catch {
    return multiplyBlocksPlain;
  }
}

function load(): Kernel {
  const bytes = Uint8Array.from(atob(KERNEL_SIMD_BASE64), (character) => character.charCodeAt(0));
  const { Instance, Module } = Reflect.get(globalThis, "WebAssembly") as WebAssemblyApi;
  const { exports } = new Instance(new Module(bytes));
  return { memory: new Uint8Array(exports.memory.buffer), dot: exports.dot, matrix: undefined };
}

function writeTables(matrix: Matrix, memory: Uint8Array): void {
  for (const [index, factor] of matrix.cells.entries()) {
    for (let half = 0; half < 16; half++) {
      memory[index * TABLE_BYTES + half] = multiply(factor, half);
      memory[index * TABLE_BYTES + 16 + half] = multiply(factor, half << 4);
    }
  }
}
