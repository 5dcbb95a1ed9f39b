// A stored value on disk: sealed chunks one after the other, written and read as streams. A file is opened for
// each chunk and closed again, so that a thousand waiting streams hold no file descriptors; the first few readers may
// keep theirs, because opening for each chunk halves the rate of a download on a busy machine.

import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { BentoError } from "../../base/errors.ts";
import { CHUNK_BYTES, chunkCount, type FileCipher, sealedBytes } from "./storage-cipher.ts";

/**
 * Writes `value` to the new file `path` and resolves to its plain length. Takes the next piece of `value` only when
 * the last is written. On any error the file is left for the caller to remove.
 * @param charge is told the bytes on disk of each chunk before it is written; may throw
 */
export async function writeSealed(
  path: string,
  cipher: FileCipher,
  value: AsyncIterable<Uint8Array>,
  charge: (diskBytes: number) => void,
): Promise<number> {
  const buffer = new Uint8Array(CHUNK_BYTES);
  let filled = 0;
  let index = 0;
  const flush = async (isFinal: boolean) => {
    charge(sealedBytes(filled));
    const sealed = cipher.seal(index, isFinal, buffer.subarray(0, filled));
    await withFile(path, index === 0 ? NEW_FILE : OLD_FILE, (file) => writeAll(file, sealed));
    index++;
  };
  let bytes = 0;
  for await (const piece of value) {
    for (let at = 0; at < piece.length; ) {
      // A full buffer waits until it is known that more follows: the last chunk is marked as such.
      if (filled === CHUNK_BYTES) {
        await flush(false);
        filled = 0;
      }
      const part = piece.subarray(at, at + CHUNK_BYTES - filled);
      buffer.set(part, filled);
      filled += part.length;
      at += part.length;
    }
    bytes += piece.length;
  }
  await flush(true);
  return bytes;
}

/** Files that readers keep open between chunks, of all functions together. */
export const READERS_OPEN_MAX = 64;
let readersOpen = 0;

/**
 * The plain bytes of a file from `offset` on, chunk by chunk as they are asked for.
 * Throws BentoError "storage-damaged" on any byte that is not as it was written.
 */
export async function* readSealed(
  path: string,
  cipher: FileCipher,
  bytes: number,
  offset: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  const chunks = chunkCount(bytes);
  const first = Math.min(chunks - 1, Math.floor(offset / CHUNK_BYTES));
  await using kept = new KeptFile(path, chunks - first > 1);
  for (let index = first; index < chunks; index++) {
    const start = index * CHUNK_BYTES;
    const plainBytes = Math.min(CHUNK_BYTES, bytes - start);
    const plain = await readChunk(kept, cipher, index, index === chunks - 1, plainBytes);
    const skip = Math.max(0, offset - start);
    if (skip < plain.length) yield plain.subarray(skip);
  }
}

/** A file that is read in several steps: kept open if there is room for it, else opened for each. */
class KeptFile implements AsyncDisposable {
  readonly #path: string;
  readonly #isKept: boolean;
  #file: FileHandle | undefined;
  #buffer: Uint8Array | undefined;

  constructor(path: string, isLong: boolean) {
    this.#path = path;
    this.#isKept = isLong && readersOpen < READERS_OPEN_MAX;
    if (this.#isKept) readersOpen++;
  }

  /** Room for the sealed bytes of one chunk, the same each time: what is opened from it is a copy. */
  room(bytes: number): Uint8Array {
    this.#buffer ??= new Uint8Array(bytes);
    return this.#buffer.length >= bytes ? this.#buffer.subarray(0, bytes) : new Uint8Array(bytes);
  }

  async use(read: (file: FileHandle) => Promise<void>): Promise<void> {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW;
    if (!this.#isKept) return withFile(this.#path, flags, read);
    this.#file ??= await open(this.#path, flags);
    await read(this.#file);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isKept) readersOpen--;
    await this.#file?.close();
  }
}

const NEW_FILE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
const OLD_FILE = constants.O_WRONLY | constants.O_APPEND | constants.O_NOFOLLOW;

async function readChunk(
  kept: KeptFile,
  cipher: FileCipher,
  index: number,
  isFinal: boolean,
  plainBytes: number,
): Promise<Uint8Array> {
  const sealed = kept.room(sealedBytes(plainBytes));
  try {
    await kept.use(async (file) => {
      const position = index * sealedBytes(CHUNK_BYTES);
      const { bytesRead } = await file.read(sealed, 0, sealed.length, position);
      if (bytesRead !== sealed.length) throw new Error(`read ${bytesRead} bytes, expected ${sealed.length}`);
    });
    return cipher.open(index, isFinal, sealed);
  } catch (cause) {
    throw new BentoError("storage-damaged", "Cannot read value: its file was changed or lost", { cause });
  }
}

async function withFile(
  path: string,
  flags: number,
  use: (file: FileHandle) => Promise<void>,
): Promise<void> {
  const file = await open(path, flags, 0o600);
  try {
    await use(file);
  } finally {
    await file.close();
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  // A write to a nearly full disk may be short without an error; the next one reports it.
  for (let at = 0; at < bytes.length; ) at += (await file.write(bytes, at)).bytesWritten;
}
