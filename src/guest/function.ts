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
  /**
   * Runs ahead of need, in an instance that waits: what takes time and is the same for everybody, such as going once
   * through code that every call needs. Boxes do so for functions that they come with, for others never: nothing may
   * depend on it. Has no session and no `env`.
   */
  prepare?(): void | Promise<void>;
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
  /**
   * From now on output leaves in answers of few sizes, at a rate that nothing in the sandbox changes: the box sends them,
   * in messages of 4096 bytes, as a digest in cells (docs/spec/browse.md, 4). What `send` is given is their content, without
   * the bounds of messages. Once, before any output; rejects with `code` "bad-call".
   */
  shape(shape: AnswerShape): Promise<Answers>;
}

export interface AnswerShape {
  /** 1 to 32 sizes, ascending multiples of 4096 bytes up to 128 MiB: an answer ends after the first at which all has been sent. */
  readonly bytes: readonly number[];
  /** Bytes per second: 65536 or up to five times doubled. */
  readonly rate: number;
  /** "now": one answer at once. "input": one for each message, those that have come already among them, as soon as it is there. */
  readonly begins: "now" | "input";
}

/** Answers one after the other: content and methods are about the first that was not finished. */
export interface Answers {
  /** Bytes of content that it can still carry: what is sent beyond is dropped. 0 when it has ended. */
  room(): Promise<number>;
  /** It gets no more content; what is sent from now on is the next one's. Resolves when its last cell has left. */
  finish(): Promise<void>;
  /** Resolves when its last cell has left, finished or not. */
  ended(): Promise<void>;
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
  /** Tor's circuits, streams and onion services, behind a filter. Manifest: `tor`. */
  readonly tor?: Tor;
  /** Links to relays of the Tor network, for functions that speak its protocol themselves. Manifest: `relays`. */
  readonly relays?: Relays;
  /** Functions that this function deploys and uses, on this box and on others. Manifest: `bento`. */
  readonly bento?: Bento;
  /** Facts about the box. Manifest: `box`. */
  readonly box?: Box;
  /** This function, as the box keeps it. */
  readonly self: Self;
}

