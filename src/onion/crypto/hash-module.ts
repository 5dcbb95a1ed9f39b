// The compression functions of SHA-1 and SHA3-256 as a WebAssembly module, put together here instruction by instruction.
// For the running digests of relay cells alone: node:crypto has both functions, but reading a digest that goes on means a copy
// of an object for each cell, which costs several times the hashing. Both functions take the same time whatever the bytes are.
// Spec: FIPS 180-4 6.1.2 (SHA-1), FIPS 202 3.2, 3.4 (Keccak-f[1600]).

import { utf8 } from "../../base/bytes.ts";

/** Works `blocks` blocks at `dataAt` into the state at `stateAt`, both offsets into the module's memory. */
export type Absorb = (stateAt: number, dataAt: number, blocks: number) => void;

export interface HashModule {
  /** Five words, little-endian in memory; blocks of 64 bytes. */
  readonly sha1: Absorb;
  /** 25 lanes; blocks of 136 bytes, the rate of SHA3-256. */
  readonly keccak: Absorb;
  /** 64 KiB; bytes below 256 are the module's own. */
  readonly memory: Uint8Array;
}

export const SHA1_BLOCK_BYTES = 64;
export const SHA3_256_BLOCK_BYTES = 136;

type Code = readonly number[];

const MODULE_BYTES = 256;
const I32 = 0x7f;
const I64 = 0x7e;
const VOID = 0x40;
/** "\0asm", version 1. */
const HEADER: Code = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];

/** Compiles the module: about a millisecond. */
export function makeHashModule(): HashModule {
  const bytes = Uint8Array.from([
    ...HEADER,
    ...section(1, [1, 0x60, 3, I32, I32, I32, 0]), // one type: three offsets, no result
    ...section(3, [2, 0, 0]), // two functions of it
    ...section(5, [1, 1, 1, 1]), // one page of memory, and no more
    ...section(7, [3, ...exported("memory", 2, 0), ...exported("sha1", 0, 0), ...exported("keccak", 0, 1)]),
    ...section(10, [2, ...sized(sha1Body()), ...sized(keccakBody())]),
  ]);
  const { Module, Instance } = Reflect.get(globalThis, "WebAssembly") as WebAssemblyHere;
  const { memory, sha1, keccak } = new Instance(new Module(bytes)).exports;
  new BigUint64Array(memory.buffer, 0, ROUND_CONSTANTS.length).set(ROUND_CONSTANTS);
  return { sha1, keccak, memory: new Uint8Array(memory.buffer) };
}

/** What we use of it: the library's types are of browsers alone. */
interface WebAssemblyHere {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
  ) => {
    readonly exports: {
      readonly memory: { readonly buffer: ArrayBuffer };
      readonly sha1: Absorb;
      readonly keccak: Absorb;
    };
  };
}

/** Where callers may keep states and blocks. */
export const HASH_MEMORY_FROM = MODULE_BYTES;

// Instructions: each takes its operands' code and gives its own. The three parameters are the locals 0 to 2.

const STATE_AT = 0;
const DATA_AT = 1;
const BLOCKS = 2;
const FIRST_LOCAL = 3;

