// The durable store of installed functions (spec/storage 2): what was acknowledged is there after kill -9 or a
// power failure. The database lives in a worker thread (store-worker.ts), which flushes once for all functions
// that arrive together; this side hands out tokens, counts and bounds. It holds no code and no token in memory
// once it is written.

import { randomBytes } from "node:crypto";
import { Worker } from "node:worker_threads";
import type { Clock } from "../../base/clock.ts";
import { BentoError, Bug, messageOf } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { BoxError } from "../../wire/error-code.ts";
import { type FunctionPackage, parsePackage, sourceHash } from "../../wire/package.ts";
import {
  type InvocationToken,
  newInvocationToken,
  newShutdownToken,
  type ShutdownToken,
} from "../../wire/token.ts";
import type {
  FoundFunction,
  StoreAnswer,
  StoreEvent,
  StoreOperation,
  WorkerOptions,
} from "./store-messages.ts";

declare const brand: unique symbol;
/** Names a function inside the box: 32 hexadecimal digits, no capability. Never leaves the box. */
export type FunctionId = string & { readonly [brand]: "function" };

/** Packages waiting to be written, in bytes of text: bounds memory while the disk is slow. */
const PENDING_BYTES_MAX = 64 * 2 ** 20;

/** Megabytes of the worker's heap: a batch of packages and their sealed copies fit, garbage is collected early. */
const WORKER_LIMITS = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 512 };

export interface FunctionStoreOptions {
  /** Created with mode 0700 when missing; no second box may use it. */
  readonly dir: string;
  /** Installed functions, expired ones included until `expire` removes them. */
  readonly functionsMax: number;
  /** Size that the database may reach: bytes. */
  readonly bytesMax: number;
  readonly clock: Clock;
  readonly log: Log;
}

export interface AddedFunction {
  readonly id: FunctionId;
  readonly invocationToken: InvocationToken;
  readonly shutdownToken: ShutdownToken;
  /** SHA-256 of image and source, hex. */
  readonly sourceHash: string;
  /** Unix milliseconds. */
  readonly storedAt: number;
  readonly expiresAt: number;
}

export interface StoredFunction {
  readonly id: FunctionId;
  readonly package: FunctionPackage;
  readonly sourceHash: string;
  /** Unix milliseconds. */
  readonly storedAt: number;
  readonly expiresAt: number;
}

interface Waiter {
  readonly resolve: (answer: StoreAnswer) => void;
  readonly reject: (error: unknown) => void;
}

export class FunctionStore implements AsyncDisposable {
  readonly #options: FunctionStoreOptions;
  readonly #worker: Worker;
  readonly #waiters = new Map<number, Waiter>();
  #nextRequest = 1;
  #count: number;
  #pendingBytes = 0;
  #end: { readonly error: unknown } | undefined;
  #closing: Promise<void> | undefined;

  private constructor(options: FunctionStoreOptions, worker: Worker, count: number) {
    this.#options = options;
    this.#worker = worker;
    this.#count = count;
    worker.on("message", (event: StoreEvent) => {
      this.#onEvent(event);
    });
    worker.on("error", (error) => {
      options.log.error("function store has failed; restart the box", { reason: messageOf(error) });
      this.#fail(new Bug("The function store's thread failed", { cause: error }));
    });
    worker.on("exit", () => {
      this.#fail(new BoxError("shutting-down", "Cannot use function store: it is closed"));
    });
  }

  /** Throws BentoError "store-busy", "store-corrupt" or "store-unusable", with advice for the operator. */
  static async open(options: FunctionStoreOptions): Promise<FunctionStore> {
    const workerData: WorkerOptions = { dir: options.dir, bytesMax: options.bytesMax };
    const worker = new Worker(workerUrl(), { workerData, env: {}, resourceLimits: WORKER_LIMITS });
    const { promise, resolve, reject } = Promise.withResolvers<StoreEvent>();
    worker.once("message", resolve);
    worker.once("error", reject);
    const event = await promise;
    worker.off("error", reject);
    if (event.kind === "opened") return new FunctionStore(options, worker, event.count);
    await worker.terminate();
    if (event.kind === "answer") throw new Bug("The function store answered before it was open");
    throw new BentoError(
      event.code,
      event.message,
      event.advice === undefined ? {} : { advice: event.advice },
    );
  }

  /** Installed functions, those being written and expired ones not yet removed included. */
  get count(): number {
    return this.#count;
  }

  /**
   * Installs a function under new tokens. Resolves when it is durable.
   * Throws BoxError "box-full" or "disk-full"; then nothing of it is kept.
   */
  async add(pack: FunctionPackage, options: { readonly expiresAt: number }): Promise<AddedFunction> {
    const { added, durable } = this.startAdd(pack, options);
    await durable;
    return added;
  }

