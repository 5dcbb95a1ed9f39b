// Guests without a sandbox, for tests of what is around them: each behaves as the first word of its source says,
// and keeps to its credit as a well-behaved runtime does.

import { utf8 } from "../../src/base/bytes.ts";
import type { Guest, GuestEnd, GuestRequest, GuestStarter } from "../../src/box/session/guest.ts";
import { guestFrameCost } from "../../src/wire/guest-frame.ts";
import { Limits } from "../../src/wire/limits.ts";

export class FakeGuests implements GuestStarter {
  readonly started: FakeGuest[] = [];
  /** Set to make the next starts fail. */
  failure: Error | undefined;
  /** Guests that were not disposed of. */
  alive = 0;

  async start(request: GuestRequest): Promise<Guest> {
    await Promise.resolve();
    if (this.failure) throw this.failure;
    this.alive++;
    const guest = new FakeGuest(request, () => this.alive--);
    this.started.push(guest);
    return guest;
  }
}

export class FakeGuest implements Guest {
  readonly ended: Promise<GuestEnd>;
  readonly attached: boolean[] = [];
  readonly inputs: Uint8Array[] = [];
  disposals = 0;
  readonly #request: GuestRequest;
  readonly #onGone: () => void;
  readonly #end = Promise.withResolvers<GuestEnd>();
  #credit = Limits.streamWindowBytes;
  #partial: Uint8Array[] = [];
  #inputEnded = false;
  #over = false;
  #wake = Promise.withResolvers<void>();
  #stopAsked = false;

  constructor(request: GuestRequest, onGone: () => void) {
    this.#request = request;
    this.#onGone = onGone;
    this.ended = this.#end.promise;
    void this.#run().then((end) => this.#finish(end));
  }

  async sendInput(bytes: Uint8Array, last: boolean): Promise<void> {
    while (this.inputs.length >= 64 && !this.#over) await this.#wake.promise;
    if (this.#over) return;
    this.#partial.push(Uint8Array.from(bytes));
    if (!last) return;
    this.inputs.push(Buffer.concat(this.#partial));
    this.#partial = [];
    this.#notify();
  }

  async endInput(): Promise<void> {
    this.#inputEnded = true;
    this.#notify();
  }

  credit(bytes: number): void {
    this.#credit += bytes;
    this.#notify();
  }

  setAttached(attached: boolean): void {
    this.attached.push(attached);
  }

  stop(): void {
    this.#stopAsked = true;
    this.#notify();
  }

  /** Dies as a process does. */
  die(reason: "crashed" | "out-of-memory"): void {
    this.#finish({ kind: "died", reason });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.disposals++;
    this.#finish({ kind: "died", reason: "crashed" });
    if (this.disposals === 1) this.#onGone();
  }

  async #run(): Promise<GuestEnd> {
    const [what, argument] = (this.#request.start.source ?? "").split(" ");
    switch (what) {
      case "hello":
        await this.#send(utf8("hello world"));
        return { kind: "done" };
      case "echo":
        for (;;) {
          const message = await this.#receive();
          if (!message) return { kind: "done" };
          await this.#send(message);
        }
      case "flood":
        for (let left = Number(argument); left > 0; left -= Limits.fragmentBytesMax) {
          await this.#send(new Uint8Array(Math.min(left, Limits.fragmentBytesMax)).fill(left & 255));
          await new Promise((resolve) => setImmediate(resolve));
        }
        return { kind: "done" };
      case "log":
        for (;;) {
          const message = await this.#receive();
          if (!message) return { kind: "done" };
          this.#request.onLog({ level: "info", text: Buffer.from(message).toString() });
        }
      case "fail":
        return { kind: "failed", failure: { name: "ValueError", message: "no", traceback: "line 1" } };
      case "cheat":
        for (let index = 0; index < 64; index++) {
          this.#request.onOutput(new Uint8Array(Limits.fragmentBytesMax), true);
        }
        return await this.ended;
      case "stubborn":
        return await this.ended;
      default: // idle: waits to be stopped
        while (!this.#stopAsked) await this.#wake.promise;
        return { kind: "done" };
    }
  }

  async #send(message: Uint8Array): Promise<void> {
    for (let at = 0; at < message.length || at === 0; at += Limits.fragmentBytesMax) {
      const piece = message.slice(at, at + Limits.fragmentBytesMax);
      const cost = guestFrameCost(piece.length);
      while (this.#credit < cost && !this.#over) await this.#wake.promise;
      if (this.#over) return;
      this.#credit -= cost;
      this.#request.onOutput(piece, at + piece.length >= message.length);
    }
  }

  async #receive(): Promise<Uint8Array | undefined> {
    for (;;) {
      const message = this.inputs.shift();
      this.#notify();
      if (message) return message;
      if (this.#inputEnded || this.#stopAsked || this.#over) return undefined;
      await this.#wake.promise;
    }
  }

  #finish(end: GuestEnd): void {
    this.#over = true;
    this.#end.resolve(end);
    this.#notify();
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = Promise.withResolvers();
    wake.resolve();
  }
}
