// What a running function may ask of its host, as interfaces: the guest link (guest-link.ts) turns a guest's
// calls into these, net.ts and storage.ts carry them out. A service that was not granted is absent.
// Everything a guest passes in has been parsed and bounded before it reaches a service.

import type { Duplex } from "node:stream";
import type { TorUse } from "../../tor/firewall/owner.ts";
import type { Info, Invocation, JsonValue, Outcome, Stored } from "../../wire/api.ts";
import type { BoxChoice, BoxConstraints } from "../../wire/choose-boxes.ts";
import type { Policy } from "../../wire/policy.ts";

export interface HostServices {
  readonly net?: InstanceNet;
  readonly storage?: FunctionStorage;
  readonly tor?: InstanceTor;
  readonly relays?: InstanceRelays;
  readonly bento?: InstanceBento;
  /** `env.box`: the facts that the grant names, freshly measured. */
  readonly box?: () => Promise<Readonly<Record<string, JsonValue>>>;
  /** Output in answers of a few sizes. Comes with the channel, not with a grant: it only narrows what output shows. */
  readonly answers?: InstanceAnswers;
  /** Ends the function as its owner could, but for the instance that asks. Idempotent. */
  readonly removeSelf?: () => Promise<void>;
}

/** The services that hold something for their instance: closed when it has ended. */
export function servicesToClose(services: HostServices): readonly AsyncDisposable[] {
  return Object.values(services).filter(
    (service): service is AsyncDisposable => typeof service === "object" && Symbol.asyncDispose in service,
  );
}

/** Sizes and rate of all answers of an instance, checked; and what makes the box send one. */
export interface AnswersShape {
  /** Ascending multiples of CELL_BYTES. */
  readonly bytes: readonly number[];
  /** Bytes per second. */
  readonly rate: number;
  /** One answer at once and no other, or one for each input message. */
  readonly begins: "now" | "input";
}

/** What a function may do about its answers: one after the other, each fed and finished in its turn. */
export interface InstanceAnswers {
  /** Once, before any output. Throws BentoError "bad-call". */
  shape(shape: AnswersShape): void;
  /** Bytes of content that the present answer can still carry. */
  room(): number;
  /** The present answer gets no more content. Resolves when its last cell has left. Throws BentoError "bad-call". */
  finish(signal: AbortSignal): Promise<void>;
  /** Resolves when the present answer has ended, finished or not. */
  ended(signal: AbortSignal): Promise<void>;
}

/** Connections out of one instance. Counts and closes what it opened. */
export interface InstanceNet extends AsyncDisposable {
  /**
   * Resolves, checks grant and exit policy on the resolved address, connects. Throws BentoError with code
   * "net-refused" (policy; message says which rule), "net-limit", "net-unreachable" or "net-timeout".
   */
  connect(target: { host: string; port: number }, options: { signal: AbortSignal }): Promise<Duplex>;
}

/** Tor for one instance. Ends what it made. */
export interface InstanceTor extends AsyncDisposable {
  /** The instance's part of the tor that runs now. Throws BentoError "tor-gone" when none does for long. */
  use(signal: AbortSignal): Promise<TorUse>;
}

/** Links of one instance to relays. Counts and closes what it opened. */
export interface InstanceRelays extends AsyncDisposable {
  /** Throws BentoError "relays-gone" when the box's tor does not run for long. */
  network(signal: AbortSignal): Promise<RelayNetwork>;
  /**
   * Opens a link to the relay with this fingerprint. Throws BentoError "relays-refused" (not in the consensus),
   * "relays-limit", "relays-unreachable" (or it is not who it must be) or "relays-gone".
   */
  link(fingerprint: string, signal: AbortSignal): Promise<OpenedRelayLink>;
}

export interface RelayContact {
  /** 40 upper-case and 64 lower-case hexadecimal digits. */
  readonly fingerprint: string;
  readonly ed25519: string;
  readonly host: string;
  readonly port: number;
}

export interface RelayNetwork {
  readonly own?: RelayContact;
  readonly directories: readonly RelayContact[];
  readonly authorities: readonly string[];
}

/** Cells both ways, as bytes. Ends with BentoError "relays-refused" or "relays-limit" when the function goes too far. */
export interface OpenedRelayLink {
  readonly relay: RelayContact;
  readonly version: number;
  readonly stream: Duplex;
}

