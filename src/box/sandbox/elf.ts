// Reads which shared libraries an ELF program needs, so that a mini-root holds those and no more. Reads only
// files of the operating system, before any function exists; still every offset is checked.
// Layout: System V ABI, chapters 4 and 5. `7f 45 4c 46 02 01 ...` = magic, 64 bit, little endian.

import { open } from "node:fs/promises";
import { view } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";

const HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1;
const DT_STRTAB = 5;
const DT_STRSZ = 10;
/** Bytes read of one table: real ones have some kilobytes, Deno's string table 300 KiB. */
const TABLE_BYTES_MAX = 16 * 1024 * 1024;

/** What the dynamic linker must find. */
export interface ElfNeeds {
  /** Path of the dynamic linker, absent in libraries. */
  readonly interpreter: string | undefined;
  /** Names such as `libc.so.6`. */
  readonly libraries: readonly string[];
}

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly bytes: number;
}

type ReadAt = (offset: number, bytes: number) => Promise<Uint8Array>;

/** The needs of an ELF file, or undefined when it is not a 64-bit little-endian ELF file. */
export async function readElfNeeds(path: string): Promise<ElfNeeds | undefined> {
  await using file = await open(path, "r");
  const readAt: ReadAt = async (offset, bytes) => {
    if (bytes > TABLE_BYTES_MAX)
      throw new BentoError("sandbox-elf", `Cannot read ${path}: table of ${bytes} bytes`);
    const { bytesRead, buffer } = await file.read(new Uint8Array(bytes), 0, bytes, offset);
    return buffer.subarray(0, bytesRead);
  };
  const header = await readAt(0, HEADER_BYTES);
  if (header.length < HEADER_BYTES) return undefined;
  const fields = view(header);
  if (fields.getUint32(0) !== 0x7f454c46 || header[4] !== 2 || header[5] !== 1) return undefined;
  try {
    const segments = await readSegments(
      readAt,
      Number(fields.getBigUint64(32, true)),
      fields.getUint16(56, true),
    );
    return await readNeeds(readAt, segments);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new BentoError("sandbox-elf", `Cannot read ${path}: damaged ELF file`, { cause: error });
  }
}

async function readSegments(readAt: ReadAt, offset: number, count: number): Promise<Segment[]> {
  const table = view(await readAt(offset, count * PROGRAM_HEADER_BYTES));
  return Array.from({ length: count }, (_, index) => {
    const at = index * PROGRAM_HEADER_BYTES;
    return {
      type: table.getUint32(at, true),
      offset: Number(table.getBigUint64(at + 8, true)),
      address: Number(table.getBigUint64(at + 16, true)),
      bytes: Number(table.getBigUint64(at + 32, true)),
    };
  });
}

async function readNeeds(readAt: ReadAt, segments: readonly Segment[]): Promise<ElfNeeds> {
  const interpreterSegment = segments.find((segment) => segment.type === PT_INTERP);
  const dynamicSegment = segments.find((segment) => segment.type === PT_DYNAMIC);
  const interpreter =
    interpreterSegment && textAt(await readAt(interpreterSegment.offset, interpreterSegment.bytes), 0);
  if (!dynamicSegment) return { interpreter, libraries: [] };
  const dynamic = view(await readAt(dynamicSegment.offset, dynamicSegment.bytes));
  const names: number[] = [];
  let tableAddress = 0;
  let tableBytes = 0;
  for (let at = 0; at + 16 <= dynamic.byteLength; at += 16) {
    const tag = Number(dynamic.getBigInt64(at, true));
    const value = Number(dynamic.getBigUint64(at + 8, true));
    if (tag === 0) break;
    if (tag === DT_NEEDED) names.push(value);
    if (tag === DT_STRTAB) tableAddress = value;
    if (tag === DT_STRSZ) tableBytes = value;
  }
  const home = segments.find(
    (segment) =>
      segment.type === PT_LOAD &&
      tableAddress >= segment.address &&
      tableAddress < segment.address + segment.bytes,
  );
  if (!home) return { interpreter, libraries: [] };
  const table = await readAt(tableAddress - home.address + home.offset, tableBytes);
  return { interpreter, libraries: names.map((offset) => textAt(table, offset)) };
}

/** The text from `offset` to the next zero byte. */
function textAt(bytes: Uint8Array, offset: number): string {
  const end = bytes.indexOf(0, offset);
  if (offset >= bytes.length || end < 0) throw new RangeError("text outside its table");
  return Buffer.from(bytes.buffer, bytes.byteOffset + offset, end - offset).toString("latin1");
}
