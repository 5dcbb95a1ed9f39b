// A client attached to an instance: its output with offsets, input with back-pressure, and how it ended
// (spec/wire 4). The box is untrusted. When the connection breaks, the session attaches again from the last byte
// it holds; nothing is delivered twice or left out. Losing or leaving a session never ends the instance.

import { concat, utf8 } from "../base/bytes.ts";
import { Channel } from "../base/channel.ts";
import type { Clock } from "../base/clock.ts";
import { BentoError, ProtocolError, unreachable } from "../base/errors.ts";
import type { Outcome, Stored } from "../wire/api.ts";
import { BoxError, errorOfProblem } from "../wire/error-code.ts";
import { Limits } from "../wire/limits.ts";
import { type Attached, decodeBoxFrame, encodeClientFrame } from "../wire/session-frame.ts";
import { type InstanceId, parseInstanceId } from "../wire/token.ts";
import { inputFrames, type Link } from "./link.ts";

/** Output held here until it is read; beyond it the circuit's own flow control makes the box wait. */
const OUTPUT_WINDOW_BYTES = 512 * 1024;
/** Consumed output is acknowledged after this much, or when nothing more is waiting. */
const ACK_BYTES = 64 * 1024;
/** Pauses before each attempt to attach again. After the last failure the session ends with its error. */
const RESUME_DELAYS_MS = [250, 1000, 2000, 4000, 8000, 16_000] as const;
/** Largest message that iteration puts together; longer ones must be read with `chunks()`. */
const MESSAGE_BYTES_MAX = 64 * 1024 * 1024;

/** A piece of output. `offset` counts bytes since the instance began; `last` ends a message. */
export interface OutputChunk {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly last: boolean;
}

export type SessionEvent =
  | { readonly kind: "attached"; readonly instance: InstanceId; readonly offset: number }
  | { readonly kind: "received"; readonly offset: number }
  /** The connection broke; attempt `attempt` to attach again begins after `delayMs`. */
  | {
      readonly kind: "interrupted";
      readonly reason: string;
      readonly attempt: number;
      readonly delayMs: number;
    }
  /** Attached again. Input sent shortly before the break may not have arrived. */
  | { readonly kind: "resumed"; readonly offset: number }
  | { readonly kind: "ended"; readonly outcome: Outcome };

type Reattach = (instance: InstanceId, offset: number, signal: AbortSignal) => Promise<Link>;

export interface SessionOptions {
  readonly clock: Clock;
  /** Opens another connection to the instance, from `offset`. Left out where the session ends with its connection. */
  readonly reattach?: Reattach | undefined;
  readonly onEvent?: ((event: SessionEvent) => void) | undefined;
  /** Acknowledge after every ACK_BYTES and never sooner: then what goes up does not show how fast output is consumed. */
  readonly steadyAcks?: boolean | undefined;
}

/** Reads the first frame of a link. Throws the box's problem, or ProtocolError. */
export async function readAttached(link: Link): Promise<Attached> {
  const first = await link.receive();
  if (!first) throw new BentoError("connection-lost", "Connection lost before the box attached the session");
  const frame = decodeBoxFrame(first);
  if (frame.kind === "problem") throw errorOfProblem(frame.problem);
  if (frame.kind === "attached") return frame.attached;
  throw new ProtocolError("bad-answer", `Cannot attach: first frame is "${frame.kind}", expected "attached"`);
}

/**
 * Attached to one instance. Iterate it for whole messages, or `chunks()` for pieces as they come: one of the two,
 * once. What has been consumed is acknowledged, so the box forgets it.
 */
export class Session implements AsyncIterable<Uint8Array>, AsyncDisposable {
  readonly instance: InstanceId;
  /** The tokens of what `run` installed; undefined otherwise. */
  readonly stored: Stored | undefined;
  /**
   * How the instance ended. Comes after all output has been consumed; rejects with "detached" after `detach()`, or
   * with the reason that no box could be reached any more.
   */
  readonly ended: Promise<Outcome>;