export interface Self {
  /**
   * Ends this function: no token of it is valid any more, its storage is erased, its other instances end. This
   * instance goes on, without storage, and its output still reaches the client. Resolves when that is durable.
   */
  remove(): Promise<void>;
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
 * the last reader is done even while it is replaced. Methods reject with `code` "storage-quota", "storage-key",
 * "storage-exists" or "disk-full".
 */
export interface Storage {
  /**
   * Stores `value` under `key`, in place of what was there. Resolves with its size once it can be read back. With
   * `create` only where nothing was there: of several instances that create one key, exactly one succeeds, the
   * others get "storage-exists".
   */
  put(
    key: string,
    value: string | Uint8Array | AsyncIterable<Uint8Array>,
    options?: { readonly create?: boolean },
  ): Promise<{ readonly bytes: number }>;
  /** The value from byte `offset` on; undefined when there is no such key. */
  get(key: string, options?: { readonly offset?: number }): Promise<StoredValue | undefined>;
  /**
   * Sends the value from byte `offset` on, at most `bytes` of it, to the client of this instance, as one message. The
   * box does it: no byte passes through the function, which is several times as fast as `get` and `session.send`.
   *
   * The message has the place of the call among those of `session.send`, and many may be under way. What is sent is the value
   * as it was at the call, even if it is replaced or deleted before it was read. Resolves with the size of the message when
   * the client has taken it, which can be long; with undefined, at once, when there is no such key. An instance that does not
   * wait may end: its output still reaches the client. Rejects with "storage-offset" beyond the value's end, and with
   * "storage-erased" when the function ended, or removed itself, before all was taken: then the rest is lost; and with
   * "bad-call" once the output has a shape.
   */
  send(
    key: string,
    range?: { readonly offset?: number; readonly bytes?: number },
  ): Promise<number | undefined>;
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

/**
 * Tor, for what this instance makes itself: it can name, see and change nothing of anybody else's, of the box's or of its
 * relay's. A member is there when its routine was granted. What was made ends with the instance. Methods reject with
 * `code` "tor-limit" (a count of the grant is used up), "tor-refused" (never allowed here), "tor-unknown" (no such
 * thing, or no more), "tor-gone" (the box's tor ended, and everything with it; it is started again) or as they say.
 */
export interface Tor {
  readonly circuits?: TorCircuits;
  readonly streams?: TorStreams;
  readonly onions?: TorOnions;
  readonly events?: TorEvents;
  readonly directory?: TorDirectory;
}

/**
 * One hop of a circuit: null for one of the box's own guards, which is never told (the first hop only); a fingerprint, 40
 * hexadecimal digits; or what the relay must be like. A box that hides where it is wants null for the first hop.
 */
export type TorHop =
  | null
  | string
  | {
      /** As in the consensus: "Guard", "Exit", "Stable", ... */
      readonly flags?: readonly string[];
      /** One of these, two lower-case letters. */
      readonly countries?: readonly string[];
      /** A port that the relay's exit policy summary accepts. */
      readonly exitPort?: number;
    };

export interface TorCircuits {
  /**
   * Builds a circuit of up to 8 hops; a number is that many of which the first is the box's guard. Rejects with
   * "tor-no-path" when no relay is as wished, "tor-circuit-failed" or "tor-timeout".
   */
  build(hops?: number | readonly TorHop[]): Promise<TorCircuit>;
  /** Those that are there now. */
  list(): Promise<readonly TorCircuitState[]>;
}

export interface TorCircuitState {
  readonly circuit: number;
  readonly status: "launched" | "extended" | "built";
  readonly path: readonly (string | null)[];
}

export interface TorCircuit extends AsyncDisposable {
  /** For events; says nothing about other circuits. */
  readonly id: number;
  /** Fingerprints; null for a first hop that the box chose. */
  readonly path: readonly (string | null)[];
  /** Adds hops. When it rejects with "tor-circuit-failed", the circuit is gone. */
  extend(hops: readonly TorHop[]): Promise<void>;
  close(): Promise<void>;
}

export interface TorStreams {
  /**
   * A stream through a circuit of this instance, or through one that tor chooses, apart from everybody else's. Streams
   * with different `isolation`, any text of up to 128 bytes, share no circuit. `host` is a name, an address or an onion
   * address. Rejects with the reason of tor: "tor-exit-refused", "tor-connection-refused", "tor-onion-...", ...
   */
  connect(target: {
    readonly host: string;
    readonly port: number;
    readonly circuit?: TorCircuit;
    readonly isolation?: string;
  }): Promise<TorConnection>;
  /** The address of a name, as the circuit's last relay sees it. */
  resolve(
    host: string,
    options?: { readonly circuit?: TorCircuit; readonly isolation?: string },
  ): Promise<string>;
}

export interface TorConnection extends Connection {
  /** For events. */
  readonly id: number;
}

export interface TorOnions {
  /** Makes an onion service. Resolves when tor has it; `published` waits until clients can find it. */
  open(options: {
    /** Ports of the onion address, 1 to 16. */
    readonly ports: readonly number[];
    /** `ED25519-V3:` and base64, as `key` gave it: the same address again. */
    readonly key?: string;
    /** Whether `key` is told. */
    readonly keepsKey?: boolean;
    /** x25519 public keys in base32: with any, only clients that hold one get in. */
    readonly clientKeys?: readonly string[];
    /** Streams of one client's circuit at once. */
    readonly streamsMax?: number;
  }): Promise<TorOnion>;
}

/** Iterating takes incoming connections one by one; 16 wait, further ones are closed. Ends when the service is closed. */
export interface TorOnion extends AsyncIterable<TorIncoming>, AsyncDisposable {
  readonly id: number;
  /** 56 characters and ".onion". */
  readonly address: string;
  /** Of a new service, where it was asked for; null otherwise. Who has it has the address. */
  readonly key: string | null;
  /** Resolves when its descriptor is out. */
  published(): Promise<void>;
  close(): Promise<void>;
}

export interface TorIncoming extends TorConnection {
  /** The port of the onion address that the client asked for. */
  readonly port: number;
}

export type TorEventKind = "circuit" | "stream" | "onion" | "bandwidth";

/** What happened to a thing of this instance. `reason` is tor's word, such as TIMEOUT. */
export type TorEvent =
  | {
      readonly kind: "circuit";
      readonly circuit: number;
      readonly status: "launched" | "extended" | "built" | "failed" | "closed";
      readonly path: readonly (string | null)[];
      readonly reason?: string;
    }
  | {
      readonly kind: "stream";
      readonly stream: number;
      readonly status: "new" | "sent" | "succeeded" | "failed" | "closed";
      /** null where tor chose it. */
      readonly circuit: number | null;
      readonly reason?: string;
    }
  | {
      readonly kind: "onion";
      readonly onion: number;
      readonly status: "upload" | "uploaded" | "failed" | "closed";
      /** Fingerprint of the directory. */
      readonly directory: string | null;
      readonly reason?: string;
    }
  /** Bytes of all streams of this instance within the last second. */
  | { readonly kind: "bandwidth"; readonly read: number; readonly written: number }
  /** So many events were not taken in time. */
  | { readonly kind: "lost"; readonly count: number };

export interface TorEvents {
  /** From now on; all kinds unless told. Leaving the loop ends it. 256 events wait. */
  watch(kinds?: readonly TorEventKind[]): AsyncIterable<TorEvent>;
}

export interface TorDirectory {
  /** Relays of the consensus: those with all `flags`, or those with these fingerprints (at most 256). */
  relays(filter?: {
    readonly flags?: readonly string[];
    readonly fingerprints?: readonly string[];
  }): AsyncIterable<TorRelay>;
  /** A relay's microdescriptor (dir-spec 3.3) as tor has it; null where it has none. */
  descriptor(fingerprint: string): Promise<string | null>;
}

export interface TorRelay {
  readonly fingerprint: string;
  readonly nickname: string;
  /** IPv4, then IPv6 where it has one. */
  readonly addresses: readonly string[];
  readonly orPort: number;
  readonly flags: readonly string[];
  /** Consensus weight. */
  readonly bandwidth: number;
  /** Ports that it lets out of Tor, as "80,443,8000-8100"; null for none. */
  readonly exit: { readonly kind: "accept" | "reject"; readonly ports: string } | null;
  /** Two lower-case letters; null where the box's tor does not know. */
  readonly country: string | null;
}

/** What is deployed: a manifest (docs/spec/policy.md 3) and one source text. */
export interface Package {
  readonly manifest: {
    readonly name: string;
    readonly image: "deno" | "python";
    readonly [field: string]: Json;
  };
  readonly source: string;
}

/** One rule of a box's policy that a manifest breaks; `wanted` and `limit` are for people. */
export interface Refusal {
  readonly rule: string;
  readonly wanted: string;
  readonly limit: string;
}

/**
 * Functions on boxes, from inside a function. A box is named by its address (`….onion`, `host:port`) or by "self",
 * this box; other boxes are always reached through Tor, over circuits of this function's own.
 *
 * Everything counts against this function's grant, all its instances together, as long as it is installed: functions
 * deployed, invocations, bytes of packages, arguments and messages both ways, and 4 KiB for each call. A package that
 * may deploy functions itself costs what its own manifest asks for as well, and must ask for a smaller `depth`.
 *
 * Methods reject with an Error that has a `code`:
 * - "bento-refused": the grant does not name this box;
 * - "bento-budget": functions, invocations or bytes are used up; "bento-limit": too much at once;
 * - "bento-depth": the package's manifest asks for a depth that this function cannot hand on;
 * - what the far box answers: "policy-refused" (with `refusals`, see Refusal), "bad-token", "box-full",
 *   "too-many-instances", "bad-manifest", "store-closed", ...
 * - "box-unreachable", "box-timeout": Tor did not get there, or no answer came; "bad-answer", "integrity": what came
 *   is not what a box may say;
 * - "input-lost": a connection broke while a message was on its way.
 */
export interface Bento {
  /** What the box says of itself: name, relay fingerprint, whether it starts functions, ... Its own claims. */
  info(box: string): Promise<{ readonly [name: string]: Json }>;
  /** What the box grants (docs/spec/policy.md 2). */
  policy(box: string): Promise<{ readonly [name: string]: Json }>;
  /**
   * Installs a function. It is independent: it lives as long as its manifest says and the box allows, whatever becomes
   * of this instance; whoever has its tokens may invoke it and shut it down. With `linked`, this box shuts it down
   * when this instance ends, however it ends (not when this box itself dies).
   */
  deploy(box: string, pack: Package, options?: { readonly linked?: boolean }): Promise<Deployment>;
  /**
   * Starts an instance and attaches: of a package, which is installed first (`session.deployment` has its tokens), or
   * of the function with this invocation token. Arguments larger than about 60 KiB as JSON go as messages instead.
   * With `linked`, this box ends the instance (of a package: the function) when this instance ends.
   */
  run(
    box: string,
    what: Package | { readonly token: string },
    options?: { readonly args?: readonly Json[]; readonly call?: string; readonly linked?: boolean },
  ): Promise<FarSession>;
  /** Starts an instance without attaching. Resolves with its id, for `open` and `close`. */
  exec(
    box: string,
    token: string,
    options?: { readonly args?: readonly Json[]; readonly call?: string },
  ): Promise<string>;
  /** Attaches to an instance, from byte `offset` of its output on, or from the first that is still there. */
  open(box: string, instance: string, options?: { readonly offset?: number }): Promise<FarSession>;
  /**
   * Asks up to 64 boxes at once what they are and what they grant, and chooses: those that grant what `manifest`
   * asks for (undefined: whatever they grant) and keep to the constraints, fastest first. Fewer than `count` may be
   * found: `left` says for each other box why. Costs two calls a box.
   */
  choose(
    boxes: readonly string[],
    manifest?: Package["manifest"],
    constraints?: BoxConstraints,
  ): Promise<BoxChoice>;
  /** Ends an instance. Whether it still ran. */
  close(box: string, instance: string): Promise<boolean>;
  /** Ends a function by its shutdown token: instances, storage, tokens. How many instances were ended. */
  shutdown(box: string, token: string): Promise<number>;
}

/**
 * Links to relays, and to nothing else: the box looks each relay up in the consensus of its own tor, connects, does TLS and
 * the link handshake, and checks both identities; cells go both ways from then on (tor-spec 3). Methods reject with
 * `code` "relays-refused" (no such relay), "relays-limit" (a count of the grant is used up), "relays-unreachable" or
 * "relays-gone" (the box's tor does not run).
 */
export interface Relays {
  /** What a client of this network begins with. */
  network(): Promise<RelayNetwork>;
  /**
   * A link to the relay with this fingerprint, 40 hexadecimal digits. Cells that a client has no business to send end
   * it, and so do more new circuits in a minute than were granted.
   */
  link(fingerprint: string): Promise<RelayLink>;
}

export interface RelayNetwork {
  /** The relay that the box stands beside: the natural first hop of its circuits. */
  readonly own?: RelayContact;
  /** Some relays that answer directory requests, chosen at random. */
  readonly directories: readonly RelayContact[];
  /** The identities of the directory authorities (v3ident): 40 hexadecimal digits each. Empty: those of the public network. */
  readonly authorities: readonly string[];
}

export interface RelayContact {
  /** 40 upper-case hexadecimal digits. */
  readonly fingerprint: string;
  /** Ed25519 identity: 64 hexadecimal digits. */
  readonly ed25519: string;
  readonly host: string;
  readonly port: number;
}

export interface RelayLink {
  readonly fingerprint: string;
  readonly ed25519: string;
  /** Of the link protocol (tor-spec 4). */
  readonly version: 4 | 5;
  /** Cells of the relay, as bytes cut anywhere. */
  readonly readable: ReadableStream<Uint8Array>;
  /** Cells for the relay, as bytes cut anywhere. */
  readonly writable: WritableStream<Uint8Array>;
  /** Resolves when the link has ended, rejects when it broke. */
  readonly closed: Promise<void>;
  close(): Promise<void>;
}

/** Relay, family and region are what boxes say of themselves. */
export interface BoxConstraints {
  /** How many boxes are wanted: 1 when left out. */
  readonly count?: number;
  /** No two beside one relay; no two beside relays that name each other as family (nor beside one relay). */
  readonly distinct?: readonly ("relay" | "family")[];
  /** Country codes (ISO 3166-1, two letters): only these; none of these. A box that says none is left out by either. */
  readonly regions?: readonly string[];
  readonly avoidRegions?: readonly string[];
  /** Addresses of boxes, fingerprints of relays. */
  readonly not?: readonly string[];
}

export interface BoxChoice {
  readonly chosen: readonly {
    readonly box: string;
    readonly name: string;
    readonly relay: string | null;
    readonly region: string | null;
    readonly roundTripMs: number;
  }[];
  readonly left: readonly { readonly box: string; readonly reason: string }[];
}

/** A function that was installed, with everything that is needed to use it, from anywhere. */
export interface Deployment {
  /** The address as it was understood, "self" for this box. */
  readonly box: string;
  readonly name: string;
  /** Capability to invoke it; may be shared. */
  readonly invocationToken: string;
  /** Capability to end it. */
  readonly shutdownToken: string;
  /** When the box deletes it: Unix milliseconds. */
  readonly expiresAt: number;
  /** SHA-256 of image and source, hexadecimal. The box says it, and it was compared with what was sent. */
  readonly sourceHash: string;
  readonly grant: { readonly [name: string]: Json };
}

/** How an instance ended. */
export type Outcome =
  | { readonly kind: "returned" }
  | { readonly kind: "failed"; readonly name: string; readonly message: string; readonly traceback: string }
  | { readonly kind: "killed"; readonly reason: string; readonly detail?: string };

/**
 * A session with an instance of another function. Iterating takes its messages one by one, and ends when it has
 * ended; it throws when the session broke for good. A far function that is not read from waits. When a connection breaks,
 * the box attaches again by itself; `interruptions` counts that.
 */
export interface FarSession extends AsyncIterable<Uint8Array>, AsyncDisposable {
  readonly instance: string;
  /** The tokens of what `run` installed. */
  readonly deployment: Deployment | undefined;
  /** Output bytes read so far, since the instance began: where to `open` it again. */
  readonly offset: number;
  /** How often a broken connection was replaced. A message sent shortly before may not have arrived. */
  readonly interruptions: number;
  /** How the instance ended. Comes when all messages have been read; rejects when the session broke or was left. */
  readonly ended: Promise<Outcome>;
  /** Sends one message, at most 1 MiB. Resolves when there is room for the next. */
  send(message: Uint8Array | string): Promise<void>;
  /** No more messages: the far function's iteration over its input ends. */
  endInput(): Promise<void>;
  /** Leaves. The far instance goes on. */
  detach(): Promise<void>;
  /** Ends the far instance. Whether it still ran. */
  close(): Promise<boolean>;
}
