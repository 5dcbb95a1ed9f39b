// The API that function authors write against: `import { defineFunction } from "bento/function"`.
// Types only, apart from defineFunction, so that a function bundles none of Bento (spec/guest 5).

/**
 * Anything that JSON can carry: the arguments of an invocation and the facts about a box.
 */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/**
 * What a function's `export default` is.
 *
 * @example
 * ```ts
 * import { defineFunction } from "bento/function";
 *
 * export default defineFunction({
 *   async invoke(session, env, name = "world") {
 *     await session.send(`hello ${name}`);
 *   },
 * });
 * ```
 */
export interface FunctionDefinition<Args extends readonly (Json | undefined)[] = Json[]> {
  /**
   * Runs once per instance, in a process of its own. The instance ends when the returned promise settles;
   * output already sent still reaches the client. What it throws reaches the client with a traceback that
   * names `function.ts` and its lines.
   *
   * `args` are the arguments of the invocation, unchecked: whoever holds the invocation token chooses them.
   */
  invoke(session: Session, env: Env, ...args: Args): void | Promise<void>;
}

/** Marks `definition` as a function and gives its parameters their types. Returns it as it is. */
export function defineFunction<Args extends readonly (Json | undefined)[]>(
  definition: FunctionDefinition<Args>,
): FunctionDefinition<Args> {
  return definition;
}

/**
 * The client's side of this instance: whole messages in, whole messages out. It outlives connections: while no
 * client is attached, output waits at the box up to the granted backlog, then `send` waits.
 *
 * Iterating takes messages one by one and ends when the client ended its input or the instance is asked to stop.
 * `readable` takes from the same queue: use one of the two.
 */
export interface Session extends AsyncIterable<Uint8Array> {
  /**
   * Sends one message. Resolves when there is room for the next, at the latest when the client has read enough:
   * awaiting each `send` keeps memory bounded. Strings go as UTF-8. The bytes are copied at once.
   */
  send(message: Uint8Array | string): Promise<void>;
  /** The input messages, one a chunk. */
  readonly readable: ReadableStream<Uint8Array>;
  /** Sends each chunk as one message. Closing it does not end the instance. */
  readonly writable: WritableStream<Uint8Array | string>;
  /** Aborted when the instance must stop. It has a few seconds left to finish; input has ended. */
  readonly signal: AbortSignal;
  /** Whether a client is attached at the moment. */
  readonly attached: boolean;
}

/**
 * What the box granted, and nothing else: a capability that was not granted is not there, so `if (env.net)` is
 * the test for it. What must be asked for in the manifest stands with each member.
 *
 * What the box refuses rejects with an Error that has a `code`: see each method.
 */
export interface Env {
  /** Lines for the function's owner, where the box keeps them. Bounded; never wait. */
  readonly log: FunctionLog;
  /** Connections out of the box. Manifest: `net`. */
  readonly net?: Net;
  /**
   * The standard `fetch`, through `net`: names are resolved and connections made by the box, TLS ends inside the
   * sandbox. Manifest: `net` and the system call group `loopback`. Global `fetch` and `WebSocket` work then, too.
   */
  readonly fetch?: typeof globalThis.fetch;
  /** A web browser. Manifest: `"image": "chromium"`, which only boxes take that offer it. */
  readonly chromium?: Chromium;
  /** Encrypted storage of this function, shared by its instances. Manifest: `storage`. */
  readonly storage?: Storage;
  /** Facts about the box. Manifest: `box`. */
  readonly box?: Box;
}

export interface FunctionLog {
  debug(text: string): void;
  info(text: string): void;
  warn(text: string): void;
  error(text: string): void;
}

export interface Net {
  /**
   * Opens a TCP connection. `host` is a name or an address; the box resolves it, and its exit policy decides on
   * the address. Rejects with `code` "net-refused" (grant or exit policy), "net-limit" (too many connections or
   * bytes), "net-unreachable" or "net-timeout".
   */
  connect(target: { host: string; port: number }): Promise<Connection>;
}

/** A TCP connection. Both directions end by themselves: closing `writable` leaves `readable` open. */
export interface Connection {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  /** Resolves when both directions have ended, rejects when the connection broke. */
  readonly closed: Promise<void>;
  /** Drops the connection at once, in both directions. */
  close(): Promise<void>;
}

export interface Chromium {
  /**
   * Starts Chromium without a window, as a process in this same sandbox, with a profile of its own that ends with it.
   * Its connections go through `net`, as those of `fetch` do: names are resolved and destinations decided by the box;
   * without `net` it reaches nothing. Resolves when the process runs, and rejects with Error when it cannot. What
   * it needs counts towards this instance's memory and processes.
   */
  launch(): Promise<ChromiumProcess>;
}

/** A running browser, and the way to drive it: the Chrome DevTools Protocol over a pipe. */
export interface ChromiumProcess {
  /** Answers and events: JSON texts, each with a zero byte behind it, cut anywhere. */
  readonly readable: ReadableStream<Uint8Array>;
  /** Commands, in the same form. */
  readonly writable: WritableStream<Uint8Array>;
  /** Resolves when the process has ended, for whatever reason. */
  readonly closed: Promise<void>;
  /** Ends it at once. What it started ends with it. */
  close(): Promise<void>;
}

/**
 * Values by key. Keys are 1 to 512 bytes of UTF-8. A value is stored whole or not at all, and can be read until
 * the last reader is done even while it is replaced. Methods reject with `code` "storage-quota", "storage-key" or
 * "disk-full".
 */
export interface Storage {
  /** Stores `value` under `key`, in place of what was there. Resolves with its size once it can be read back. */
  put(
    key: string,
    value: string | Uint8Array | AsyncIterable<Uint8Array>,
  ): Promise<{ readonly bytes: number }>;
  /** The value from byte `offset` on; undefined when there is no such key. */
  get(key: string, options?: { readonly offset?: number }): Promise<StoredValue | undefined>;
  /** Whether there was such a key. */
  delete(key: string): Promise<boolean>;
  /** The keys that begin with `prefix`, in order of their bytes. */
  list(options?: { readonly prefix?: string }): AsyncIterable<{
    readonly key: string;
    readonly bytes: number;
  }>;
}

/** One stored value, read once by one of its ways. */
export interface StoredValue {
  /** Size of the whole value. */
  readonly size: number;
  readonly readable: ReadableStream<Uint8Array>;
  bytes(): Promise<Uint8Array>;
  text(): Promise<string>;
}

export interface Box {
  /** The facts that were granted, measured now. */
  facts(): Promise<{ readonly [name: string]: Json }>;
}
