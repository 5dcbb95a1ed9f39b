// What an observer of one link of a private network saw: reads the trace files that link proxies write (link-proxy.ts).

import { readFile } from "node:fs/promises";

export interface LinkChunk {
  readonly unixMs: number;
  /** Seen from the relay: "in" towards it. */
  readonly direction: "in" | "out";
  readonly bytes: number;
}

/** The chunks of each connection of one relay, by the connection's number, in order of time. */
export async function readTrace(file: string): Promise<ReadonlyMap<string, readonly LinkChunk[]>> {
  const links = new Map<string, LinkChunk[]>();
  // Sample: 1795268545680	r0	127.0.0.1	7	in	536
  for (const line of (await readFile(file, "utf8")).split("\n").slice(1)) {
    const [unixMs, , , connection, direction, bytes] = line.split("\t");
    // The last line may be half written.
    if (bytes === undefined || connection === undefined || (direction !== "in" && direction !== "out"))
      continue;
    const chunks = links.get(connection) ?? [];
    chunks.push({ unixMs: Number(unixMs), direction, bytes: Number(bytes) });
    links.set(connection, chunks);
  }
  return links;
}

/** Bytes of one direction in each of `count` bins of `binMs` from `fromMs` on. */
export function bytesPerBin(
  chunks: readonly LinkChunk[],
  direction: "in" | "out",
  bins: { readonly fromMs: number; readonly binMs: number; readonly count: number },
): number[] {
  const totals = Array.from({ length: bins.count }, () => 0);
  for (const chunk of chunks) {
    const bin = Math.floor((chunk.unixMs - bins.fromMs) / bins.binMs);
    if (chunk.direction === direction && bin >= 0 && bin < bins.count) {
      totals[bin] = (totals[bin] ?? 0) + chunk.bytes;
    }
  }
  return totals;
}
