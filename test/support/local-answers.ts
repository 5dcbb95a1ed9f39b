// What a box does with the output of a function that shapes it, without a box: for tests that run a function's code in
// their own process. Cells go to the test, one at a time, as to a receiver that takes each before the next.

import { GuestAnswers } from "../../src/box/host/guest-answers.ts";
import type { AnswerShape, Answers } from "../../src/guest/function.ts";
import { CELL_BYTES } from "../../src/wire/browse.ts";
import { guestFrameCost } from "../../src/wire/guest-frame.ts";
import { pacingClock } from "../../src/wire/pacing-clock.ts";

const never = new AbortController().signal;

export class LocalAnswers {
  readonly #answers: GuestAnswers;
  readonly #receive: (bytes: Uint8Array) => Promise<void>;

  /** @param receive takes each cell, or each message where there is no shape. */
  constructor(receive: (bytes: Uint8Array) => Promise<void>) {
    this.#receive = receive;
    this.#answers = new GuestAnswers({
      clock: pacingClock,
      windowBytes: guestFrameCost(CELL_BYTES),
      onCell: (cell, cost) => void this.#pass(cell, cost),
      onConsumed: () => undefined,
    });
  }

  async #pass(cell: Uint8Array, cost: number): Promise<void> {
    await this.#receive(cell);
    this.#answers.credit(cost);
  }

  /** Before a message is handed to the function. */
  ask(): void {
    this.#answers.ask();
  }

  /** `session.send`. */
  readonly send = async (bytes: Uint8Array): Promise<void> => {
    if (!this.#answers.take(Uint8Array.from(bytes))) await this.#receive(bytes);
  };

  /** `session.shape`. */
  readonly shape = async (shape: AnswerShape): Promise<Answers> => {
    const answers = this.#answers;
    answers.shape(shape);
    return {
      room: async () => answers.room(),
      finish: () => answers.finish(never),
      ended: () => answers.ended(never),
    };
  };
}
