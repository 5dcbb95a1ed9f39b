// What the monitor function reports, as a page for a terminal: one line a fact, with its course over the last
// minutes. Pure. The box is not trusted: only numbers of the expected shape are drawn, and a history is bounded.

import { z } from "zod";
import { formatBytes } from "../../base/bytes.ts";

/** Measurements that the course shows. */
export const HISTORY_MAX = 60;
const LEVELS = "▁▂▃▄▅▆▇█";

const amount = z.number().nonnegative().finite();

/** One measurement as the function sends it; facts that the policy does not reveal are absent. */
export const measurementSchema = z.object({
  time: amount,
  load: z
    .object({
      average: z.array(amount).length(3),
      cores: amount,
      busyPercent: amount.max(100).nullable(),
    })
    .optional(),
  memory: z
    .object({ totalBytes: amount, freeBytes: amount, promisedBytes: amount, limitBytes: amount })
    .optional(),
  disk: z
    .object({ totalBytes: amount, freeBytes: amount, storageBytes: amount, storageLimitBytes: amount })
    .optional(),
  network: z.object({ connections: amount, receivedBytes: amount, sentBytes: amount }).optional(),
  instances: z.object({ running: amount, limit: amount }).optional(),
});
export type Measurement = z.infer<typeof measurementSchema>;

/** Lines of the page, oldest measurement first; empty without one. */
export function monitorLines(history: readonly Measurement[]): string[] {
  const last = history.at(-1);
  if (!last) return [];
  const shown = history.slice(-HISTORY_MAX);
  const lines: string[] = [];
  const add = (name: string, values: readonly (number | undefined)[], text: string) => {
    lines.push(`${name.padEnd(10)} ${course(values).padEnd(HISTORY_MAX)}  ${text}`);
  };
  if (last.load) {
    const { average, cores, busyPercent } = last.load;
    const busy = busyPercent === null ? "" : `${busyPercent} % busy, `;
    const text = `${busy}load ${average.map((value) => value.toFixed(2)).join(" ")} on ${cores} cores`;
    add(
      "processor",
      shown.map(({ load }) => (load?.busyPercent ?? 0) / 100),
      text,
    );
  }
  if (last.memory) {
    const { totalBytes, freeBytes, promisedBytes, limitBytes } = last.memory;
    const used = `${formatBytes(totalBytes - freeBytes)} of ${formatBytes(totalBytes)}`;
    const text = `${used}; promised to functions ${formatBytes(promisedBytes)} of ${formatBytes(limitBytes)}`;
    add(
      "memory",
      shown.map(({ memory }) => memory && share(memory.totalBytes - memory.freeBytes, memory.totalBytes)),
      text,
    );
  }
  if (last.disk) {
    const { totalBytes, freeBytes, storageBytes, storageLimitBytes } = last.disk;
    const used = `${formatBytes(totalBytes - freeBytes)} of ${formatBytes(totalBytes)}`;
    const text = `${used}; stored by functions ${formatBytes(storageBytes)} of ${formatBytes(storageLimitBytes)}`;
    add(
      "disk",
      shown.map(({ disk }) => disk && share(disk.totalBytes - disk.freeBytes, disk.totalBytes)),
      text,
    );
  }
  if (last.network) {
    const rates = ratesOf(shown);
    const most = Math.max(1, ...rates.map((value) => value ?? 0));
    const { connections, receivedBytes, sentBytes } = last.network;
    const text = `${formatBytes(rates.at(-1) ?? 0)}/s; ${connections} connections, ${formatBytes(receivedBytes)} in, ${formatBytes(sentBytes)} out`;
    add(
      "network",
      rates.map((value) => value && value / most),
      text,
    );
  }
  if (last.instances) {
    const { running, limit } = last.instances;
    add(
      "instances",
      shown.map(({ instances }) => instances && share(instances.running, instances.limit)),
      `${running} of ${limit}`,
    );
  }
  return lines;
}

function share(part: number, whole: number): number {
  return whole > 0 ? part / whole : 0;
}

/** Bytes a second, both ways, between neighbours; undefined where there is none to compare with. */
function ratesOf(history: readonly Measurement[]): (number | undefined)[] {
  return history.map((now, index) => {
    const before = history[index - 1];
    if (!before?.network || !now.network || now.time <= before.time) return undefined;
    const bytes =
      now.network.receivedBytes +
      now.network.sentBytes -
      before.network.receivedBytes -
      before.network.sentBytes;
    // A box that was started again counts from zero.
    return Math.max(0, Math.round((1000 * bytes) / (now.time - before.time)));
  });
}

/** Values from 0 to 1 as a row of blocks; a gap where a value is missing. */
function course(values: readonly (number | undefined)[]): string {
  return values
    .map((value) => {
      if (value === undefined) return " ";
      const level = Math.min(LEVELS.length - 1, Math.floor(Math.max(0, value) * LEVELS.length));
      return LEVELS[level];
    })
    .join("");
}
