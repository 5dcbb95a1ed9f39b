// The box's end of the one channel out of a sandbox (spec/guest 2). The guest is hostile: whatever breaks the
// protocol ends it, whatever it can grow is bounded by a window, a count or by not reading on.

import type { Readable, Writable } from "node:stream";
import type { z } from "zod";
import { fromUtf8 } from "../../base/bytes.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import { assert, BentoError, ProtocolError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import {
  GUEST_FRAME,
  GUEST_PAYLOAD_BYTES_MAX,
  GUEST_START_BYTES_MAX,
  type GuestFailure,
  type GuestFrame,
  GuestFrameSplitter,
  type GuestStart,
  guestFrameCost,
} from "../../wire/guest-frame.ts";
import { Limits } from "../../wire/limits.ts";
import type { PaceClock } from "../../wire/pace.ts";
import { pacingClock } from "../../wire/pacing-clock.ts";
import { GuestAnswers } from "./guest-answers.ts";
import { OpenCall } from "./guest-call-state.ts";
import {
  type GuestLogLine,
  guestCallSchema,
  guestFailureSchema,
  guestLogSchema,
  refusalOf,
} from "./guest-calls.ts";
import { carryOut, takesData } from "./guest-dispatch.ts";
import { LogLimit } from "./guest-log-limit.ts";
import { ReceiveWindow, SendWindow } from "./guest-window.ts";
import { CreditReturn, GuestWriter } from "./guest-writer.ts";
import type { HeldValue, HostServices } from "./services.ts";

/**
 * Bytes that the box keeps for one guest, both ways together, before it stops reading from it. Above what one
 * bulk stream each way needs (4 windows), far below all windows of all streams (64 MiB).
 */
const HELD_BYTES_MAX = 4 * 1024 * 1024;

/** A piece of an output message. The bytes are the receiver's to keep; they may share memory with other pieces. */
export interface OutputFragment {
  readonly bytes: Uint8Array;
  /** Whether it ends its message. */
  readonly last: boolean;
  /** What to hand to `credit` when it is consumed: bytes, a little more than its own. */
  readonly cost: number;
}

/** How a guest ended. `lost`: it died, closed its channel or broke the protocol. */
export type GuestEnd =
  | { readonly kind: "returned" }
  | { readonly kind: "failed"; readonly failure: GuestFailure }
  | { readonly kind: "lost"; readonly error: BentoError };

/** Where the output of a started guest goes. Callbacks must not throw. */
export interface GuestSinks {
  /** In order, never after `drained` has resolved. The guest may send on as far as `credit` allows. */
  onOutput(fragment: OutputFragment): void;
  /** A stored value that is a whole message, in its place among the fragments. Resolves when the client has taken it. */
  onValue(value: HeldValue): Promise<void>;
  /** A line that the function logged, already cut and limited in rate. It may hold any text. */
  onLog?(line: GuestLogLine): void;
}

type State = "starting" | "ready" | "running" | "ended";

export class GuestLink implements AsyncDisposable {
  /** Resolves when the runtime is up; rejects when it ends before that. */
  readonly ready: Promise<void>;
  /** Never rejects. */
  readonly ended: Promise<GuestEnd>;
  /** Resolves after `ended`, when the shaped answer that was under way has ended as well. Never rejects. */
  readonly drained: Promise<void>;
  readonly #stdout: Readable;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #answers: GuestAnswers;
  readonly #writer: GuestWriter;
  readonly #splitter = new GuestFrameSplitter(GUEST_PAYLOAD_BYTES_MAX);
  readonly #readiness = Promise.withResolvers<void>();
  readonly #ending = Promise.withResolvers<GuestEnd>();
  readonly #calls = new Map<number, OpenCall>();
  readonly #inputWindow = new SendWindow();
  readonly #outputWindow = new ReceiveWindow();
  readonly #outputCredit: CreditReturn;
  #logLimit: LogLimit | undefined;
  #state: State = "starting";
  #services: HostServices = {};
  #sinks: GuestSinks | undefined;
  #lastCallId = 0;
  #heldBytes = 0;
  #inputEnded = false;
  #isInMessage = false;
  #attached = false;
  #attachedSent = false;

