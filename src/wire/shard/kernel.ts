// A matrix times blocks of bytes, the inner loop of the shard code. The plain way is here: it runs anywhere and is
// what the vector way (kernel-simd.ts) is tested against.

import { multiply } from "./gf256.ts";
import type { Matrix } from "./matrix.ts";

/**
 * outputs[r][i] = sum over c of matrix[r][c] × sources[c][i]. All blocks have the same length; outputs are
 * overwritten and share no memory with sources.
 */
export type MultiplyBlocks = (
  matrix: Matrix,
  sources: readonly Uint8Array[],
  outputs: readonly Uint8Array[],
) => void;

export const multiplyBlocksPlain: MultiplyBlocks = (matrix, sources, outputs) => {
  checkBlocks(matrix, sources, outputs);
  const products = new Uint8Array(256);
  for (const [row, output] of outputs.entries()) {
    output.fill(0);
    for (const [column, source] of sources.entries()) {
      const factor = matrix.cells[row * matrix.columns + column] ?? 0;
      if (factor === 0) continue;
      for (let value = 0; value < 256; value++) products[value] = multiply(factor, value);
      for (let at = 0; at < source.length; at++) {
        output[at] = (output[at] ?? 0) ^ (products[source[at] ?? 0] ?? 0);
      }
    }
  }
};

/** Throws RangeError unless the blocks fit the matrix and each other. */
export function checkBlocks(
  matrix: Matrix,
  sources: readonly Uint8Array[],
  outputs: readonly Uint8Array[],
): void {
  const length = sources[0]?.length ?? 0;
  const fits =
    sources.length === matrix.columns &&
    outputs.length === matrix.rows &&
    sources.every((block) => block.length === length) &&
    outputs.every((block) => block.length === length);
  if (!fits) throw new RangeError("Cannot multiply blocks: their number or lengths do not fit the matrix");
}
