// Joins a connection of the box to the byte stream of a guest's call, both ways, each as fast as its receiver.

import type { Duplex } from "node:stream";
import { finished } from "node:stream/promises";
import type { OpenCall } from "./guest-call-state.ts";
import type { HeldValue } from "./services.ts";

/** How a call talks back. */
export interface CallAnswer {
  /** The one answer. */
  reply(result: unknown): void;
  /** Ends the box's direction of the call's stream. */
  dataEnd(): void;
  /**
   * Makes a stored value a message to the client, behind all output so far, and takes it over. Resolves when the
   * client has taken it.
   */
  output(value: HeldValue): Promise<void>;
}

/** Until both directions have ended. */
export async function relay(connection: Duplex, open: OpenCall, answer: CallAnswer): Promise<void> {
  const done = finished(connection);
  done.catch(() => {
    /* awaited below; an earlier error comes through the reading side first */
  });
  open.connectSink({
    data(bytes, taken) {
      connection.write(bytes, () => taken());
    },
    end() {
      connection.end();
    },
  });
  for await (const chunk of connection.iterator({ destroyOnReturn: false })) {
    await open.send(chunk as Uint8Array);
  }
  answer.dataEnd();
  await done;
}
