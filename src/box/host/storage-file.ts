// A stored value on disk: sealed chunks one after the other, written and read as streams. A file is opened for
// each chunk and closed again, so that a thousand waiting streams hold no file descriptors; the first few may
// keep theirs, because opening for each chunk halves the rate of a transfer on a busy machine.

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
  await using kept = new KeptFile(path);
  const buffer = new Uint8Array(CHUNK_BYTES);
  // The same each time: it is on disk when the next chunk is sealed.
  const room = new Uint8Array(sealedBytes(CHUNK_BYTES));
  let filled = 0;
  let index = 0;
  const flush = async (isFinal: boolean) => {
    charge(sealedBytes(filled));
    const sealed = cipher.seal(index, isFinal, buffer.subarray(0, filled), room);
    const flags = index === 0 ? NEW_FILE : OLD_FILE;
    await kept.use(flags, { isLast: isFinal }, (file) => writeAll(file, sealed));
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

/** Files that are kept open between chunks, of all functions together. */
export const FILES_OPEN_MAX = 64;
let filesOpen = 0;

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
  await using reader = new SealedReader(path, cipher, bytes);
  // An empty value is read as well: its end is authenticated.
  let at = offset;
  do {
    const plain = await reader.read(at);
    if (plain.length > 0) yield plain;
    at += plain.length;
  } while (at < bytes);
}

/** Sealed chunks from `first` on that were read together. */
interface Ahead {
  readonly first: number;
  readonly chunks: readonly Uint8Array[];
}

const NOTHING: Ahead = { first: 0, chunks: [] };

/** One file, read from wherever it is asked for, one read after the other. */
export class SealedReader implements AsyncDisposable {
  readonly #cipher: FileCipher;
  readonly #bytes: number;
  readonly #chunks: number;
  readonly #chunksAhead: number;
  readonly #kept: KeptFile;
  #ahead: Ahead = NOTHING;
  /** The last use: the next one has the same file and memory. */
  #turn: Promise<unknown> = Promise.resolve();

  /**
   * @param bytes plain length of the file
   * @param chunksAhead how many chunks are read from the disk at once: each takes its memory until `rest`
   */
  constructor(path: string, cipher: FileCipher, bytes: number, chunksAhead = 1) {
    this.#cipher = cipher;
    this.#bytes = bytes;
    this.#chunks = chunkCount(bytes);
    this.#chunksAhead = chunksAhead;
    this.#kept = new KeptFile(path);
  }

  /**
   * The plain bytes from `offset` to the end of their chunk, in memory of their own. Throws BentoError
   * "storage-damaged".
   */
  async read(offset: number): Promise<Uint8Array> {
    return this.#inTurn(() => this.#read(offset));
  }

  /** Lets go of file and memory until the next read. */
  async rest(): Promise<void> {
    await this.#inTurn(() => {
      this.#ahead = NOTHING;
      return this.#kept[Symbol.asyncDispose]();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.rest();
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(task);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  async #read(offset: number): Promise<Uint8Array> {
    const index = Math.min(this.#chunks - 1, Math.floor(offset / CHUNK_BYTES));
    try {
      let sealed = this.#ahead.chunks[index - this.#ahead.first];
      if (!sealed) {
        // Its memory is the next one's.
        this.#ahead = NOTHING;
        this.#ahead = { first: index, chunks: await this.#readAhead(index) };
        sealed = this.#ahead.chunks[0] as Uint8Array;
      }
      const plain = this.#cipher.open(index, index === this.#chunks - 1, sealed);
      return plain.subarray(offset - index * CHUNK_BYTES);
    } catch (cause) {
      throw new BentoError("storage-damaged", "Cannot read value: its file was changed or lost", { cause });
    }
  }

  async #readAhead(first: number): Promise<readonly Uint8Array[]> {
    const end = Math.min(this.#chunks, first + this.#chunksAhead);
    const plainBytes = Math.min(this.#bytes, end * CHUNK_BYTES) - first * CHUNK_BYTES;
    const sealed = this.#kept.room(plainBytes + (end - first) * sealedBytes(0));
    const isLast = end === this.#chunks;
    await this.#kept.use(READ_FILE, { isLast }, async (file) => {
      const position = first * sealedBytes(CHUNK_BYTES);
      const { bytesRead } = await file.read(sealed, 0, sealed.length, position);
      if (bytesRead !== sealed.length) throw new Error(`read ${bytesRead} bytes, expected ${sealed.length}`);
    });
    return Array.from({ length: end - first }, (_, at) =>
      sealed.subarray(at * sealedBytes(CHUNK_BYTES), (at + 1) * sealedBytes(CHUNK_BYTES)),
    );
  }
}

/** A file that is used in several steps: kept open if there is room for it, else opened for each. */
class KeptFile implements AsyncDisposable {
  readonly #path: string;
  #file: FileHandle | undefined;
  #buffer: Uint8Array | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /** Room for sealed bytes, the same each time: what is opened from it is a copy. */
  room(bytes: number): Uint8Array {
    this.#buffer ??= new Uint8Array(bytes);
    return this.#buffer.length >= bytes ? this.#buffer.subarray(0, bytes) : new Uint8Array(bytes);
  }

  /** One step. What is used once only is not worth a place. `flags` count where the file is opened. */
  async use(
    flags: number,
    { isLast }: { readonly isLast: boolean },
    step: (file: FileHandle) => Promise<void>,
  ): Promise<void> {
    if (!this.#file && !isLast && filesOpen < FILES_OPEN_MAX) {
      filesOpen++;
      try {
        this.#file = await open(this.#path, flags, 0o600);
      } catch (error) {
        filesOpen--;
        throw error;
      }
    }
    if (this.#file) return step(this.#file);
    await withFile(this.#path, flags, step);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    this.#buffer = undefined;
    if (!file) return;
    filesOpen--;
    await file.close();
  }
}

const NEW_FILE = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
const OLD_FILE = constants.O_WRONLY | constants.O_APPEND | constants.O_NOFOLLOW;
const READ_FILE = constants.O_RDONLY | constants.O_NOFOLLOW;

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
