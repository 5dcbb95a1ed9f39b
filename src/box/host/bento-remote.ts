// How a box reaches boxes for its functions, as interfaces: client and box meet only in `wire`, so whoever starts a
// box hands one of these in (bin/remote-boxes.ts). Whatever a far box answers is untrusted; implementations have
// checked its form and bounded its size.

import type { Clock } from "../../base/clock.ts";
import type { SocksAddress } from "../../tor/socks.ts";
import type { Info, Invocation, Outcome, Stored } from "../../wire/api.ts";
import type { BoxAddress } from "../../wire/box-address.ts";
import type { PackageInput } from "../../wire/package.ts";
import type { Policy } from "../../wire/policy.ts";
import type { InstanceId, InvocationToken, ShutdownToken } from "../../wire/token.ts";
import type { SocketAddress } from "../config-schema.ts";

export interface RemoteTarget {
  readonly address: BoxAddress;
  /** Streams with different text never share a circuit. */
  readonly isolation: string;
  /**
   * How it is reached: `tor` always through the box's own tor client, never by a connection of the box itself; `self`
   * by a connection to the box's own listener, so that it is admitted like everybody else.
   */
  readonly route: "self" | "tor";
}

/** What a box tells those who reach boxes for it. */
export interface RemoteRoutes {
  /** The SOCKS port of the box's own tor client, once it is bootstrapped. */
  readonly socks: (signal: AbortSignal) => Promise<SocksAddress>;
  /** Where the box itself listens. Throws BentoError when it listens nowhere. */
  readonly self: () => SocketAddress;
  readonly clock: Clock;
}

export type RemoteBoxes = (target: RemoteTarget) => RemoteBox;

interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}

/** One box. Methods throw BoxError with what the box refused, or BentoError when it was not reached. */
export interface RemoteBox extends Disposable {
  /** Whether any of what was sent may have arrived: only then may a request without an answer have been carried out. */
  readonly wasReached: boolean;
  info(options: CallOptions): Promise<Info>;
  policy(options: CallOptions): Promise<Policy>;
  store(pack: PackageInput, options: CallOptions): Promise<Stored>;
  exec(token: InvocationToken, invocation: Invocation, options: CallOptions): Promise<InstanceId>;
  run(
    what: { readonly package: PackageInput } | { readonly token: InvocationToken },
    invocation: Invocation,
    options: CallOptions & { readonly endInput: boolean; readonly onResumed: () => void },
  ): Promise<RemoteSession>;
  open(
    instance: InstanceId,
    options: CallOptions & { readonly offset?: number | undefined; readonly onResumed: () => void },
  ): Promise<RemoteSession>;
  close(instance: InstanceId, options: CallOptions & { readonly kill: boolean }): Promise<boolean>;
  shutdown(token: ShutdownToken, options: CallOptions): Promise<number>;
}

/** Attached to an instance of a far function. Attaches again by itself when a connection breaks. */
export interface RemoteSession {
  readonly instance: InstanceId;
  readonly stored: Stored | undefined;
  /** Output bytes consumed so far, since the instance began. */
  readonly offset: number;
  /** Comes after all output has been consumed. */
  readonly ended: Promise<Outcome>;
  /** One piece of a message. Resolves when the connection has taken it. */
  sendFragment(bytes: Uint8Array, last: boolean): Promise<void>;
  endInput(): Promise<void>;
  /** Output as it comes; the next piece is asked for when this one was consumed. Once. */
  chunks(): AsyncIterable<{ readonly bytes: Uint8Array; readonly last: boolean }>;
  /** Leaves; the far instance goes on. Idempotent. */
  detach(): Promise<void>;
}
