// User ids for the boxes of a test file. Files run side by side, and each is a process: so each has its own.

import type { Uids } from "./spawned-box.ts";

const FIRST = 10_000_000;
const EACH = 1000;
/** Processes that run at one time have numbers that differ by less. */
const PROCESSES = 10_000;

/** Of this process's own 1000 ids, `count` after the first `from`. Whoever asks twice asks for other ones. */
export function ownUids(count: number, from = 0): Uids {
  if (from + count > EACH) throw new RangeError(`a process has ${EACH} user ids`);
  return { first: FIRST + (process.pid % PROCESSES) * EACH + from, count };
}

/** As box.toml has it: "20000-20099". */
export function uidText({ first, count }: Uids): string {
  return `${first}-${first + count - 1}`;
}
