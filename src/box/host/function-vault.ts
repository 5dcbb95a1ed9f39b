// The storage of one function (spec/storage 3): its key, the names and sizes of its values, its quota. The
// function on one side and the disk on the other are both untrusted.

import { randomBytes } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import { BentoError, systemCode } from "../../base/errors.ts";
import { BoxError } from "../../wire/error-code.ts";
import { Limits } from "../../wire/limits.ts";
import type { FunctionId } from "../store/function-store.ts";
import { abortable } from "./abortable.ts";
import type { FunctionStorage, HeldValue } from "./services.ts";
import { FileCipher } from "./storage-cipher.ts";
import { readSealed, SealedReader, writeSealed } from "./storage-file.ts";
import type { KeyPlace, StorageKeys } from "./storage-keys.ts";

export const STORAGE_LIMITS = {
  /** What each value costs beside its bytes: an inode, the rest of its last block, its entry in memory. */
  entryBytes: 4096,
  /** Values of one function: bounds what `list` has to sort and one function can take of `keysTotalMax`. */
  keysPerFunctionMax: 10_000,
  /** Values of all functions, each about 1 KiB of the box's memory at worst. */
  keysTotalMax: 100_000,
  /** Keys in one answer to `list`. */
  listedMax: 1000,
} as const;

/** Chunks of a held value that are read from the disk together: a quarter of the work for four times the memory. */
const HELD_CHUNKS = 4;

export type StorageLimits = Readonly<Record<keyof typeof STORAGE_LIMITS, number>>;

/** What is left of a bound that several draw on. */
export class Space {
  readonly bytesMax: number;
  bytes = 0;
  keys = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }
}

/** One version of one value. Its file goes when nobody refers to it any more. */
interface Value {
  /** Names the file and, with the function's key, its key: derived again for each read, for idle values are many. */
  readonly fileId: string;
  readonly bytes: number;
  /** Bytes charged for it. */
  readonly cost: number;
  references: number;
}

/** What all functions of a box draw on. */
export interface SharedStorage {
  readonly space: Space;
  readonly limits: StorageLimits;
  readonly keys: StorageKeys;
}

/** What a vault has while it is used, and not when it is idle, for idle ones are many. */
interface Use {
  readonly end: AbortController;
  readonly puts: Set<Promise<unknown>>;
  operations: number;
}

export class FunctionVault implements FunctionStorage {
  readonly #id: FunctionId;
  readonly #dir: string;
  readonly #keys: StorageKeys;
  readonly #key: KeyPlace;
  readonly #own: Space;
  readonly #total: Space;
  readonly #limits: StorageLimits;
  readonly #values = new Map<string, Value>();
  /** The keys of #values in order of their UTF-8 bytes. */
  readonly #order: string[] = [];
  #use: Use | undefined;
  #isErased = false;
  /** Pending while it is made. */
  #folder: Promise<unknown> | "made" | undefined;

  /** @param dir the function's own folder */
  constructor(id: FunctionId, dir: string, quota: Space, shared: SharedStorage) {
    this.#id = id;
    this.#dir = dir;
    this.#own = quota;
    this.#total = shared.space;
    this.#limits = shared.limits;
    this.#keys = shared.keys;
    this.#key = shared.keys.create();
  }

  get bytesUsed(): number {
    return this.#own.bytes;
  }

  async put(
    key: string,
    value: AsyncIterable<Uint8Array>,
    options: { signal: AbortSignal; create?: boolean },
  ): Promise<{ bytes: number }> {
    checkKey(key);
    options.signal.throwIfAborted();
    const use = this.#begin();
    try {
      const signal = AbortSignal.any([options.signal, use.end.signal]);
      const create = options.create ?? false;
      if (create) this.#refuseTaken(key);
      this.#takeKey();
      const put = this.#put(key, abortable(value, signal), { signal, create });
      use.puts.add(put);
      try {
        return { bytes: await put };
      } finally {
        use.puts.delete(put);
      }
    } finally {
      this.#done(use);
    }
  }