const get = (local: number): Code => [0x20, ...unsigned(local)];
const set = (local: number, value: Code): Code => [...value, 0x21, ...unsigned(local)];
const i32 = (value: number): Code => [0x41, ...signed(value)];
const add = (a: Code, b: Code): Code => [...a, ...b, 0x6a];
const and = (a: Code, b: Code): Code => [...a, ...b, 0x71];
const or = (a: Code, b: Code): Code => [...a, ...b, 0x72];
const xor = (a: Code, b: Code): Code => [...a, ...b, 0x73];
const rotl = (a: Code, bits: number): Code => [...a, ...i32(bits), 0x77];
const load32 = (at: number, offset: number): Code => [...get(at), 0x28, 0, ...unsigned(offset)];
const store32 = (at: number, offset: number, value: Code): Code => [
  ...get(at),
  ...value,
  0x36,
  0,
  ...unsigned(offset),
];
const and64 = (a: Code, b: Code): Code => [...a, ...b, 0x83];
const xor64 = (a: Code, b: Code): Code => [...a, ...b, 0x85];
const not64 = (a: Code): Code => [...a, 0x42, 0x7f, 0x85];
const rotl64 = (a: Code, bits: number): Code => (bits === 0 ? a : [...a, 0x42, ...signed(bits), 0x89]);
const load64 = (at: number, offset: number): Code => [...get(at), 0x29, 0, ...unsigned(offset)];
const store64 = (at: number, offset: number, value: Code): Code => [
  ...get(at),
  ...value,
  0x37,
  0,
  ...unsigned(offset),
];

/** Runs `block` for each block of data. */
function forEachBlock(blockBytes: number, block: Code): Code {
  return [
    0x02,
    VOID,
    0x03,
    VOID,
    ...get(BLOCKS),
    0x45,
    0x0d,
    1, // none left: leave
    ...block,
    ...set(DATA_AT, add(get(DATA_AT), i32(blockBytes))),
    ...set(BLOCKS, add(get(BLOCKS), i32(-1))),
    0x0c,
    0,
    0x0b,
    0x0b,
  ];
}

/** FIPS 180-4 6.1.2, every round written out. The schedule is kept as 16 words that take turns (6.1.3). */
function sha1Body(): Code {
  const word = (index: number) => FIRST_LOCAL + (index % 16);
  const variables = [19, 20, 21, 22, 23];
  const schedule = (round: number): Code =>
    round < 16
      ? set(word(round), swapped(load32(DATA_AT, 4 * round)))
      : set(
          word(round),
          rotl(
            xor(
              xor(get(word(round - 3)), get(word(round - 8))),
              xor(get(word(round - 14)), get(word(round - 16))),
            ),
            1,
          ),
        );
  const block: Code[] = variables.map((local, index) => set(local, load32(STATE_AT, 4 * index)));
  for (let round = 0; round < 80; round++) {
    // Instead of moving a to b, b to c and so on, the names move.
    const [a = 0, b = 0, c = 0, d = 0, e = 0] = variables.map(
      (_, index) => variables[(index + 80 - round) % 5],
    );
    const mixed = add(
      add(rotl(get(a), 5), sha1Choice(round, get(b), get(c), get(d))),
      add(get(e), get(word(round))),
    );
    block.push(
      schedule(round),
      set(e, add(mixed, i32(SHA1_CONSTANTS[Math.floor(round / 20)] ?? 0))),
      set(b, rotl(get(b), 30)),
    );
  }
  block.push(
    ...variables.map((local, index) =>
      store32(STATE_AT, 4 * index, add(get(local), load32(STATE_AT, 4 * index))),
    ),
  );
  return [1, 21, I32, ...forEachBlock(SHA1_BLOCK_BYTES, block.flat()), 0x0b];
}

const SHA1_CONSTANTS = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc | 0, 0xca62_c1d6 | 0] as const;

function sha1Choice(round: number, b: Code, c: Code, d: Code): Code {
  if (round < 20) return xor(d, and(b, xor(c, d)));
  if (round >= 40 && round < 60) return or(and(b, c), and(d, or(b, c)));
  return xor(xor(b, c), d);
}

/** Four bytes the other way round: memory is little-endian, SHA-1 is not. */
function swapped(value: Code): Code {
  return or(and(rotl(value, 8), i32(0x00ff_00ff)), and(rotl(value, 24), i32(0xff00_ff00 | 0)));
}

