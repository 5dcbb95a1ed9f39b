// One client attached to an instance: output goes out, input and acknowledgements come in, each way only as fast
// as the other end takes it (spec/wire 5). The client is untrusted; losing it never ends the instance.

import { ProtocolError } from "../../base/errors.ts";
import type { Stored } from "../../wire/api.ts";
import { BoxError, problemOf } from "../../wire/error-code.ts";
import { Limits } from "../../wire/limits.ts";
import type { BoxFrame, ClientFrame } from "../../wire/session-frame.ts";
import type { Attachment, Instance } from "./instance.ts";

/** How long a client has to hang up after the last frame before the box does: milliseconds. */
const LINGER_MS = 10_000;

/** A two-way stream of session frames, whatever carries it. */
export interface SessionTransport {
  /** Aborted when the peer is gone. */
  readonly signal: AbortSignal;
  /**
   * Whether the peer can still acknowledge. When it cannot, output counts as acknowledged once `send` took it.
   */
  readonly canReceive: boolean;
  /** Queues a frame. The promise, where there is one, resolves when there is room for another. */
  send(frame: BoxFrame): Promise<void> | undefined;
  /** The next frame, or undefined when the peer sends no more. Throws ProtocolError. */
  receive(): Promise<ClientFrame | undefined>;
  /** Sends what is queued and hangs up; resolves when the peer is gone, after `lingerMs` at the latest. */
  close(lingerMs: number): Promise<void>;
}

/** Bytes of unfinished input messages of all sessions of a box. */
export class InputBudget {
  readonly #bytesMax: number;
  #used = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get used(): number {
    return this.#used;
  }

  /** Throws BoxError "box-full". */
  take(bytes: number): void {
    if (this.#used + bytes > this.#bytesMax) {
      throw new BoxError("box-full", "Cannot take input: too many unfinished messages");
    }
    this.#used += bytes;
  }

  give(bytes: number): void {
    this.#used -= bytes;
  }
}

export interface SessionOptions {
  /** First output byte wanted; from the first one kept when absent. */
  readonly offset?: number;
  /** What `run` installed for this client. */
  readonly stored?: Stored;
  readonly budget: InputBudget;
}

/** Serves one client until it goes, is taken over, breaks the protocol, or has got everything. Never throws. */
export async function serveSession(
  instance: Instance,
  transport: SessionTransport,
  options: SessionOptions,
): Promise<void> {
  await new Session(instance, transport, options).serve();
}

class Session implements Attachment {
  readonly #instance: Instance;
  readonly #transport: SessionTransport;
  readonly #options: SessionOptions;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  /** Fragments of the input message that has not ended yet. */
  #message: Uint8Array[] = [];
  #messageBytes = 0;
  #inputEnded = false;
  /** Output before this offset was handed to the transport. */
  #sent = 0;

  constructor(instance: Instance, transport: SessionTransport, options: SessionOptions) {
    this.#instance = instance;
    this.#transport = transport;
    this.#options = options;
    this.#signal = AbortSignal.any([transport.signal, this.#stop.signal]);
  }

  takeOver(): void {
    this.#stop.abort(new BoxError("taken-over", "Another client attached to this instance"));
  }

  async serve(): Promise<void> {
    const { id, backlog } = this.#instance;
    this.#instance.attach(this);
    const offset = this.#options.offset ?? backlog.discarded;
    const { stored } = this.#options;
    const attached = { instance: id, offset, ...(stored ? { stored } : {}) };
    const input = this.#takeInput();
    try {
      await this.#transport.send({ kind: "attached", attached });
      await Promise.race([this.#sendOutput(offset), input.then(() => neverUnless(this.#signal))]);
    } catch (error) {
      this.#sendProblem(this.#stop.signal.aborted ? this.#stop.signal.reason : error);
    } finally {
      this.#instance.detach(this);
      await this.#transport.close(LINGER_MS);
      this.#stop.abort(new Error("session over"));
      await input.catch(() => undefined);
      this.#options.budget.give(this.#messageBytes);
    }
  }

  async #sendOutput(from: number): Promise<void> {
    const { backlog } = this.#instance;
    let position = from;
    // Someone who re-attaches may be inside a message whose end it has not seen.
    let open = from > 0;
    for (;;) {
      this.#signal.throwIfAborted();
      const chunk =
        backlog.readNow(position, open) ?? (await backlog.read(position, { open, signal: this.#signal }));
      if (!chunk) break;
      const room = this.#transport.send({ kind: "output", ...chunk });
      position += chunk.bytes.length;
      open = !chunk.last;
      if (room) await room;
      this.#sent = position;
      this.#acknowledgeSent();
    }
    const outcome = await this.#instance.ended;
    await this.#transport.send({ kind: "ended", outcome });
  }

  #acknowledgeSent(): void {
    if (!this.#transport.canReceive) this.#instance.backlog.discard(this.#sent);
  }

  async #takeInput(): Promise<void> {
    for (;;) {
      const frame = await this.#transport.receive();
      if (!frame) {
        this.#acknowledgeSent();
        return;
      }
      // Taken over: what the old client still sends is no longer its business.
      if (this.#stop.signal.aborted) return;
      switch (frame.kind) {
        case "ack":
          this.#instance.backlog.discard(frame.offset);
          break;
        case "input":
          await this.#takeFragment(frame.bytes, frame.last);
          break;
        case "input-end":
          this.#inputEnded = true;
          await this.#instance.endInput(this.#signal);
          break;
        case "start":
          throw new ProtocolError("bad-request", "Cannot start: this session has begun");
      }
    }
  }

  async #takeFragment(bytes: Uint8Array, last: boolean): Promise<void> {
    if (this.#inputEnded) throw new ProtocolError("bad-request", "Cannot take input: it was ended before");
    if (last && this.#messageBytes === 0) {
      await this.#instance.sendMessage([bytes], this.#signal);
      return;
    }
    if (this.#messageBytes + bytes.length > Limits.inputMessageBytesMax) {
      throw new BoxError(
        "too-large",
        `Cannot take input: a message of more than ${Limits.inputMessageBytesMax} bytes`,
      );
    }
    if (bytes.length > 0 || last) {
      this.#options.budget.take(bytes.length);
      this.#messageBytes += bytes.length;
      this.#message.push(bytes);
    }
    if (!last) return;
    const message = this.#message;
    this.#message = [];
    await this.#instance.sendMessage(message, this.#signal);
    this.#options.budget.give(this.#messageBytes);
    this.#messageBytes = 0;
  }

  /** Tells the peer why the session ends, if it is still there and it was not its own doing. */
  #sendProblem(error: unknown): void {
    if (this.#transport.signal.aborted) return;
    const shown = error instanceof ProtocolError ? new BoxError("bad-request", error.message) : error;
    void this.#transport.send({ kind: "problem", problem: problemOf(shown) });
  }
}

/** Waits for the abort: the peer sends no more, which ends nothing by itself. */
async function neverUnless(signal: AbortSignal): Promise<never> {
  signal.throwIfAborted();
  return await new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
}
