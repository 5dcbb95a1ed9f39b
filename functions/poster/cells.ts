// Cells on one stream: a fixed number of them out at a constant rate, and whatever comes back counted and dropped.

import type { TorConnection } from "bento/function";
import { CellSchedule, cellIntervalMs, pace } from "../../src/wire/pace.ts";
import { pacingClock } from "../../src/wire/pacing-clock.ts";
import type { PosterRequest } from "../../src/wire/poster.ts";

/** Sends `count` cells of noise. What the other end is slow to take makes the rest later, never faster. */
export async function sendCells(
  connection: TorConnection,
  { rate, cellBytes }: PosterRequest,
  options: { readonly count: number; readonly signal: AbortSignal; readonly onSent: () => void },
): Promise<void> {
  const { count, signal, onSent } = options;
  const writer = connection.writable.getWriter();
  let left = count;
  try {
    await pace({
      clock: pacingClock,
      schedule: new CellSchedule(cellIntervalMs(cellBytes, rate), pacingClock.now()),
      next: () => (left-- > 0 ? crypto.getRandomValues(new Uint8Array(cellBytes)) : undefined),
      send: async (cell) => {
        await writer.write(cell);
        onSent();
      },
      signal,
    });
  } finally {
    writer.releaseLock();
  }
}

/** Reads to the end, or until `enough`. */
export async function countBytes(
  connection: TorConnection,
  onBytes: (count: number) => void,
  enough: () => boolean,
): Promise<void> {
  // Not iterated: leaving a loop would cancel the stream, and close the connection with it.
  const reader = connection.readable.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      onBytes(value.length);
      if (enough()) return;
    }
  } finally {
    reader.releaseLock();
  }
}
