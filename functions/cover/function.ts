// Cover: a session at a constant rate of cells of one size, both ways, in which the session of another function of this
// box travels (docs/spec/cover.md). Idle or busy, the client's link looks the same.

import { defineFunction } from "bento/function";
import { coverSettings } from "../../src/wire/cover.ts";
import { CoverTunnel } from "../../src/wire/cover-tunnel.ts";
import { pacingClock } from "../../src/wire/pacing-clock.ts";
import { carry } from "./carry.ts";

export default defineFunction({
  /** `rate` of cells in bytes per second, each way. */
  async invoke(session, env, rate: unknown) {
    const { bento } = env;
    if (!bento) throw new Error("Cannot cover: the box grants no functions to this function");
    const tunnel = new CoverTunnel(coverSettings(Number(rate)));
    void readCells(session, tunnel);
    void carry(tunnel, bento);
    await tunnel.run({ clock: pacingClock, send: (cell) => session.send(cell), signal: session.signal });
  },
});

async function readCells(cells: AsyncIterable<Uint8Array>, tunnel: CoverTunnel): Promise<void> {
  try {
    for await (const cell of cells) tunnel.take(cell);
    tunnel.fail(new Error("the client has ended its cells"));
  } catch {
    // The tunnel has it, and ends.
  }
}
