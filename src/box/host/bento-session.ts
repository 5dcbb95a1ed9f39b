// A session of a function with a function at some box: every byte charged, both ways, and left at once when the
// function may carry no more. Output is asked for as it is consumed, so that back-pressure reaches the far box.

import type { Outcome } from "../../wire/api.ts";
import { Limits } from "../../wire/limits.ts";
import { RemoteRefusal, remoteRefusal } from "./bento-error.ts";
import type { RemoteSession } from "./bento-remote.ts";
import type { Deployed, FarSession } from "./services.ts";

export interface GrantedSessionOptions {
  readonly deployed: Deployed | undefined;
  /** Throws RemoteRefusal "bento-budget". */
  readonly charge: (bytes: number) => void;
  /** Called once, when nothing of the session is left. */
  readonly onOver: () => void;
}

export class GrantedSession implements FarSession {
  readonly deployed: Deployed | undefined;
  readonly instance: string;
  readonly offset: number;
  readonly ended: Promise<Outcome>;
  onResumed: () => void = () => undefined;
  readonly #far: RemoteSession;
  readonly #options: GrantedSessionOptions;
  #messageBytes = 0;
  #leaving: Promise<void> | undefined;

  constructor(far: RemoteSession, options: GrantedSessionOptions) {
    this.#far = far;
    this.#options = options;
    this.deployed = options.deployed;
    this.instance = far.instance;
    this.offset = far.offset;
    this.ended = far.ended.catch((error: unknown) => {
      throw remoteRefusal(error);
    });
    this.ended.catch(() => undefined);
  }

  async send(bytes: Uint8Array, last: boolean): Promise<void> {
    this.#messageBytes += bytes.length;
    if (this.#messageBytes > Limits.inputMessageBytesMax) {
      throw new RemoteRefusal(
        "too-large",
        `Cannot send message: more than ${Limits.inputMessageBytesMax} bytes`,
      );
    }
    if (last) this.#messageBytes = 0;
    this.#options.charge(bytes.length);
    await this.#far.sendFragment(bytes, last).catch(refuse);
  }

  async endInput(): Promise<void> {
    await this.#far.endInput().catch(refuse);
  }

  async *chunks(): AsyncGenerator<{ readonly bytes: Uint8Array; readonly last: boolean }> {
    try {
      for await (const { bytes, last } of this.#far.chunks()) {
        this.#options.charge(bytes.length);
        yield { bytes, last };
      }
    } catch (error) {
      refuse(error);
    }
  }

  detach(): Promise<void> {
    this.#leaving ??= this.#far
      .detach()
      .catch(() => undefined)
      .then(this.#options.onOver);
    return this.#leaving;
  }
}

function refuse(error: unknown): never {
  throw remoteRefusal(error);
}
