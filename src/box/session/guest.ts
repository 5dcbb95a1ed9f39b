// What an instance needs of the process that runs it, whatever the sandbox and the channel are. The production
// side is sandboxed-guest.ts. Everything that comes out of a Guest was written by hostile code.

import type { LogLine } from "../../wire/api.ts";
import type { GuestFailure, GuestStart } from "../../wire/guest-frame.ts";
import type { HeldValue, HostServices } from "../host/services.ts";

/** How a guest ended by itself. */
export type GuestEnd =
  | { readonly kind: "done" }
  | { readonly kind: "failed"; readonly failure: GuestFailure }
  | { readonly kind: "died"; readonly reason: "crashed" | "out-of-memory"; readonly detail?: string };

export interface GuestRequest {
  readonly start: GuestStart;
  /** Of the source: an instance that has loaded it may wait. */
  readonly sourceHash: string;
  readonly services: HostServices;
  /** Output in order, each fragment owned by the callee. */
  readonly onOutput: (bytes: Uint8Array, last: boolean) => void;
  /** A stored value that is a whole message, in its place in the output. Resolves when the client has taken it. */
  readonly onValue: (value: HeldValue) => Promise<void>;
  /** A line for the function's owner: it may hold anything, and goes nowhere else. */
  readonly onLog: (line: Pick<LogLine, "level" | "text">) => void;
  readonly signal: AbortSignal;
}

/** One sandbox with one function in it. Disposing kills all of it and frees everything; idempotent. */
export interface Guest extends AsyncDisposable {
  /** Never rejects. All output has been handed over before. */
  readonly ended: Promise<GuestEnd>;
  /** One fragment of an input message. Waits for the guest's window; does nothing once the guest has ended. */
  sendInput(bytes: Uint8Array, last: boolean): Promise<void>;
  endInput(): Promise<void>;
  /** Lets the guest send so many more bytes of output. */
  credit(bytes: number): void;
  /** Tells the function whether a client is attached. */
  setAttached(attached: boolean): void;
  /** Asks the function to end. */
  stop(): void;
}

export interface GuestStarter {
  /**
   * Takes a sandbox and hands it the function. Throws BoxError "functions-unavailable" when there is none to be had.
   */
  start(request: GuestRequest): Promise<Guest>;
}
