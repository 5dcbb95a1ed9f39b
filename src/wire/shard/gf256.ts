// Arithmetic in GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d) and its generator 2: what the shard
// code is made of (spec/shard 2). Pure tables. Bytes are field elements; addition is XOR.

export const GF256_POLYNOMIAL = 0x11d;

/** EXP[i] = 2^i, twice over, so that sums of two logarithms need no reduction. */
const EXP = new Uint8Array(510);
const LOG = new Uint8Array(256);

for (let power = 0, value = 1; power < 255; power++) {
  EXP[power] = value;
  EXP[power + 255] = value;
  LOG[value] = power;
  value <<= 1;
  if (value & 0x100) value ^= GF256_POLYNOMIAL;
}

/** a × b, for bytes. */
export function multiply(a: number, b: number): number {
  if (a === 0 || b === 0) return 0;
  return EXP[(LOG[a] ?? 0) + (LOG[b] ?? 0)] ?? 0;
}

/** 1 / a. Throws RangeError for 0. */
export function inverse(a: number): number {
  if (a === 0) throw new RangeError("Cannot invert: 0 has no inverse");
  return EXP[255 - (LOG[a] ?? 0)] ?? 0;
}