  /**
   * `add`, with the tokens at hand while the disk still works, so that the caller can start an instance meanwhile.
   * Nothing may be acknowledged to the peer before `durable` resolves. Throws as `add`, `durable` included.
   */
  startAdd(
    pack: FunctionPackage,
    options: { readonly expiresAt: number },
  ): { readonly added: AddedFunction; readonly durable: Promise<void> } {
    const text = { manifest: JSON.stringify(pack.manifestInput), source: pack.source };
    const bytes = text.manifest.length + text.source.length;
    if (this.#count >= this.#options.functionsMax) {
      throw new BoxError(
        "box-full",
        `Cannot store function: this box holds ${this.#count} and takes no more`,
      );
    }
    if (this.#pendingBytes > 0 && this.#pendingBytes + bytes > PENDING_BYTES_MAX) {
      throw new BoxError("box-full", "Cannot store function: too many others are being written");
    }
    const added: AddedFunction = {
      id: randomBytes(16).toString("hex") as FunctionId,
      invocationToken: newInvocationToken(),
      shutdownToken: newShutdownToken(),
      sourceHash: sourceHash(pack),
      storedAt: this.#options.clock.now(),
      expiresAt: options.expiresAt,
    };
    const durable = this.#add(added, text, bytes);
    // The caller awaits it; should it fail elsewhere first, this one must not count as unhandled.
    durable.catch(() => undefined);
    return { added, durable };
  }

  /** The function that this token may invoke; undefined when there is none or it has expired. */
  async findByInvocation(token: InvocationToken): Promise<StoredFunction | undefined> {
    return this.#found(await this.#ask({ op: "find", kind: "invocation", token }));
  }

  /** The function that this token owns; undefined when there is none or it has expired. */
  async findByShutdown(token: ShutdownToken): Promise<StoredFunction | undefined> {
    return this.#found(await this.#ask({ op: "find", kind: "shutdown", token }));
  }

  /** Resolves when the removal is durable: whether there was such a function. */
  async remove(id: FunctionId): Promise<boolean> {
    const removed = (await this.#ask({ op: "remove", id })) as boolean;
    if (removed) this.#count--;
    return removed;
  }

  /** Removes every function whose time has come by `now` (Unix milliseconds), and names them. */
  async expire(now: number): Promise<readonly FunctionId[]> {
    const ids = (await this.#ask({ op: "expire", now })) as readonly FunctionId[];
    this.#count -= ids.length;
    return ids;
  }

  /** Lets what was asked finish, then closes the database. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close();
    await this.#closing;
  }

  async #close(): Promise<void> {
    const exited = new Promise<void>((resolve) => {
      if (this.#end) resolve();
      else this.#worker.once("exit", () => resolve());
    });
    await this.#ask({ op: "close" }).catch((error: unknown) => {
      this.#options.log.debug("function store was closed already", { reason: messageOf(error) });
    });
    await exited;
  }

  async #add(added: AddedFunction, text: { manifest: string; source: string }, bytes: number): Promise<void> {
    const { id, invocationToken, shutdownToken, storedAt, expiresAt } = added;
    this.#count++;
    this.#pendingBytes += bytes;
    try {
      await this.#ask({ op: "add", id, invocationToken, shutdownToken, storedAt, expiresAt, text });
    } catch (error) {
      this.#count--;
      throw error;
    } finally {
      this.#pendingBytes -= bytes;
    }
  }

  #found(answer: StoreAnswer): StoredFunction | undefined {
    const found = answer as FoundFunction | undefined;
    if (!found || found.expiresAt <= this.#options.clock.now()) return undefined;
    const pack = parsePackage({ manifest: JSON.parse(found.text.manifest), source: found.text.source });
    return {
      id: found.id as FunctionId,
      package: pack,
      sourceHash: sourceHash(pack),
      storedAt: found.storedAt,
      expiresAt: found.expiresAt,
    };
  }

  #ask(operation: StoreOperation): Promise<StoreAnswer> {
    if (this.#end) return Promise.reject(this.#end.error);
    const { promise, resolve, reject } = Promise.withResolvers<StoreAnswer>();
    const request = this.#nextRequest++;
    this.#waiters.set(request, { resolve, reject });
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
    this.#worker.postMessage({ ...operation, request });
    return promise;
  }

  #onEvent(event: StoreEvent): void {
    if (event.kind !== "answer") return;
    const waiter = this.#waiters.get(event.request);
    this.#waiters.delete(event.request);
    if ("ok" in event) {
      waiter?.resolve(event.ok);
      return;
    }
    this.#options.log.error("function store cannot serve", { reason: event.message });
    waiter?.reject(
      event.failed === "disk-full"
        ? new BoxError("disk-full", "Cannot store function: the box has no room on its disk")
        : new BentoError("store-failed", `Cannot use function store: ${event.message}`),
    );
  }

  /** First reason wins. */
  #fail(error: unknown): void {
    this.#end ??= { error };
    for (const waiter of this.#waiters.values()) waiter.reject(this.#end.error);
    this.#waiters.clear();
  }
}

/** The worker's file, as source or as built. */
function workerUrl(): URL {
  return new URL(
    import.meta.url.endsWith(".ts") ? "./store-worker.ts" : "./store-worker.js",
    import.meta.url,
  );
}
