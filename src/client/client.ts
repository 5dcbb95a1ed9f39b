// Bento's client library: one box, over Tor or whatever Dial is given (spec/wire). Used by the command line and
// open to other programs as the package's main export. Everything a box answers is untrusted and checked.

import { randomBytes } from "node:crypto";
import { type Clock, systemClock } from "../base/clock.ts";
import { BentoError, ProtocolError } from "../base/errors.ts";
import {
  closedSchema,
  endedSchema,
  type Info,
  type Invocation,
  infoSchema,
  invocationSchema,
  type Listing,
  type LogPage,
  listingSchema,
  logPageSchema,
  PATHS,
  type Started,
  type Stored,
  startedSchema,
  storedSchema,
} from "../wire/api.ts";
import { Limits } from "../wire/limits.ts";
import {
  type FunctionPackage,
  type PackageInput,
  parsePackage,
  type SentPackage,
  sourceHash,
} from "../wire/package.ts";
import { type Policy, policySchema } from "../wire/policy.ts";
import {
  type InstanceId,
  type InvocationToken,
  parseInstanceId,
  parseInvocationToken,
  parseShutdownToken,
  type ShutdownToken,
} from "../wire/token.ts";
import { type BoxAddress, parseAddress } from "./address.ts";
import { BoxHttp } from "./box-http.ts";
import type { Dial } from "./dial.ts";
import { KnownSources } from "./known-sources.ts";
import { type Link, openRunLink, openWebSocketLink } from "./link.ts";
import { readAttached, Session, type SessionEvent } from "./session.ts";

export { directDial } from "./dial.ts";
export type { OutputChunk, SessionEvent } from "./session.ts";
export { Session } from "./session.ts";
export { torDial } from "./tor-dial.ts";
export type { Dial };

export interface BoxClientOptions {
  /** `host:port`, `….onion[:port]`, or parsed. */
  readonly address: BoxAddress | string;
  readonly dial: Dial;
  /**
   * Names the context: streams of different contexts never share a circuit. Random when left out. Use one client
   * per function, and keep its isolation to reach the function again over a warm circuit.
   */
  readonly isolation?: string;
  readonly clock?: Clock;
}

/** Signal and events of one call. Aborting gives the call up; it never ends an instance that was started. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}
export interface SessionCallOptions extends CallOptions {
  readonly onEvent?: ((event: SessionEvent) => void) | undefined;
  /** Acknowledge output in steps of one size: what goes up does not show how fast it is consumed. */
  readonly steadyAcks?: boolean | undefined;
  /** The session ends with its connection: for input of which nothing may be missing. */
  readonly endsWithConnection?: boolean | undefined;
}

/** A function that is sent along, or one that the box has. */
export type Runnable = { readonly package: PackageInput } | { readonly token: InvocationToken };

/** Tokens as the box gave them, checked. */
export type StoredFunction = Stored & {
  readonly invocationToken: InvocationToken;
  readonly shutdownToken: ShutdownToken;
};

/** Text that isolates one context from all others. */
export function newIsolation(): string {
  return randomBytes(12).toString("base64url");
}

/** One box, seen from one context. Dispose it to close its idle connections; sessions live on by themselves. */
export class BoxClient implements Disposable {
  readonly isolation: string;
  readonly #http: BoxHttp;
  readonly #clock: Clock;
  readonly #known = new KnownSources();