/** FIPS 202 3.2: lane x, y is local x + 5 y; the lanes after pi are a second set. */
function keccakBody(): Code {
  const lane = (x: number, y: number) => FIRST_LOCAL + (x % 5) + 5 * (y % 5);
  const moved = (x: number, y: number) => lane(x, y) + 25;
  const parity = (x: number) => FIRST_LOCAL + 50 + (x % 5);
  const round = FIRST_LOCAL + 55;
  const five = [0, 1, 2, 3, 4];
  const each = (make: (x: number, y: number) => Code): Code =>
    five.flatMap((y) => five.flatMap((x) => make(x, y)));
  const rounds: Code = [
    // Theta: the parities of columns.
    ...five.flatMap((x) => set(parity(x), five.map((y) => get(lane(x, y))).reduce(xor64))),
    // The rest of theta, rho and pi in one.
    ...each((x, y) => {
      const effect = xor64(get(parity(x + 4)), rotl64(get(parity(x + 1)), 1));
      return set(moved(y, 2 * x + 3 * y), rotl64(xor64(get(lane(x, y)), effect), ROTATIONS[x + 5 * y] ?? 0));
    }),
    // Chi.
    ...each((x, y) =>
      set(lane(x, y), xor64(get(moved(x, y)), and64(not64(get(moved(x + 1, y))), get(moved(x + 2, y))))),
    ),
    // Iota: the constants lie at the beginning of the memory.
    ...set(lane(0, 0), xor64(get(lane(0, 0)), load64(round, 0))),
  ];
  const block: Code = [
    ...each((x, y) =>
      x + 5 * y < SHA3_256_BLOCK_BYTES / 8
        ? set(lane(x, y), xor64(get(lane(x, y)), load64(DATA_AT, 8 * (x + 5 * y))))
        : [],
    ),
    ...set(round, i32(0)),
    0x03,
    VOID,
    ...rounds,
    ...set(round, add(get(round), i32(8))),
    ...get(round),
    ...i32(8 * ROUND_CONSTANTS.length),
    0x49,
    0x0d,
    0,
    0x0b,
  ];
  return [
    2,
    55,
    I64,
    1,
    I32,
    ...each((x, y) => set(lane(x, y), load64(STATE_AT, 8 * (x + 5 * y)))),
    ...forEachBlock(SHA3_256_BLOCK_BYTES, block),
    ...each((x, y) => store64(STATE_AT, 8 * (x + 5 * y), get(lane(x, y)))),
    0x0b,
  ];
}

/** FIPS 202 3.2.2: by how many bits rho turns lane x, y; position t gives (t + 1)(t + 2) / 2. */
const ROTATIONS: readonly number[] = rotations();

function rotations(): number[] {
  const turns = Array.from({ length: 25 }, () => 0);
  for (let [x, y, t] = [1, 0, 0]; t < 24; t++) {
    turns[x + 5 * y] = (((t + 1) * (t + 2)) / 2) % 64;
    [x, y] = [y, (2 * x + 3 * y) % 5];
  }
  return turns;
}

/** FIPS 202 3.2.5: bits 2^j - 1 of each round's constant come from a shift register. */
const ROUND_CONSTANTS: readonly bigint[] = roundConstants();

function roundConstants(): bigint[] {
  let register = 1;
  return Array.from({ length: 24 }, () => {
    let constant = 0n;
    for (let bit = 0; bit < 7; bit++) {
      if (register & 1) constant |= 1n << BigInt(2 ** bit - 1);
      register <<= 1;
      if (register & 0x100) register ^= 0x171;
    }
    return constant;
  });
}

// The binary format (WebAssembly core specification 5).

function section(id: number, content: Code): Code {
  return [id, ...sized(content)];
}

function sized(content: Code): Code {
  return [...unsigned(content.length), ...content];
}

function exported(name: string, kind: number, index: number): Code {
  return [...sized([...utf8(name)]), kind, index];
}

function unsigned(value: number): Code {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...unsigned(value >>> 7)];
}

function signed(value: number): Code {
  const low = value & 0x7f;
  const rest = value >> 7;
  const isLast = (rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0);
  return isLast ? [low] : [low | 0x80, ...signed(rest)];
}
