// A socket as an instance's guest link sees it: a Duplex through which no byte passes, either way, before what extends this
// has taken it from the instance's grant. Counts what passes, keeps back-pressure both ways, and ends with its socket.
// Both ends are hostile: the function behind it, and whoever is at the far end.

import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import type { BentoError } from "../../base/errors.ts";

/** Bytes that all connections of one kind have carried for the box. */
export interface Traffic {
  receivedBytes: number;
  sentBytes: number;
}

export abstract class CountedSocket extends Duplex {
  readonly #socket: Socket;
  readonly #traffic: Traffic;
  #hasEnded = false;
  #resume: (() => void) | undefined;

  /** Takes over `socket`, which is not read before this is. Nothing of what extends this is called within. */
  constructor(socket: Socket, traffic: Traffic, options: { readonly allowHalfOpen: boolean }) {
    super({ allowHalfOpen: options.allowHalfOpen });
    this.#socket = socket;
    this.#traffic = traffic;
    socket.on("data", (chunk: Buffer) => {
      if (!this.#hasEnded) this.arrived(chunk);
    });
    socket.pause();
    socket.on("end", () => {
      this.endReading();
    });
    socket.on("drain", () => {
      this.#resume?.();
    });
    socket.on("error", (cause) => {
      this.destroy(this.lost(cause));
    });
    socket.on("close", () => {
      // After an orderly end, what was received still waits here to be read.
      if (!this.#hasEnded) this.destroy(this.lost());
      else this.#resume?.();
    });
  }

  /** Takes these bytes from the grant before any of them leaves. Throws when it must not: none does then, and this ends. */
  protected abstract pay(chunk: Uint8Array): void;

  /** These bytes came. Delivers as many of them as the grant has, and destroys this when that is fewer. */
  protected abstract arrived(chunk: Uint8Array): void;

  /** The error with which this ends when its socket broke. */
  protected abstract lost(cause?: unknown): BentoError;

  /** Hands bytes that were paid for to the function. */
  protected deliver(chunk: Uint8Array): void {
    this.#traffic.receivedBytes += chunk.length;
    if (!this.push(chunk)) this.#socket.pause();
  }

  /** Nothing more is delivered. Calling it twice is fine. */
  protected endReading(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.push(null);
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    if (this.#socket.destroyed) {
      callback(this.lost());
      return;
    }
    try {
      this.pay(chunk);
    } catch (error) {
      callback(error as Error);
      return;
    }
    this.#traffic.sentBytes += chunk.length;
    if (this.#socket.write(chunk)) {
      callback();
      return;
    }
    this.#resume = () => {
      this.#resume = undefined;
      callback();
    };
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#socket.end(() => {
      callback();
    });
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#socket.destroy();
    const resume = this.#resume;
    this.#resume = undefined;
    resume?.();
    callback(error);
  }
}