  async #put(
    key: string,
    value: AsyncIterable<Uint8Array>,
    { signal, create }: { signal: AbortSignal; create: boolean },
  ): Promise<number> {
    const fileId = randomBytes(16).toString("hex");
    const path = join(this.#dir, fileId);
    let cost = 0;
    const charge = (diskBytes: number) => {
      this.#charge(diskBytes);
      cost += diskBytes;
    };
    try {
      charge(this.#limits.entryBytes);
      await this.#makeFolder();
      const cipher = this.#cipherOf(fileId);
      const bytes = await writeSealed(path, cipher, value, charge);
      signal.throwIfAborted();
      // Nothing is awaited between this and the next line: of several that create one key, one succeeds.
      if (create) this.#refuseTaken(key);
      this.#replace(key, { fileId, bytes, cost, references: 1 });
      return bytes;
    } catch (error) {
      await rm(path, { force: true });
      this.#giveBack(cost);
      if (!isDiskFull(error)) throw error;
      throw new BoxError("disk-full", "Cannot store value: the box has no room on its disk", {
        cause: error,
      });
    }
  }

  async get(
    key: string,
    options: { signal: AbortSignal; offset?: number },
  ): Promise<{ bytes: number; value: AsyncIterable<Uint8Array> } | undefined> {
    options.signal.throwIfAborted();
    const offset = options.offset ?? 0;
    const value = this.#find(key, offset);
    if (!value) return undefined;
    value.references++;
    return { bytes: value.bytes, value: this.#read(value, offset, options.signal) };
  }

  hold(key: string, range: { offset: number; bytes?: number | undefined }): HeldValue | undefined {
    const { offset } = range;
    const value = this.#find(key, offset);
    if (!value) return undefined;
    const use = this.#begin();
    value.references++;
    const { signal } = use.end;
    // Holds the file's key: gone when the function has ended, or when nobody needs it.
    let reader: SealedReader | undefined = new SealedReader(
      join(this.#dir, value.fileId),
      this.#cipherOf(value.fileId),
      value.bytes,
      HELD_CHUNKS,
    );
    const release = () => {
      if (!reader) return;
      reader[Symbol.asyncDispose]().catch(() => undefined);
      reader = undefined;
      signal.removeEventListener("abort", release);
      this.#done(use);
      this.#releaseSoon(value);
    };
    signal.addEventListener("abort", release, { once: true });
    const bytes = Math.min(value.bytes - offset, range.bytes ?? value.bytes);
    return {
      bytes,
      signal,
      rest: () => {
        reader?.rest().catch(() => undefined);
      },
      release,
      read: async (from) => {
        try {
          if (!reader) throw new BentoError("storage-released", "Cannot read value: it was released");
          return (await reader.read(offset + from)).subarray(0, bytes - from);
        } finally {
          // What was read of an erased value goes nowhere; and that it was erased is the better answer.
          signal.throwIfAborted();
        }
      },
    };
  }

  async delete(key: string): Promise<boolean> {
    checkKey(key);
    this.#refuseErased();
    const value = this.#values.get(key);
    if (!value) return false;
    this.#values.delete(key);
    this.#order.splice(this.#place(key), 1);
    await this.#release(value);
    return true;
  }

  async list(options: {
    prefix: string;
    after?: string;
    limit: number;
  }): Promise<readonly { key: string; bytes: number }[]> {
    const { prefix, after } = options;
    const found: { key: string; bytes: number }[] = [];
    const first = after !== undefined && compareKeys(after, prefix) >= 0 ? after : prefix;
    for (let at = this.#place(first); at < this.#order.length; at++) {
      const key = this.#order[at] ?? "";
      if (found.length >= Math.min(options.limit, this.#limits.listedMax)) break;
      if (key === after) continue;
      if (!key.startsWith(prefix)) break;
      found.push({ key, bytes: this.#values.get(key)?.bytes ?? 0 });
    }
    return found;
  }

  async erase(): Promise<void> {
    if (this.#isErased) return;
    this.#isErased = true;
    const use = this.#use;
    use?.end.abort(erased());
    if (use) await Promise.allSettled(use.puts);
    this.#keys.erase(this.#key);
    const values = [...this.#values.values()];
    this.#values.clear();
    this.#order.length = 0;
    await Promise.all(values.map((value) => this.#release(value)));
    await rm(this.#dir, { recursive: true, force: true });
  }

  #find(key: string, offset: number): Value | undefined {
    checkKey(key);
    this.#refuseErased();
    const value = this.#values.get(key);
    if (!value || (Number.isSafeInteger(offset) && offset >= 0 && offset <= value.bytes)) return value;
    throw new BentoError(
      "storage-offset",
      `Cannot read value: offset ${offset}, expected 0 to ${value.bytes}`,
    );
  }

  /** One operation more. It ends with `#done`. */
  #begin(): Use {
    this.#refuseErased();
    this.#use ??= { end: new AbortController(), puts: new Set(), operations: 0 };
    this.#use.operations++;
    return this.#use;
  }

  #done(use: Use): void {
    use.operations--;
    if (use.operations === 0 && this.#use === use) this.#use = undefined;
  }

  #cipherOf(fileId: string): FileCipher {
    this.#refuseErased();
    return new FileCipher(this.#keys.bytes(this.#key), this.#id, fileId);
  }

  #refuseErased(): void {
    if (this.#isErased) throw erased();
  }

  /** Reads one version to its end. The version is kept until the reader is done, gives up or is aborted. */
  #read(value: Value, offset: number, caller: AbortSignal): AsyncIterable<Uint8Array> {
    const use = this.#begin();
    const signal = AbortSignal.any([caller, use.end.signal]);
    let held = true;
    const release = () => {
      if (!held) return;
      held = false;
      signal.removeEventListener("abort", release);
      this.#done(use);
      this.#releaseSoon(value);
    };
    signal.addEventListener("abort", release, { once: true });
    const cipher = this.#cipherOf(value.fileId);
    const chunks = readSealed(join(this.#dir, value.fileId), cipher, value.bytes, offset);
    return {
      async *[Symbol.asyncIterator]() {
        try {
          signal.throwIfAborted();
          if (!held) throw new BentoError("storage-read-twice", "Cannot read value: it was read already");
          yield* chunks;
        } catch (error) {
          // An erased file cannot be read either; that it was erased is the better answer.
          signal.throwIfAborted();
          throw error;
        } finally {
          release();
        }
      },
    };
  }

  #refuseTaken(key: string): void {
    if (!this.#values.has(key)) return;
    throw new BentoError("storage-exists", "Cannot create value: there is one under this key");
  }

  #replace(key: string, value: Value): void {
    const old = this.#values.get(key);
    if (!old) this.#order.splice(this.#place(key), 0, key);
    this.#values.set(key, value);
    if (old) this.#releaseSoon(old);
  }

  /** Drops one reference; the last one takes file and charge with it. */
  async #release(value: Value): Promise<void> {
    value.references--;
    if (value.references > 0) return;
    await rm(join(this.#dir, value.fileId), { force: true });
    this.#giveBack(value.cost);
  }

  /** A file that cannot be removed keeps its charge, and goes when the function or the box does. */
  #releaseSoon(value: Value): void {
    this.#release(value).catch(() => undefined);
  }

  async #makeFolder(): Promise<void> {
    if (this.#folder === "made") return;
    this.#folder ??= mkdir(this.#dir, { mode: 0o700 });
    try {
      await this.#folder;
      this.#folder = "made";
    } catch (error) {
      this.#folder = undefined;
      throw error;
    }
  }

  #takeKey(): void {
    const { keysPerFunctionMax, keysTotalMax } = this.#limits;
    if (this.#own.keys >= keysPerFunctionMax) {
      throw new BentoError(
        "storage-quota",
        `Cannot store value: ${keysPerFunctionMax} values exist, and no more may`,
      );
    }
    if (this.#total.keys >= keysTotalMax) {
      throw new BoxError("disk-full", "Cannot store value: the box holds as many as it may");
    }
    this.#own.keys++;
    this.#total.keys++;
  }

  #charge(bytes: number): void {
    const { bytes: used, bytesMax } = this.#own;
    if (used + bytes > bytesMax) {
      throw new BentoError(
        "storage-quota",
        `Cannot store value: ${formatBytes(bytes)} more exceed the quota of ${formatBytes(bytesMax)}, ${formatBytes(used)} used`,
      );
    }
    if (this.#total.bytes + bytes > this.#total.bytesMax) {
      throw new BoxError("disk-full", "Cannot store value: the storage of the box is full");
    }
    this.#own.bytes += bytes;
    this.#total.bytes += bytes;
  }

  /** The charge and the key of one version. */
  #giveBack(cost: number): void {
    this.#own.bytes -= cost;
    this.#total.bytes -= cost;
    this.#own.keys--;
    this.#total.keys--;
  }

  /** Where `key` is, or would be, in #order. */
  #place(key: string): number {
    let low = 0;
    let high = this.#order.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compareKeys(this.#order[middle] ?? "", key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function erased(): BentoError {
  return new BentoError("storage-erased", "Cannot use storage: the function has ended");
}

function compareKeys(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

function checkKey(key: string): void {
  const bytes = Buffer.byteLength(key);
  if (bytes >= 1 && bytes <= Limits.storageKeyBytesMax && key.isWellFormed()) return;
  throw new BentoError(
    "storage-key",
    `Cannot use key: ${bytes} bytes, expected 1 to ${Limits.storageKeyBytesMax} of well-formed text`,
  );
}

function isDiskFull(error: unknown): boolean {
  const code = systemCode(error);
  return code === "ENOSPC" || code === "EDQUOT";
}