  readonly #options: SessionOptions;
  readonly #output = new Channel<OutputChunk>(OUTPUT_WINDOW_BYTES, (chunk) =>
    Math.max(1, chunk.bytes.length),
  );
  readonly #outcome = Promise.withResolvers<Outcome>();
  readonly #stop = new AbortController();
  #link: Promise<Link>;
  #received: number;
  #delivered: number;
  #consumed: number;
  #acknowledged: number;
  #ended = false;

  constructor(link: Link, attached: Attached, options: SessionOptions) {
    this.instance = parseInstanceId(attached.instance);
    this.stored = attached.stored;
    this.ended = this.#outcome.promise;
    this.ended.catch(() => undefined);
    this.#options = options;
    this.#link = Promise.resolve(link);
    this.#received = attached.offset;
    this.#delivered = attached.offset;
    this.#consumed = attached.offset;
    this.#acknowledged = attached.offset;
    options.onEvent?.({ kind: "attached", instance: this.instance, offset: attached.offset });
    void this.#pump(link);
  }

  /** Output bytes consumed so far, since the instance began: where to attach again. */
  get offset(): number {
    return this.#consumed;
  }

  /** Output as it comes. Throws when the box broke the protocol or could not be reached again. */
  async *chunks(): AsyncGenerator<OutputChunk> {
    for (;;) {
      const chunk = await this.#output.receive();
      if (!chunk) return;
      this.#delivered = chunk.offset + chunk.bytes.length;
      yield chunk;
      this.acknowledge();
    }
  }

  /** What `chunks()` gave so far is consumed: for readers who do not ask for more. Asking for more says the same. */
  acknowledge(): void {
    this.#consumed = this.#delivered;
    this.#acknowledgeConsumed();
  }

  /** Whole messages. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    let parts: Uint8Array[] = [];
    let length = 0;
    for await (const chunk of this.chunks()) {
      // spec/wire 6.1: the end of a message that was read before this attachment.
      if (length === 0 && chunk.bytes.length === 0) continue;
      parts.push(chunk.bytes);
      length += chunk.bytes.length;
      if (length > MESSAGE_BYTES_MAX) {
        throw new BentoError("too-large", `Cannot read message: longer than ${MESSAGE_BYTES_MAX} bytes`, {
          advice: "Read it in pieces, with chunks().",
        });
      }
      if (!chunk.last) continue;
      const message = concat(parts);
      parts = [];
      length = 0;
      yield message;
    }
    if (length > 0) yield concat(parts);
  }

  /** Reads and drops what output is left, then says how the instance ended. */
  async drain(): Promise<Outcome> {
    for await (const _ of this.chunks());
    return this.ended;
  }

  /**
   * Sends one message. Resolves when the connection has taken it. Throws "input-lost" when the connection broke
   * meanwhile: the message may or may not have arrived.
   */
  async send(message: Uint8Array | string): Promise<void> {
    const bytes = typeof message === "string" ? utf8(message) : message;
    if (bytes.length > Limits.inputMessageBytesMax) {
      throw new BentoError(
        "too-large",
        `Cannot send message: ${bytes.length} bytes exceed ${Limits.inputMessageBytesMax}`,
        { advice: "Send it as several messages." },
      );
    }
    const link = await this.#currentLink();
    for (const frame of inputFrames(bytes)) await this.#write(link, frame);
  }

  /** One piece of a message, at most Limits.fragmentBytesMax: for those who pass messages on. Throws as `send` does. */
  async sendFragment(bytes: Uint8Array, last: boolean): Promise<void> {
    await this.#write(await this.#currentLink(), { kind: "input", bytes, last });
  }

  /** No more messages: the function's iteration over its input ends. */
  async endInput(): Promise<void> {
    await this.#write(await this.#currentLink(), { kind: "input-end" });
  }

  /** Leaves. The instance goes on; `offset` says where to attach again. Idempotent. */
  async detach(): Promise<void> {
    if (this.#stop.signal.aborted) return;
    const reason = new BentoError("detached", "Detached from the instance");
    this.#stop.abort(reason);
    this.#outcome.reject(reason);
    this.#output.close();
    try {
      const link = await this.#link;
      if (!this.#ended && this.#consumed > this.#acknowledged) {
        await link.send(encodeClientFrame({ kind: "ack", offset: this.#consumed }));
      }
      if (!this.#ended) await link.leave();
    } catch {
      // The connection was broken already: there is nothing to leave.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.detach();
  }

  async #currentLink(): Promise<Link> {
    this.#stop.signal.throwIfAborted();
    if (this.#ended) throw new BentoError("already-ended", "Cannot send: the instance has ended");
    return this.#link;
  }

  async #write(link: Link, frame: Parameters<typeof encodeClientFrame>[0]): Promise<void> {
    try {
      await link.send(encodeClientFrame(frame));
    } catch (cause) {
      if (this.#ended)
        throw new BentoError("already-ended", "Cannot send: the instance has ended", { cause });
      throw new BentoError(
        "input-lost",
        "Cannot send: the connection broke, the message may not have arrived",
        {
          cause,
        },
      );
    }
  }

  #acknowledgeConsumed(): void {
    const owed = this.#consumed - this.#acknowledged;
    const isSoon = owed > 0 && this.#output.cost === 0 && !this.#options.steadyAcks;
    if (this.#ended || (owed < ACK_BYTES && !isSoon)) return;
    const offset = this.#consumed;
    this.#acknowledged = offset;
    this.#link
      .then((link) => link.send(encodeClientFrame({ kind: "ack", offset })))
      .catch(() => {
        // A broken connection is the pump's to notice; a lost acknowledgement only makes the box keep more.
      });
  }

  async #pump(first: Link): Promise<void> {
    let link = first;
    let attempts = 0;
    for (;;) {
      try {
        const before = this.#received;
        const failure = await this.#readLink(link);
        if (this.#ended || this.#stop.signal.aborted) return;
        const { reattach } = this.#options;
        if (!reattach) throw lost(failure);
        if (this.#received > before) attempts = 0;
        link.destroy();
        const next = this.#resume(reattach, failure, attempts);
        this.#link = next.then((resumed) => resumed.link);
        this.#link.catch(() => undefined);
        ({ link, attempts } = await next);
      } catch (error) {
        link.destroy();
        this.#outcome.reject(error);
        this.#output.fail(error);
        return;
      }
    }
  }

  /** Delivers frames until the last one or until the connection breaks; returns why it broke. Throws what is final. */
  async #readLink(link: Link): Promise<unknown> {
    for (;;) {
      let bytes: Uint8Array | undefined;
      try {
        bytes = await link.receive();
      } catch (error) {
        if (error instanceof ProtocolError) throw error;
        return error;
      }
      if (this.#stop.signal.aborted) return this.#stop.signal.reason;
      if (!bytes) return new BentoError("connection-lost", "Connection lost");
      const frame = decodeBoxFrame(bytes);
      switch (frame.kind) {
        case "output":
          await this.#deliver(frame);
          break;
        case "ended":
          this.#finish(link, frame.outcome);
          return undefined;
        case "problem":
          throw errorOfProblem(frame.problem);
        case "attached":
          throw new ProtocolError("bad-answer", "Cannot read session: attached twice");
        default:
          unreachable(frame);
      }
    }
  }

  async #deliver(chunk: OutputChunk): Promise<void> {
    if (chunk.offset !== this.#received) {
      throw new ProtocolError(
        "integrity",
        `Cannot read output: found offset ${chunk.offset}, wanted ${this.#received}`,
        { advice: "The box left out or repeated output: do not rely on it." },
      );
    }
    this.#received += chunk.bytes.length;
    await this.#output.send(chunk, { signal: this.#stop.signal });
    this.#options.onEvent?.({ kind: "received", offset: this.#received });
  }

  #finish(link: Link, outcome: Outcome): void {
    this.#ended = true;
    link.finish();
    this.#output.close();
    this.#options.onEvent?.({ kind: "ended", outcome });
    this.#outcome.resolve(outcome);
  }

  async #resume(
    reattach: Reattach,
    failure: unknown,
    attemptsBefore: number,
  ): Promise<{ link: Link; attempts: number }> {
    let reason = failure;
    for (let attempt = attemptsBefore; attempt < RESUME_DELAYS_MS.length; attempt++) {
      const delayMs = RESUME_DELAYS_MS[attempt] ?? 0;
      this.#options.onEvent?.({
        kind: "interrupted",
        reason: reason instanceof Error ? reason.message : String(reason),
        attempt: attempt + 1,
        delayMs,
      });
      await this.#options.clock.sleep(delayMs, this.#stop.signal);
      try {
        const link = await this.#reattach(reattach);
        this.#options.onEvent?.({ kind: "resumed", offset: this.#received });
        return { link, attempts: attempt + 1 };
      } catch (error) {
        this.#stop.signal.throwIfAborted();
        // What the box itself says (ended, taken over, unknown) does not change by asking again.
        if (error instanceof BoxError || error instanceof ProtocolError) throw error;
        reason = error;
      }
    }
    throw lost(reason);
  }

  async #reattach(reattach: Reattach): Promise<Link> {
    const link = await reattach(this.instance, this.#received, this.#stop.signal);
    try {
      const attached = await readAttached(link);
      if (attached.offset === this.#received && attached.instance === this.instance) return link;
      throw new ProtocolError(
        "integrity",
        `Cannot attach again: found offset ${attached.offset}, wanted ${this.#received}`,
      );
    } catch (error) {
      link.destroy();
      throw error;
    }
  }
}

function lost(cause: unknown): BentoError {
  return cause instanceof BentoError
    ? cause
    : new BentoError("connection-lost", "Connection lost", { cause });
}