  constructor(options: BoxClientOptions) {
    this.isolation = options.isolation ?? newIsolation();
    this.#clock = options.clock ?? systemClock;
    this.#http = new BoxHttp({
      address: typeof options.address === "string" ? parseAddress(options.address) : options.address,
      dial: options.dial,
      isolation: this.isolation,
      clock: this.#clock,
    });
  }

  get address(): BoxAddress {
    return this.#http.address;
  }

  async info(options: CallOptions = {}): Promise<Info> {
    const info = await this.#http.json("GET", PATHS.info, infoSchema, options);
    this.#known.learn(info.functions);
    return info;
  }

  async policy(options: CallOptions = {}): Promise<Policy> {
    return this.#http.json("GET", PATHS.policy, policySchema, options);
  }

  /** Installs a function. Throws BoxError: "policy-refused" with every rule, "bad-manifest", "box-full", ... */
  async store(input: PackageInput, options: CallOptions = {}): Promise<StoredFunction> {
    const pack = checkedPackage(input);
    const stored = await this.#known.send(input, pack, (body) =>
      this.#http.json("POST", PATHS.store, storedSchema, { ...options, body }),
    );
    return checkedStored(stored, pack);
  }

  /** Starts an instance of an installed function without attaching to it. */
  async exec(token: InvocationToken, invocation: Invocation, options: CallOptions = {}): Promise<InstanceId> {
    const started: Started = await this.#http.json("POST", PATHS.exec, startedSchema, {
      ...options,
      token,
      body: checkedInvocation(invocation),
    });
    return checkedInstance(started.instance);
  }

  /**
   * Installs (if a package is given), starts and attaches, in one round trip. Resolves when the box has attached
   * the session. A package is kept by the box until it expires or is shut down: `session.stored` has its tokens.
   * A large source that comes with Bento is named by its hash; a box without it costs one round trip more, once.
   */
  async run(
    what: Runnable,
    invocation: Invocation,
    options: SessionCallOptions & {
      /** The function gets no messages: says so at once, in the same round trip. */
      readonly endInput?: boolean | undefined;
      /** Messages that are there already: they go up in the same round trip. */
      readonly input?: readonly Uint8Array[] | undefined;
    } = {},
  ): Promise<Session> {
    const pack = "package" in what ? checkedPackage(what.package) : undefined;
    const checked = checkedInvocation(invocation);
    const open = (sent?: SentPackage) =>
      openRunLink(
        this.#http,
        { ...(sent ? { package: sent } : {}), invocation: checked },
        {
          ...("token" in what ? { token: what.token } : {}),
          input: options.input,
          endInput: options.endInput ?? false,
          signal: options.signal,
        },
      );
    const link = "package" in what && pack ? await this.#known.send(what.package, pack, open) : await open();
    return this.#attach(link, options, (stored) => {
      if (pack && !stored) {
        throw new ProtocolError(
          "bad-answer",
          "Cannot read answer: the box gave no tokens for what it installed",
        );
      }
      return pack && stored ? checkedStored(stored, pack) : undefined;
    });
  }

  /** Attaches to a running or ended instance, from `offset` or from the first byte that the box still has. */
  async open(
    instance: InstanceId,
    options: SessionCallOptions & { readonly offset?: number | undefined } = {},
  ): Promise<Session> {
    const link = await openWebSocketLink(this.#http, instance, { ...options, clock: this.#clock });
    return this.#attach(link, options, () => undefined);
  }

  /** With `kill` ends an instance; without, asks whether the box knows it. Returns whether it was killed. */
  async close(
    instance: InstanceId,
    options: CallOptions & { readonly kill?: boolean } = {},
  ): Promise<boolean> {
    const closed = await this.#http.json("POST", PATHS.close, closedSchema, {
      signal: options.signal,
      token: instance,
      body: { kill: options.kill ?? false },
    });
    return closed.killed;
  }

  /** The owner's view of a function. */
  async list(token: ShutdownToken, options: CallOptions = {}): Promise<Listing> {
    return this.#http.json("GET", PATHS.list, listingSchema, { ...options, token });
  }

  /**
   * What a function's instances logged after a position (0 for all that is kept), oldest first; untrusted text. With
   * `waitMs` the box answers when there is a line, or after that time (at most Limits.logWaitMsMax) with none.
   */
  async logs(
    token: ShutdownToken,
    options: CallOptions & { readonly after?: number; readonly waitMs?: number } = {},
  ): Promise<LogPage> {
    const { after = 0, waitMs = 0, signal } = options;
    const path = `${PATHS.logs}?after=${after}&wait=${waitMs}`;
    return this.#http.json("GET", path, logPageSchema, { signal, token });
  }

  /** Ends a function: its instances, storage and tokens. Returns how many instances were ended. */
  async shutdown(token: ShutdownToken, options: CallOptions = {}): Promise<number> {
    const ended = await this.#http.json("POST", PATHS.shutdown, endedSchema, { ...options, token, body: {} });
    return ended.instancesEnded;
  }

  [Symbol.dispose](): void {
    this.#http[Symbol.dispose]();
  }

  async #attach(
    link: Link,
    options: SessionCallOptions,
    check: (stored: Stored | undefined) => StoredFunction | undefined,
  ): Promise<Session> {
    const onAbort = () => {
      link.destroy();
    };
    options.signal?.addEventListener("abort", onAbort, { once: true });
    const cancel = this.#clock.after(this.#http.waitMs(0), onAbort);
    try {
      const attached = await readAttached(link);
      const stored = check(attached.stored);
      checkedInstance(attached.instance);
      options.signal?.throwIfAborted();
      return new Session(
        link,
        { ...attached, stored },
        {
          clock: this.#clock,
          onEvent: options.onEvent,
          steadyAcks: options.steadyAcks,
          reattach: options.endsWithConnection
            ? undefined
            : (instance, offset, signal) =>
                openWebSocketLink(this.#http, instance, { offset, signal, clock: this.#clock }),
        },
      );
    } catch (error) {
      link.destroy();
      options.signal?.throwIfAborted();
      throw this.#http.reached(error);
    } finally {
      cancel();
      options.signal?.removeEventListener("abort", onAbort);
    }
  }
}

