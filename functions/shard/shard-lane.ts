// One shard on its way to its box: installs a Dropbox there, puts the records as they are made, waits until it is
// sealed. What fails is taken back; the client puts it elsewhere.

import type { Bento, Deployment, FarSession, Package } from "bento/function";
import { Changes } from "../../src/base/changes.ts";
import type { DropboxAnswer, PutRequest } from "../../src/wire/dropbox.ts";
import { within } from "../within.ts";

/** How long taking back half a shard may keep the client from putting it elsewhere: milliseconds. */
const TAKE_BACK_MS = 10_000;
/** A box that moves nothing for this long is given up: milliseconds. */
const STALL_MS = 120_000;

export class ShardLane {
  readonly index: number;
  readonly #bento: Bento;
  readonly #target: { readonly box: string; readonly pack: Package; readonly request: PutRequest };
  #waiting: Uint8Array | undefined;
  #sealed = false;
  #failure: Error | undefined;
  #over = false;
  readonly #changes = new Changes();

  constructor(
    bento: Bento,
    target: {
      readonly index: number;
      readonly box: string;
      readonly writer: string;
      readonly partBytes: number;
      readonly pack: Package;
    },
  ) {
    const { index, box, writer, partBytes, pack } = target;
    this.index = index;
    this.#bento = bento;
    this.#target = { box, pack, request: { writer, gets: 0, bytes: 0, partBytes } };
  }

  /** Hands over the next record; resolves when the last one is on its way. At once when this shard has failed. */
  async push(record: Uint8Array): Promise<void> {
    while (this.#waiting && !this.#over) await this.#changes.next;
    if (this.#over) return;
    this.#waiting = record;
    this.#changes.notify();
  }

  /** No more records. */
  seal(): void {
    this.#sealed = true;
    this.#changes.notify();
  }

  fail(error: unknown): void {
    this.#failure ??= error instanceof Error ? error : new Error(String(error));
    this.#changes.notify();
  }

  /** Resolves when the shard is whole at its box. */
  async run() {
    const { box, pack, request } = this.#target;
    let deployment: Deployment | undefined;
    let session: FarSession | undefined;
    try {
      session = await this.#bento.run(box, pack, { args: ["put", request] });
      deployment = session.deployment;
      const sealed = this.#awaitSealed(session);
      sealed.catch((error: unknown) => this.fail(error));
      await this.#sendAll(session);
      await within(STALL_MS, sealed, stalled);
      if (!deployment) throw new Error("the box gave no tokens");
      const { invocationToken, shutdownToken, expiresAt } = deployment;
      return { index: this.index, invocationToken, shutdownToken, expiresAt };
    } catch (error) {
      if (deployment) await this.#takeBack(deployment);
      throw error;
    } finally {
      this.#over = true;
      this.#changes.notify();
      await session?.detach().catch(() => undefined);
    }
  }

  /** A box that died takes longer to be found so than its half is worth: it expires by itself. */
  async #takeBack({ shutdownToken }: Deployment): Promise<void> {
    const ended = this.#bento.shutdown(this.#target.box, shutdownToken).catch(() => undefined);
    await within(TAKE_BACK_MS, ended, () => undefined);
  }

  async #sendAll(session: FarSession): Promise<void> {
    for (;;) {
      if (this.#failure) throw this.#failure;
      // A message on its way when a connection broke may be lost, and the Dropbox would wait for it.
      if (session.interruptions > 0) throw new Error("the connection to the box broke");
      const record = this.#waiting;
      if (record) {
        await within(STALL_MS, session.send(record), stalled);
        this.#waiting = undefined;
        this.#changes.notify();
      } else if (this.#sealed) {
        await session.send(new Uint8Array());
        return;
      } else {
        await this.#changes.next;
      }
    }
  }

  async #awaitSealed(session: FarSession): Promise<void> {
    for await (const message of session) {
      const answer = JSON.parse(new TextDecoder().decode(message)) as DropboxAnswer;
      if ("sealed" in answer) return;
      if ("refused" in answer) throw new Error(`the Dropbox refuses: ${answer.refused}`);
    }
    throw new Error("the Dropbox ended early");
  }
}

function stalled(): never {
  throw new Error("the box does not go on");
}