  /** Takes over both pipes of a guest that was just launched. */
  constructor(options: {
    stdin: Writable;
    stdout: Readable;
    log: Log;
    clock?: Clock;
    paceClock?: PaceClock;
  }) {
    this.#stdout = options.stdout;
    this.#log = options.log;
    this.#clock = options.clock ?? systemClock;
    this.#writer = new GuestWriter(options.stdin);
    this.#writer.onDrain = () => {
      this.#sendAttached();
      this.#resumeReading();
    };
    this.#outputCredit = new CreditReturn(this.#writer, 0);
    this.ready = this.#readiness.promise;
    this.ready.catch(() => {
      /* whoever does not wait for it learns the same from `ended` */
    });
    this.ended = this.#ending.promise;
    this.#answers = new GuestAnswers({
      clock: options.paceClock ?? pacingClock,
      windowBytes: Limits.streamWindowBytes,
      onCell: (bytes, cost) => this.#sinks?.onOutput({ bytes, last: true, cost }),
      onConsumed: (bytes) => {
        this.#consume(bytes);
      },
    });
    this.drained = this.ended.then(() => this.#answers.drain());
    const gone = (cause?: unknown) => {
      this.#lose(new BentoError("guest-gone", "Cannot go on: the guest ended without a result", { cause }));
    };
    this.#stdout.on("data", (chunk: Uint8Array) => {
      this.#onChunk(chunk);
    });
    this.#stdout.on("end", () => gone());
    this.#stdout.on("close", () => gone());
    this.#stdout.on("error", gone);
  }

  /** Gives the guest its function. Once, after `ready`. */
  start(start: GuestStart, services: HostServices, sinks: GuestSinks): void {
    if (this.#state === "ended") return;
    assert(this.#state === "ready", "a guest is started once, when it is ready");
    const payload = Buffer.from(JSON.stringify(start));
    if (payload.length > GUEST_START_BYTES_MAX) {
      throw new BentoError(
        "too-large",
        `Cannot start function: ${payload.length} bytes with its arguments, expected at most ${GUEST_START_BYTES_MAX}`,
      );
    }
    this.#state = "running";
    this.#services = { ...services, answers: this.#answers };
    this.#sinks = sinks;
    this.#logLimit = new LogLimit(this.#clock);
    this.#writer.write(GUEST_FRAME.start, 0, payload);
  }

  /**
   * Sends a piece of an input message. Resolves when there is room for the next, which is when the guest has
   * taken enough. One at a time. Rejects with BentoError "guest-gone" when the guest ended, or with the signal's
   * reason: what was not sent by then is not sent, and a message cut short so stays open.
   */
  async sendInput(bytes: Uint8Array, options: { last: boolean; signal?: AbortSignal }): Promise<void> {
    const { last, signal } = options;
    assert(this.#state === "running" || this.#state === "ended", "input follows start");
    // A shaped answer begins when its message is here: how soon the guest takes it must not show.
    if (!this.#isInMessage) this.#answers.ask();
    this.#isInMessage = !last;
    let at = 0;
    do {
      const part = bytes.subarray(at, at + GUEST_PAYLOAD_BYTES_MAX);
      signal?.throwIfAborted();
      await this.#inputRoom(guestFrameCost(part.length), signal);
      at += part.length;
      const ends = last && at >= bytes.length;
      this.#writer.write(ends ? GUEST_FRAME.input : GUEST_FRAME.inputMore, 0, part);
    } while (at < bytes.length);
  }

  /** The client sends nothing more. */
  endInput(): void {
    if (this.#state !== "running" || this.#inputEnded) return;
    this.#inputEnded = true;
    this.#writer.write(GUEST_FRAME.inputEnd, 0);
  }

  /** Tells the function whether a client is attached. */
  setAttached(attached: boolean): void {
    this.#attached = attached;
    this.#sendAttached();
  }

  /** Asks the function to end. Whoever asks also sets a deadline and kills. */
  stop(): void {
    if (this.#state === "running") this.#writer.write(GUEST_FRAME.stop, 0);
  }

  /** Lets the guest send on: the sum of the costs of what was consumed. */
  credit(bytes: number): void {
    if (this.#answers.isShaping) this.#answers.credit(bytes);
    else this.#consume(bytes);
  }

  /** Ends the channel, every call and a shaped answer. The process is its launcher's to end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#answers.stop();
    this.#lose(new BentoError("guest-gone", "Cannot go on: the link was closed"));
  }

  #onChunk(chunk: Uint8Array): void {
    try {
      for (const frame of this.#splitter.push(chunk)) {
        if (this.#state === "ended") return;
        this.#onFrame(frame);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#log.debug("guest broke the protocol", { why: error.message });
      this.#lose(error);
    }
    if (this.#overfull()) this.#stdout.pause();
  }

  #onFrame(frame: GuestFrame): void {
    if (this.#state !== "running") {
      if (this.#state !== "starting" || frame.type !== GUEST_FRAME.ready) throw unexpected(frame);
      this.#state = "ready";
      this.#readiness.resolve();
      return;
    }
    switch (frame.type) {
      case GUEST_FRAME.output:
      case GUEST_FRAME.outputMore:
        this.#onOutput(frame.payload, frame.type === GUEST_FRAME.output);
        break;
      case GUEST_FRAME.call:
        this.#onCall(frame);
        break;
      case GUEST_FRAME.data:
        this.#callOf(frame)?.onData(frame.payload);
        break;
      case GUEST_FRAME.dataEnd:
        this.#callOf(frame)?.onDataEnd();
        break;
      case GUEST_FRAME.reset:
        this.#callOf(frame)?.end(new BentoError("closed", "Cannot go on: the function closed the call"));
        break;
      case GUEST_FRAME.credit:
        if (frame.id === 0) this.#inputWindow.credit(frame.payload);
        else this.#callOf(frame)?.onCredit(frame.payload);
        break;
      case GUEST_FRAME.log:
        this.#onLog(frame);
        break;
      case GUEST_FRAME.done:
        this.#end({ kind: "returned" });
        break;
      case GUEST_FRAME.failed:
        this.#end({ kind: "failed", failure: parsed(frame, guestFailureSchema) });
        break;
      default:
        throw unexpected(frame);
    }
  }

  #onOutput(bytes: Uint8Array, last: boolean): void {
    const cost = guestFrameCost(bytes.length);
    this.#outputWindow.receive(cost);
    this.#hold(cost);
    if (!this.#answers.take(bytes)) this.#sinks?.onOutput({ bytes, last, cost });
  }

  #consume(bytes: number): void {
    if (this.#state === "ended") return;
    this.#outputWindow.consume(bytes);
    this.#hold(-bytes);
    this.#outputCredit.give(bytes);
  }

  async #onValue(value: HeldValue): Promise<void> {
    assert(this.#state === "running" && this.#sinks, "a guest that has ended makes no calls");
    try {
      this.#answers.refuseShaped();
    } catch (error) {
      value.release();
      throw error;
    }
    await this.#sinks.onValue(value);
  }

  #onLog(frame: GuestFrame): void {
    const line = parsed(frame, guestLogSchema);
    const kept = this.#logLimit?.admit(line);
    if (kept) this.#sinks?.onLog?.(kept);
  }

  #onCall(frame: GuestFrame): void {
    if (frame.id <= this.#lastCallId) throw unexpected(frame);
    this.#lastCallId = frame.id;
    const result = guestCallSchema.safeParse(jsonOf(frame));
    if (!result.success) {
      const issue = result.error.issues[0];
      const where = issue?.path.slice(1).join(".") ?? "";
      this.#refuse(frame.id, "bad-call", `Cannot make call: ${where} ${issue?.message ?? ""}`.slice(0, 500));
    } else if (this.#calls.size >= Limits.guestStreamsMax) {
      this.#refuse(
        frame.id,
        "too-many-calls",
        `Cannot make call: ${Limits.guestStreamsMax} calls and streams are open, expected fewer`,
      );
    } else {
      const call = result.data;
      const open = new OpenCall(frame.id, this.#writer, takesData(call), (bytes) => {
        this.#hold(bytes);
      });
      this.#calls.set(frame.id, open);
      void this.#carryOut(call, open);
    }
  }

  /** Carries one call out and reports its end. Never rejects. */
  async #carryOut(call: Parameters<typeof carryOut>[0], open: OpenCall): Promise<void> {
    let answered = false;
    try {
      await carryOut(call, open, this.#services, {
        reply: (result) => {
          answered = true;
          this.#writer.writeJson(GUEST_FRAME.reply, open.id, result);
        },
        dataEnd: () => {
          this.#writer.write(GUEST_FRAME.dataEnd, open.id);
        },
        output: (value) => this.#onValue(value),
      });
    } catch (error) {
      if (this.#state === "ended") return;
      const refusal = refusalOf(open.signal.aborted ? open.signal.reason : error);
      // Names no destination and no key: only what failed.
      if (!refusal)
        this.#log.warn("call of a function failed", { method: call.method, error: String(error) });
      const said = refusal ?? { code: "internal", message: "The box failed" };
      this.#writer.writeJson(answered ? GUEST_FRAME.reset : GUEST_FRAME.refuse, open.id, said);
    } finally {
      this.#calls.delete(open.id);
      open.end(new BentoError("closed", "Cannot go on: the call is over"));
    }
  }

  #refuse(id: number, code: string, message: string): void {
    this.#writer.writeJson(GUEST_FRAME.refuse, id, { code, message });
  }

  /** The call of a frame, undefined when it is over. Throws ProtocolError when there never was one. */
  #callOf(frame: GuestFrame): OpenCall | undefined {
    if (frame.id === 0 || frame.id > this.#lastCallId) throw unexpected(frame);
    return this.#calls.get(frame.id);
  }

  async #inputRoom(cost: number, signal: AbortSignal | undefined): Promise<void> {
    const room = this.#writer.room();
    if (room) await (signal ? this.#orAborted(room, signal) : room);
    const window = this.#inputWindow.take(cost);
    if (window) await (signal ? this.#orAborted(window, signal) : window);
  }

  async #orAborted(wait: Promise<void>, signal: AbortSignal): Promise<void> {
    const aborted = Promise.withResolvers<never>();
    const onAbort = () => {
      this.#inputWindow.cancelWait(signal.reason);
      aborted.reject(signal.reason as Error);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await Promise.race([wait, aborted.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** Only the latest state matters, so a guest that does not read gets one frame, not one for each change. */
  #sendAttached(): void {
    if (this.#state !== "running" || this.#attached === this.#attachedSent) return;
    if (this.#writer.waitingBytes > GUEST_PAYLOAD_BYTES_MAX) return;
    this.#attachedSent = this.#attached;
    this.#writer.writeJson(GUEST_FRAME.session, 0, { attached: this.#attached });
  }

  #hold(bytes: number): void {
    this.#heldBytes += bytes;
    if (bytes < 0) this.#resumeReading();
  }

  #overfull(): boolean {
    return this.#heldBytes + this.#writer.waitingBytes > HELD_BYTES_MAX;
  }

  #resumeReading(): void {
    if (this.#stdout.isPaused() && !this.#overfull()) this.#stdout.resume();
  }

  #lose(error: BentoError): void {
    this.#end({ kind: "lost", error });
  }

  /** First reason wins. */
  #end(end: GuestEnd): void {
    if (this.#state === "ended") return;
    this.#state = "ended";
    const gone = new BentoError("guest-gone", "Cannot go on: the guest ended");
    this.#readiness.reject(end.kind === "lost" ? end.error : gone);
    this.#inputWindow.fail(gone);
    for (const call of this.#calls.values()) call.end(gone);
    this.#writer.close();
    this.#stdout.destroy();
    this.#ending.resolve(end);
  }
}

function unexpected(frame: GuestFrame): ProtocolError {
  return new ProtocolError("guest-frame", `Cannot take guest frame: type ${frame.type} on ${frame.id} now`);
}

function jsonOf(frame: GuestFrame): unknown {
  try {
    return JSON.parse(fromUtf8(frame.payload));
  } catch (cause) {
    throw new ProtocolError("guest-frame", "Cannot read guest frame: not JSON", { cause });
  }
}

function parsed<T>(frame: GuestFrame, schema: z.ZodType<T>): T {
  const result = schema.safeParse(jsonOf(frame));
  if (result.success) return result.data;
  throw new ProtocolError("guest-frame", `Cannot read guest frame: type ${frame.type} is malformed`);
}