/** Refuses what every box would refuse, before anything is sent. */
function checkedPackage({ manifest, source }: PackageInput): FunctionPackage {
  const input = { manifest, source };
  const bytes = Buffer.byteLength(JSON.stringify(input));
  if (bytes > Limits.packageBytesMax) {
    throw new BentoError(
      "too-large",
      `Cannot send function: ${bytes} bytes exceed ${Limits.packageBytesMax}`,
      {
        advice: "Leave out what the function does not need, or let it fetch data at the box.",
      },
    );
  }
  return parsePackage(input);
}

function checkedInvocation(invocation: Invocation): Invocation {
  const result = invocationSchema.safeParse(invocation);
  if (!result.success) {
    throw new BentoError(
      "bad-request",
      "Cannot call function: expected at most 256 JSON arguments, or a call",
    );
  }
  const bytes = Buffer.byteLength(JSON.stringify(invocation));
  if (bytes > Limits.argumentBytesMax) {
    throw new BentoError(
      "too-large",
      `Cannot call function: arguments of ${bytes} bytes exceed ${Limits.argumentBytesMax}`,
      { advice: "Send large input as messages instead." },
    );
  }
  return result.data;
}

function checkedStored(stored: Stored, pack: FunctionPackage): StoredFunction {
  if (stored.sourceHash !== sourceHash(pack)) {
    throw new ProtocolError("integrity", "Cannot trust box: it says it installed other code than was sent", {
      advice: "Choose another box.",
    });
  }
  try {
    return {
      ...stored,
      invocationToken: parseInvocationToken(stored.invocationToken),
      shutdownToken: parseShutdownToken(stored.shutdownToken),
    };
  } catch (cause) {
    throw new ProtocolError("bad-answer", "Cannot read answer: the box gave malformed tokens", { cause });
  }
}

function checkedInstance(text: string): InstanceId {
  try {
    return parseInstanceId(text);
  } catch (cause) {
    throw new ProtocolError("bad-answer", "Cannot read answer: the box gave a malformed instance id", {
      cause,
    });
  }
}
