// A function behind constant-rate cover: an instance of the Cover function carries the session of another function in
// cells of one size at one rate, both ways, from its first moment to its last. Whoever sees the client's link sees
// that cover is used, at what rate and for how long; not what for (docs/spec/cover.md).

import { systemClock } from "../base/clock.ts";
import { BentoError } from "../base/errors.ts";
import type { Invocation } from "../wire/api.ts";
import { coverSettings } from "../wire/cover.ts";
import { CoverTunnel } from "../wire/cover-tunnel.ts";
import { encodeClientFrame } from "../wire/session-frame.ts";
import type { BoxClient, Runnable, SessionCallOptions } from "./client.ts";
import type { Link } from "./link.ts";
import { readAttached, Session } from "./session.ts";

/** A covered session lasts a multiple of this: its end says little about when the function inside was done. */
export const COVER_UNIT_MS = 30_000;

export interface CoverOptions extends SessionCallOptions {
  /** Bytes of cells per second, each way. */
  readonly rate: number;
  /** The package of the Cover function. */
  readonly cover: Runnable;
  /** The session lasts a multiple of this: milliseconds. */
  readonly unitMs?: number;
  readonly endInput?: boolean | undefined;
}

/** Fractions of a millisecond, and no jump when somebody sets the clock. */
const paceClock = {
  now: () => performance.now(),
  sleep: (delayMs: number, signal?: AbortSignal) => systemClock.sleep(delayMs, signal),
};

/** A covered session. Dispose it to end the cover at once, which shows; `finished` ends it at its unit. */
export class CoveredSession implements AsyncDisposable {
  /** The covered function's session, as without cover. Its offsets cannot be attached to again. */
  readonly session: Session;
  /** The Cover function's own. */
  readonly outer: Session;
  readonly #tunnel: CoverTunnel;
  readonly #running: Promise<void>;
  readonly #unitMs: number;
  readonly #startedMs: number;
  readonly #stop: AbortController;

  private constructor(parts: {
    session: Session;
    outer: Session;
    tunnel: CoverTunnel;
    running: Promise<void>;
    unitMs: number;
    startedMs: number;
    stop: AbortController;
  }) {
    this.session = parts.session;
    this.outer = parts.outer;
    this.#tunnel = parts.tunnel;
    this.#running = parts.running;
    this.#unitMs = parts.unitMs;
    this.#startedMs = parts.startedMs;
    this.#stop = parts.stop;
  }

  /** Starts the cover, and the function inside it. */
  static async start(
    client: BoxClient,
    what: Runnable,
    invocation: Invocation,
    options: CoverOptions,
  ): Promise<CoveredSession> {
    const settings = coverSettings(options.rate);
    const outer = await client.run(options.cover, { args: [settings.rate] }, { signal: options.signal });
    const stop = new AbortController();
    const startedMs = performance.now();
    const tunnel = new CoverTunnel(settings);
    const running = runTunnel(tunnel, outer, stop.signal);
    running.catch(() => undefined);
    try {
      tunnel.begin({
        ...("token" in what ? { token: what.token } : {}),
        start: { invocation, ...("package" in what ? { package: what.package } : {}) },
      });
      const link = new TunnelLink(tunnel);
      if (options.endInput) await link.send(encodeClientFrame({ kind: "input-end" }));
      const attached = await readAttached(link);
      const session = new Session(link, attached, {
        clock: systemClock,
        onEvent: options.onEvent,
        reattach: () => {
          throw new BentoError("connection-lost", "Cannot attach again: the cover is gone");
        },
      });
      const unitMs = options.unitMs ?? COVER_UNIT_MS;
      return new CoveredSession({ session, outer, tunnel, running, unitMs, startedMs, stop });
    } catch (error) {
      stop.abort(error);
      await outer.detach();
      throw error;
    }
  }

  /** Milliseconds until the cover may end, if it were to end now. */
  get leftMs(): number {
    const elapsedMs = performance.now() - this.#startedMs;
    return this.#unitMs - (elapsedMs % this.#unitMs);
  }

  /** Keeps the cover up to the end of its unit, then ends it at both ends. */
  async finish(signal?: AbortSignal): Promise<void> {
    await systemClock.sleep(this.leftMs, signal);
    this.#tunnel.end();
    await this.#running;
    await this.outer.drain();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new BentoError("closed", "The cover has ended"));
    await this.#running.catch(() => undefined);
    await this.outer.detach();
  }
}

/** Cells both ways until the end. */
async function runTunnel(tunnel: CoverTunnel, outer: Session, signal: AbortSignal): Promise<void> {
  const reading = (async () => {
    try {
      for await (const cell of outer) tunnel.take(cell);
      tunnel.fail(new BentoError("connection-lost", "The cover has ended"));
    } catch (error) {
      tunnel.fail(error);
    }
  })();
  reading.catch(() => undefined);
  try {
    await tunnel.run({ clock: paceClock, send: (cell) => outer.send(cell), signal });
  } catch (error) {
    tunnel.fail(error);
    throw error;
  }
}

/** Session frames through the tunnel. */
class TunnelLink implements Link {
  readonly #tunnel: CoverTunnel;

  constructor(tunnel: CoverTunnel) {
    this.#tunnel = tunnel;
  }

  receive(): Promise<Uint8Array | undefined> {
    return this.#tunnel.receive();
  }

  send(frame: Uint8Array): Promise<void> {
    return this.#tunnel.send(frame);
  }

  finish(): void {}

  async leave(): Promise<void> {}

  destroy(): void {}
}
