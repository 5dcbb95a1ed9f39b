// An answer that waited in a Dropbox (spec/later 3): the function's output, and at its end how it ended. It was sealed by
// a box that is not trusted: what its end says is checked.

import { ByteQueue } from "../../base/byte-queue.ts";
import { fromUtf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { type Outcome, outcomeSchema } from "../../wire/api.ts";
import { ANSWER_END_BYTES } from "../../wire/later.ts";

export class Answer {
  #outcome: Outcome | undefined;

  /** How the function ended; undefined before `output` has ended. */
  get outcome(): Outcome | undefined {
    return this.#outcome;
  }

  /** The output in `content`, the bytes of the opened file. Throws ProtocolError "bad-answer" when that has no end. */
  async *output(content: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    const queue = new ByteQueue();
    for await (const piece of content) {
      queue.push(piece);
      const bytes = queue.take(Math.max(0, queue.length - ANSWER_END_BYTES));
      if (bytes && bytes.length > 0) yield bytes;
    }
    this.#outcome = parseEnd(queue.take(queue.length) ?? new Uint8Array());
  }
}

function parseEnd(bytes: Uint8Array): Outcome {
  try {
    if (bytes.length !== ANSWER_END_BYTES) throw new RangeError("too short");
    return outcomeSchema.parse(JSON.parse(fromUtf8(bytes)));
  } catch (cause) {
    throw new ProtocolError("bad-answer", "Cannot read answer: it does not say how the function ended", {
      cause,
    });
  }
}
