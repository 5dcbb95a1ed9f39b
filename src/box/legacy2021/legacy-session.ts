// One execution opened over the 2021 protocol: its output goes out in whole messages, each announced with its
// length, so a message is sent when all of it is there (spec/protocol-2021 4). What the socket has taken counts
// as read. Long messages stay in the backlog until then; nothing is put together in memory.

import type { Outcome } from "../../wire/api.ts";
import type { Attachment, Instance } from "../session/instance.ts";
import { LEGACY_TYPE } from "./legacy-frame.ts";

/** Where a session writes. `exclusively` keeps the messages of several sessions apart. */
export interface LegacyWriter {
  readonly signal: AbortSignal;
  exclusively(task: () => Promise<void>): Promise<void>;
  /** Starts a message. Call `write` until all of its bytes are given. */
  begin(type: 4 | 5, id: string, length: number): Promise<void>;
  write(bytes: Uint8Array): Promise<void>;
}

export class LegacySession implements Attachment {
  readonly #instance: Instance;
  readonly #id: string;
  readonly #writer: LegacyWriter;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;

  constructor(instance: Instance, id: string, writer: LegacyWriter) {
    this.#instance = instance;
    this.#id = id;
    this.#writer = writer;
    this.#signal = AbortSignal.any([writer.signal, this.#stop.signal]);
  }

  get isClosing(): boolean {
    return this.#stop.signal.aborted;
  }

  takeOver(): void {
    this.#stop.abort(new Error("session opened elsewhere"));
    void this.#say("session opened elsewhere").catch(() => undefined);
  }

  /** Lets go after the message under way. */
  close(): void {
    this.#stop.abort(new Error("session closed"));
  }

  /** Sends output until its end, which is announced, or until closed. Never throws. */
  async serve(): Promise<void> {
    this.#instance.attach(this);
    try {
      while (await this.#sendNext());
      const outcome = await this.#instance.ended;
      await this.#say(endText(outcome));
    } catch {
      // Closed, taken over, or the client is gone: the output stays where it is.
    } finally {
      this.#instance.detach(this);
    }
  }

  /** Sends one message; false when output has ended. */
  async #sendNext(): Promise<boolean> {
    const { backlog } = this.#instance;
    const from = backlog.discarded;
    for (;;) {
      this.#signal.throwIfAborted();
      const change = backlog.changed(this.#signal);
      change.catch(() => undefined);
      const end = await backlog.messageEnd(from);
      // A message that never fits is cut where the function had to wait; so is one that the end cut off.
      const until = end ?? (backlog.isFull || backlog.isFinished ? backlog.end : from);
      if (until > from) {
        await this.#writer.exclusively(() => this.#sendBytes(from, until));
        return true;
      }
      if (backlog.isFinished) return false;
      await change;
    }
  }

  async #sendBytes(from: number, until: number): Promise<void> {
    const { backlog } = this.#instance;
    this.#signal.throwIfAborted();
    await this.#writer.begin(LEGACY_TYPE.data, this.#id, until - from);
    for (let position = from; position < until; ) {
      // Once begun, a message is finished even when the session is closed: the stream would break otherwise.
      const chunk = await backlog.read(position, { open: false, signal: this.#writer.signal });
      if (!chunk) throw new Error("output is gone");
      const bytes = chunk.bytes.subarray(0, until - position);
      await this.#writer.write(bytes);
      position += bytes.length;
    }
    backlog.discard(until);
  }

  async #say(text: string): Promise<void> {
    const bytes = Buffer.from(text);
    await this.#writer.exclusively(async () => {
      await this.#writer.begin(LEGACY_TYPE.error, this.#id, bytes.length);
      await this.#writer.write(bytes);
    });
  }
}

/** The words of that release where it had some. */
function endText(outcome: Outcome): string {
  switch (outcome.kind) {
    case "returned":
      return "session terminated";
    case "failed":
      return outcome.traceback.trim() || `${outcome.name}: ${outcome.message}`;
    case "killed":
      return `session terminated: ${outcome.reason}`;
  }
}
