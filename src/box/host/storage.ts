// Storage that functions keep between their instances (spec/storage 3). Values lie encrypted on disk; keys, names
// and sizes exist in memory only, so that the end of the box erases everything and the disk never shows who stored
// what. This file holds the vaults of all functions; function-vault.ts is one of them.

import { randomBytes } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { FunctionId } from "../store/function-store.ts";
import {
  FunctionVault,
  type SharedStorage,
  Space,
  STORAGE_LIMITS,
  type StorageLimits,
} from "./function-vault.ts";
import type { FunctionStorage } from "./services.ts";
import { StorageKeys } from "./storage-keys.ts";

export interface StorageVaultOptions {
  /** The vault's own folder: emptied when it opens, for without keys its content is noise. */
  readonly dir: string;
  /** Of all functions together, on disk. */
  readonly bytesMax: number;
  readonly limits?: StorageLimits;
}

export class StorageVault implements AsyncDisposable {
  readonly #dir: string;
  readonly #shared: SharedStorage;
  readonly #functions = new Map<FunctionId, FunctionVault>();

  private constructor(options: StorageVaultOptions) {
    this.#dir = options.dir;
    this.#shared = {
      space: new Space(options.bytesMax),
      limits: options.limits ?? STORAGE_LIMITS,
      keys: new StorageKeys(),
    };
  }

  /** Empties and creates the folder. */
  static async open(options: StorageVaultOptions): Promise<StorageVault> {
    await rm(options.dir, { recursive: true, force: true });
    await mkdir(options.dir, { recursive: true, mode: 0o700 });
    return new StorageVault(options);
  }

  /** The storage of one function, the same for all its instances. `quotaBytes` counts at the first call. */
  forFunction(id: FunctionId, quotaBytes: number): FunctionStorage {
    const known = this.#functions.get(id);
    if (known) return known;
    // The folder's name says nothing about the function.
    const dir = join(this.#dir, randomBytes(16).toString("hex"));
    const created = new FunctionVault(id, dir, new Space(quotaBytes), this.#shared);
    this.#functions.set(id, created);
    return created;
  }

  /** Bytes charged to all functions together. */
  get bytesUsed(): number {
    return this.#shared.space.bytes;
  }

  /** Bytes charged to a function. */
  bytesOf(id: FunctionId): number {
    return this.#functions.get(id)?.bytesUsed ?? 0;
  }

  /** Forgets a function's key, ends what is being written and read, and removes its files. */
  async erase(id: FunctionId): Promise<void> {
    const vault = this.#functions.get(id);
    this.#functions.delete(id);
    await vault?.erase();
  }

  /** Erases every function. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#functions.keys()].map((id) => this.erase(id)));
    await rm(this.#dir, { recursive: true, force: true });
  }
}
