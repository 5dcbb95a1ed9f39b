// Which test files run side by side, and in which order. A machine of two cores carries three at a time, since most of
// them wait: for networks, for timeouts, for each other's processes. Pure but for what `sideBySide` is given to run.

/** Files side by side beyond one for each core. */
const EXTRA_FILES = 1;
const CORES_MAX = 8;

/**
 * Files that keep both cores of such a machine busy, or watch the time: each takes the room of two. Beside one of them runs
 * one other file.
 */
const HEAVY: ReadonlySet<string> = new Set([
  "test/escape/box-limits.test.ts",
  "test/escape/chromium.test.ts",
  "test/integration/browser-rendered.test.ts",
  "test/integration/browser-rendering.test.ts",
  "test/integration/browser-shape.test.ts",
  "test/integration/browser-trace.test.ts",
  "test/integration/cover.test.ts",
]);

/** What takes long: seconds, about, on an idle machine. It starts first, so that nothing long is left for the end. */
const SECONDS: Readonly<Record<string, number>> = {
  "test/docs/quick-start.test.ts": 85,
  "test/integration/dropbox-failures.test.ts": 80,
  "test/integration/shard-failures.test.ts": 75,
  "test/integration/browser-trace.test.ts": 65,
  "test/integration/testnet.test.ts": 65,
  "test/integration/cli-fn.test.ts": 50,
  "test/integration/cli-network.test.ts": 45,
  "test/integration/lb-commands.test.ts": 45,
  "test/integration/load-balancer.test.ts": 45,
  "test/integration/load-balancer-boxes.test.ts": 40,
  "test/integration/function-relays.test.ts": 35,
  "test/integration/later.test.ts": 35,
  "test/integration/onion.test.ts": 35,
  "test/integration/function-tor.test.ts": 30,
  "test/integration/cli-commands.test.ts": 30,
  "test/integration/cover.test.ts": 30,
  "test/integration/shard.test.ts": 30,
  "test/integration/tor.test.ts": 25,
  "test/integration/bento-network.test.ts": 20,
  "test/integration/box-kill.test.ts": 20,
  "test/integration/dropbox.test.ts": 20,
  "test/integration/poster.test.ts": 20,
};

/** Room for files on a machine with so many cores. */
export function roomOn(cores: number): number {
  return Math.min(cores, CORES_MAX) + EXTRA_FILES;
}

export interface Placed {
  /** Relative to the root, with forward slashes. */
  readonly file: string;
  readonly room: number;
}

/** The order in which to start them. What needs more room comes first: later it would wait for two places at once. */
export function placed(files: readonly string[]): Placed[] {
  const seconds = (file: string) => SECONDS[file] ?? 0;
  return files
    .map((file) => ({ file, room: HEAVY.has(file) ? 2 : 1 }))
    .sort((a, b) => b.room - a.room || seconds(b.file) - seconds(a.file) || (a.file < b.file ? -1 : 1));
}

/** Files that the tables name: a test looks whether they exist. */
export const NAMED: readonly string[] = [...HEAVY, ...Object.keys(SECONDS)];

/**
 * Runs all of them, each as soon as there is room for it: the first that fits. Rejects with the first error, after what runs
 * has ended; then nothing more starts.
 */
export async function sideBySide(
  files: readonly Placed[],
  room: number,
  run: (file: string) => Promise<void>,
): Promise<void> {
  const waiting = [...files];
  const running = new Map<Placed, Promise<void>>();
  const errors: unknown[] = [];
  let free = room;
  const perform = async (one: Placed, taken: number): Promise<void> => {
    try {
      await run(one.file);
    } catch (error) {
      errors.push(error);
    }
    free += taken;
    running.delete(one);
  };
  while (running.size > 0 || (waiting.length > 0 && errors.length === 0)) {
    // What needs more than there is runs alone.
    const next = waiting.findIndex((one) => Math.min(one.room, room) <= free);
    const [one] = next < 0 || errors.length > 0 ? [] : waiting.splice(next, 1);
    if (one) {
      const taken = Math.min(one.room, room);
      free -= taken;
      running.set(one, perform(one, taken));
    } else {
      await Promise.race(running.values());
    }
  }
  if (errors.length > 0) throw errors[0];
}
