// The one file that holds output which waits for its readers and does not fit in memory (spec/wire 6.2).
// Encrypted at rest: every backlog seals its blocks under a key that lives in memory only, so dropping the key
// erases them. The file is unlinked as soon as it is open: a box that dies leaves nothing behind.

import { createCipheriv, createDecipheriv, randomBytes, randomUUID } from "node:crypto";
import { type FileHandle, mkdir, open, unlink } from "node:fs/promises";
import { join } from "node:path";
import { assert } from "../../base/errors.ts";
import { BoxError } from "../../wire/error-code.ts";

const TAG_BYTES = 16;
const NONCE_BYTES = 12;

/** Where one sealed block lies. */
export interface SpoolSlot {
  readonly index: number;
  readonly length: number;
  readonly nonce: Uint8Array;
}

/** Fixed-size slots in one unlinked file, shared by all instances of a box. */
export class Spool implements AsyncDisposable {
  readonly #file: FileHandle;
  readonly #slotBytes: number;
  readonly #slotsMax: number;
  #free: number[] = [];
  #slots = 0;
  #closed = false;

  private constructor(file: FileHandle, slotBytes: number, slotsMax: number) {
    this.#file = file;
    this.#slotBytes = slotBytes;
    this.#slotsMax = slotsMax;
  }

  /**
   * @param directory made if missing, owner only
   * @param blockBytes largest block that is ever written
   * @param bytesMax what the file may grow to
   */
  static async open(options: { directory: string; blockBytes: number; bytesMax: number }): Promise<Spool> {
    await mkdir(options.directory, { recursive: true, mode: 0o700 });
    const path = join(options.directory, `spool-${randomUUID()}`);
    const file = await open(path, "wx+", 0o600);
    await unlink(path);
    const slotBytes = options.blockBytes + TAG_BYTES;
    return new Spool(file, slotBytes, Math.floor(options.bytesMax / slotBytes));
  }

  /** Slots in use. */
  get used(): number {
    return this.#slots - this.#free.length;
  }

  /** Seals and writes one block. Throws BoxError "disk-full" when the file may not grow or the disk is full. */
  async write(key: SpoolKey, block: Uint8Array): Promise<SpoolSlot> {
    assert(block.length + TAG_BYTES <= this.#slotBytes, "spool block larger than a slot");
    const index = this.#take();
    const nonce = key.nextNonce();
    const cipher = createCipheriv("aes-256-gcm", key.bytes, nonce);
    const sealed = [cipher.update(block), cipher.final(), cipher.getAuthTag()];
    try {
      // One buffer, because a short vectored write is harder to finish than a short plain one.
      await writeFully(this.#file, Buffer.concat(sealed), index * this.#slotBytes);
    } catch (cause) {
      this.#free.push(index);
      throw new BoxError("disk-full", "Cannot keep output: writing to the spool failed", { cause });
    }
    return { index, length: block.length, nonce };
  }

  /** Throws when the bytes on disk are not those that were written. */
  async read(key: SpoolKey, slot: SpoolSlot): Promise<Uint8Array> {
    const sealed = Buffer.allocUnsafe(slot.length + TAG_BYTES);
    let filled = 0;
    while (filled < sealed.length) {
      const at = slot.index * this.#slotBytes + filled;
      const { bytesRead } = await this.#file.read(sealed, filled, sealed.length - filled, at);
      if (bytesRead === 0) throw new BoxError("internal", "Cannot read spool: it is shorter than expected");
      filled += bytesRead;
    }
    const decipher = createDecipheriv("aes-256-gcm", key.bytes, slot.nonce);
    decipher.setAuthTag(sealed.subarray(slot.length));
    const head = decipher.update(sealed.subarray(0, slot.length));
    decipher.final();
    return head;
  }

  free(slot: SpoolSlot): void {
    this.#free.push(slot.index);
    if (this.#closed || this.#free.length < this.#slots) return;
    this.#free = [];
    this.#slots = 0;
    // Best effort: an untruncated file only keeps space that its limit allows it anyway.
    this.#file.truncate(0).catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#file.close();
  }

  #take(): number {
    const index = this.#free.pop();
    if (index !== undefined) return index;
    if (this.#slots >= this.#slotsMax) {
      throw new BoxError("disk-full", `Cannot keep output: all ${this.#slotsMax} spool blocks are in use`);
    }
    return this.#slots++;
  }
}

/** An ephemeral key with its own nonce counter; one per backlog. */
export class SpoolKey {
  readonly bytes: Uint8Array = randomBytes(32);
  #used = 0;

  nextNonce(): Uint8Array {
    const nonce = new Uint8Array(NONCE_BYTES);
    new DataView(nonce.buffer).setBigUint64(4, BigInt(this.#used++));
    return nonce;
  }

  erase(): void {
    this.bytes.fill(0);
  }
}

async function writeFully(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}
