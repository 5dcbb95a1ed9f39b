// The generator matrix of the shard code and its inverses (spec/shard 2). Rows 0 to k-1 are the identity, so that
// the first k shards are the data; rows k to n-1 are a Cauchy matrix, scaled so that its first row and column are
// ones: shard k is the XOR of the data, and k = 1 is plain replication. Any k rows are independent, because every
// square part of a Cauchy matrix is, and scaling rows and columns does not change that.

import { inverse, multiply } from "./gf256.ts";

/** Most shards of one file: elements of the field that rows and columns may be named by. */
export const SHARDS_MAX = 255;

/** A matrix over GF(2^8), row after row. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly cells: Uint8Array;
}

/** Throws RangeError unless 1 <= k <= n <= 255. */
export function checkShape(k: number, n: number): void {
  if (Number.isInteger(k) && Number.isInteger(n) && k >= 1 && k <= n && n <= SHARDS_MAX) return;
  throw new RangeError(`Cannot shard: k ${k} of n ${n}, expected 1 <= k <= n <= ${SHARDS_MAX}`);
}

/** Row `shard` of the generator matrix: what each of the k data blocks is multiplied by. */
export function generatorRow(k: number, shard: number): Uint8Array {
  const row = new Uint8Array(k);
  if (shard < k) {
    row[shard] = 1;
    return row;
  }
  // Cauchy: 1 / (x + y) with x = shard and y = column, all different. Scaled: cell / (first of column) / (first of row).
  const cell = (x: number, y: number) => inverse(x ^ y);
  const scale = multiply(cell(shard, 0), inverse(cell(k, 0)));
  for (let column = 0; column < k; column++) {
    const value = multiply(cell(shard, column), inverse(cell(k, column)));
    row[column] = multiply(value, inverse(scale));
  }
  return row;
}

/** The rows of these shards, in their order. */
export function generatorRows(k: number, shards: readonly number[]): Matrix {
  const cells = new Uint8Array(shards.length * k);
  for (const [index, shard] of shards.entries()) cells.set(generatorRow(k, shard), index * k);
  return { rows: shards.length, columns: k, cells };
}

/** a × b. */
export function product(a: Matrix, b: Matrix): Matrix {
  const cells = new Uint8Array(a.rows * b.columns);
  for (let row = 0; row < a.rows; row++) {
    for (let inner = 0; inner < a.columns; inner++) {
      const factor = a.cells[row * a.columns + inner] ?? 0;
      if (factor === 0) continue;
      for (let column = 0; column < b.columns; column++) {
        const at = row * b.columns + column;
        cells[at] = (cells[at] ?? 0) ^ multiply(factor, b.cells[inner * b.columns + column] ?? 0);
      }
    }
  }
  return { rows: a.rows, columns: b.columns, cells };
}

/** The inverse of a square matrix, by Gauss and Jordan. Throws RangeError for a singular one. */
export function inverted(matrix: Matrix): Matrix {
  const size = matrix.rows;
  const left = Uint8Array.from(matrix.cells);
  const right = new Uint8Array(size * size);
  for (let row = 0; row < size; row++) right[row * size + row] = 1;
  for (let pivot = 0; pivot < size; pivot++) {
    let row = pivot;
    while (row < size && left[row * size + pivot] === 0) row++;
    if (row === size) throw new RangeError("Cannot invert matrix: it is singular");
    swapRows(left, size, row, pivot);
    swapRows(right, size, row, pivot);
    const factor = inverse(left[pivot * size + pivot] ?? 0);
    scaleRow(left, size, pivot, factor);
    scaleRow(right, size, pivot, factor);
    for (let other = 0; other < size; other++) {
      const times = other === pivot ? 0 : (left[other * size + pivot] ?? 0);
      if (times === 0) continue;
      addRow(left, size, pivot, other, times);
      addRow(right, size, pivot, other, times);
    }
  }
  return { rows: size, columns: size, cells: right };
}

function swapRows(cells: Uint8Array, size: number, a: number, b: number): void {
  if (a === b) return;
  const kept = cells.slice(a * size, (a + 1) * size);
  cells.copyWithin(a * size, b * size, (b + 1) * size);
  cells.set(kept, b * size);
}

function scaleRow(cells: Uint8Array, size: number, row: number, factor: number): void {
  for (let at = row * size; at < (row + 1) * size; at++) cells[at] = multiply(cells[at] ?? 0, factor);
}

function addRow(cells: Uint8Array, size: number, from: number, to: number, factor: number): void {
  for (let column = 0; column < size; column++) {
    const at = to * size + column;
    cells[at] = (cells[at] ?? 0) ^ multiply(cells[from * size + column] ?? 0, factor);
  }
}
