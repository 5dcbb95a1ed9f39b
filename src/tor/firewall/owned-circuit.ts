// One circuit of one owner: its state as tor's events tell it, its handle, and what the owner may know of its path.

import { BentoError } from "../../base/errors.ts";
import type { CircuitEvent } from "../control-event.ts";
import type { CircuitSink } from "./firewall.ts";
import type { OwnerEvent } from "./owner-watch.ts";

export interface CircuitView {
  readonly circuit: number;
  readonly status: "launched" | "extended" | "built";
  /** Fingerprints; null for a first hop that tor chose. */
  readonly path: readonly (string | null)[];
}

const STATUSES: Readonly<Record<string, Extract<OwnerEvent, { kind: "circuit" }>["status"]>> = {
  LAUNCHED: "launched",
  GUARD_WAIT: "extended",
  EXTENDED: "extended",
  BUILT: "built",
  FAILED: "failed",
  CLOSED: "closed",
};

export interface OwnedCircuitOptions {
  readonly id: number;
  /** Whether tor chose the first hop, so that the owner is not told of it. */
  readonly hidesFirstHop: boolean;
  readonly tell: (event: OwnerEvent) => void;
  /** It is gone at tor, or was never there. */
  readonly onEnd: () => void;
}

export class OwnedCircuit implements CircuitSink {
  readonly id: number;
  /** Tor's own id, once it gave one. Never leaves the firewall. */
  torId: string | undefined;
  readonly #options: OwnedCircuitOptions;
  #status: CircuitView["status"] = "launched";
  #path: readonly string[] = [];
  #built = Promise.withResolvers<void>();
  #end: BentoError | undefined;

  constructor(options: OwnedCircuitOptions) {
    this.id = options.id;
    this.#options = options;
    this.#awaitBuilt();
  }

  get isBuilt(): boolean {
    return this.#status === "built" && this.#end === undefined;
  }

  get hasEnded(): boolean {
    return this.#end !== undefined;
  }

  /** Fingerprints of the hops that stand, for choosing further ones. */
  get torPath(): readonly string[] {
    return this.#path;
  }

  get view(): CircuitView {
    return { circuit: this.id, status: this.#status, path: this.#shown(this.#path) };
  }

  /** Resolves when it is built, or extended. Rejects with BentoError when it ends before. */
  get built(): Promise<void> {
    return this.#built.promise;
  }

  /** Further hops were asked for: it counts as built again when tor says so. */
  extending(): void {
    this.#status = "extended";
    this.#awaitBuilt();
  }

  /** Tor did not begin to extend it: it stands as before. */
  extendRefused(): void {
    if (this.#end) return;
    this.#status = "built";
    this.#built.resolve();
  }

  onEvent(event: CircuitEvent): void {
    const status = STATUSES[event.status];
    if (status === undefined || this.#end) return;
    if (event.path.length > 0) this.#path = event.path;
    const reason = reasonOf(event);
    if (status === "failed" || status === "closed") {
      this.end(
        new BentoError("tor-circuit-failed", `Circuit ended: ${status}${reason ? `, ${reason}` : ""}`),
        reason,
        status,
      );
      return;
    }
    this.#status = status;
    if (status === "built") this.#built.resolve();
    this.#tell(status, reason);
  }

  /** Idempotent; first reason wins. */
  end(error: BentoError, reason?: string, status: "failed" | "closed" = "closed"): void {
    if (this.#end) return;
    this.#end = error;
    this.#built.reject(error);
    this.#tell(status, reason);
    this.#options.onEnd();
  }

  #tell(status: Extract<OwnerEvent, { kind: "circuit" }>["status"], reason: string | undefined): void {
    const path = this.#shown(this.#path);
    this.#options.tell({ kind: "circuit", circuit: this.id, status, path, ...(reason ? { reason } : {}) });
  }

  #shown(path: readonly string[]): (string | null)[] {
    return path.map((fingerprint, index) =>
      index === 0 && this.#options.hidesFirstHop ? null : fingerprint,
    );
  }

  #awaitBuilt(): void {
    this.#built = Promise.withResolvers<void>();
    this.#built.promise.catch(() => {
      // Whoever waits gets it; nobody has to.
    });
  }
}

/** One of tor's words (control-spec 4.1.1), or nothing. */
export function reasonOf(event: { readonly reason: string | undefined }): string | undefined {
  return event.reason !== undefined && /^[A-Z_]{1,40}$/u.test(event.reason) ? event.reason : undefined;
}