/** Storage of one function, shared by its instances. Throws BentoError "storage-quota", "storage-key", "storage-exists", "disk-full". */
export interface FunctionStorage {
  /** Stores the whole value or nothing. Resolves when it can be read back. With `create` only a key that is new. */
  put(
    key: string,
    value: AsyncIterable<Uint8Array>,
    options: { signal: AbortSignal; create?: boolean },
  ): Promise<{ bytes: number }>;
  /** undefined when there is no such key. The value stays readable while it is replaced or deleted. */
  get(
    key: string,
    options: { signal: AbortSignal; offset?: number },
  ): Promise<{ bytes: number; value: AsyncIterable<Uint8Array> } | undefined>;
  /**
   * `bytes` of a value from `offset` on, or all that follow, as the value is now; undefined when there is no such key.
   * At once: a function may change the value right after. Throws BentoError "storage-offset".
   */
  hold(key: string, range: { offset: number; bytes?: number | undefined }): HeldValue | undefined;
  /** Whether there was such a key. */
  delete(key: string): Promise<boolean>;
  /** Keys that begin with `prefix`, in order of bytes, after `after`, at most `limit` of them. */
  list(options: {
    prefix: string;
    after?: string;
    limit: number;
  }): Promise<readonly { key: string; bytes: number }[]>;
}

/** Bytes of a stored value that stay readable, whatever becomes of its name, until they are released. */
export interface HeldValue {
  readonly bytes: number;
  /** Aborted, with "storage-erased", when the function has ended: nothing more can be read. */
  readonly signal: AbortSignal;
  /** Some of them, at least one, from byte `from` on. Throws BentoError "storage-erased" or "storage-damaged". */
  read(from: number): Promise<Uint8Array>;
  /** Gives up the memory that reading takes, until the next `read`. */
  rest(): void;
  /** Idempotent. */
  release(): void;
}

/** What `deploy` gives: everything that is needed to use the function, from anywhere. */
export interface Deployed extends Stored {
  /** The address as it is to be named, "self" for the box itself. */
  readonly box: string;
}

/**
 * Functions on this box and on others, for one instance, within the `bento` grant of its function. Throws
 * RemoteRefusal: "bento-refused" (which boxes), "bento-budget" (used up), "bento-limit" (too much at once),
 * "bento-depth", what the far box answered, or that it was not reached.
 */
export interface InstanceBento extends AsyncDisposable {
  info(box: string, signal: AbortSignal): Promise<Info>;
  policy(box: string, signal: AbortSignal): Promise<Policy>;
  /** @param pack the package as JSON text, in pieces. */
  deploy(
    box: string,
    pack: AsyncIterable<Uint8Array>,
    options: { readonly linked: boolean; readonly signal: AbortSignal },
  ): Promise<Deployed>;
  exec(box: string, token: string, invocation: Invocation, signal: AbortSignal): Promise<string>;
  /** Installs and starts, or starts what is installed, and attaches. */
  run(
    box: string,
    what: { readonly token: string } | { readonly package: AsyncIterable<Uint8Array> },
    invocation: Invocation,
    options: { readonly linked: boolean; readonly endInput: boolean; readonly signal: AbortSignal },
  ): Promise<FarSession>;
  /** Attaches to an instance. */
  open(
    box: string,
    instance: string,
    options: { readonly offset?: number | undefined; readonly signal: AbortSignal },
  ): Promise<FarSession>;
  /** Whether a running instance was ended. */
  close(box: string, instance: string, options: { kill: boolean; signal: AbortSignal }): Promise<boolean>;
  /** Asks the boxes and chooses among them. Boxes that this function may not use are left out. */
  choose(
    boxes: readonly string[],
    manifest: unknown,
    constraints: BoxConstraints,
    signal: AbortSignal,
  ): Promise<BoxChoice>;
  /** How many instances were ended. */
  shutdown(box: string, token: string, signal: AbortSignal): Promise<number>;
}

/** A session of a function with a function. Every byte is charged. */
export interface FarSession {
  readonly instance: string;
  /** Output bytes before the first one that follows. */
  readonly offset: number;
  readonly deployed: Deployed | undefined;
  readonly ended: Promise<Outcome>;
  send(bytes: Uint8Array, last: boolean): Promise<void>;
  endInput(): Promise<void>;
  chunks(): AsyncIterable<{ readonly bytes: Uint8Array; readonly last: boolean }>;
  /** Called when a broken connection was replaced: what was sent shortly before may not have arrived. */
  onResumed: () => void;
  /** Leaves. Idempotent. */
  detach(): Promise<void>;
}
