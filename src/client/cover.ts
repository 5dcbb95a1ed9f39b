// Constant-rate cover on the way to a box: an instance of the Cover function, in whose cells the session of another
// function may travel. Whoever sees the client's link sees that cover is used, at what rate and for how long; not
// what for, nor whether for anything (docs/spec/cover.md).

import { systemClock } from "../base/clock.ts";
import { BentoError } from "../base/errors.ts";
import type { Invocation } from "../wire/api.ts";
import { coverSettings } from "../wire/cover.ts";
import { CoverTunnel } from "../wire/cover-tunnel.ts";
import { pacingClock } from "../wire/pacing-clock.ts";
import { encodeClientFrame } from "../wire/session-frame.ts";
import type { BoxClient, CallOptions, Runnable, SessionCallOptions } from "./client.ts";
import type { Link } from "./link.ts";
import { readAttached, Session } from "./session.ts";

/** Cover lasts a multiple of this: its end says little about when what was inside ended. */
export const COVER_UNIT_MS = 30_000;

export interface CoverOptions extends CallOptions {
  /** Bytes of cells per second, each way. */
  readonly rate: number;
  /** The Cover function. */
  readonly cover: Runnable;
  /** The cover lasts a multiple of this: milliseconds. */
  readonly unitMs?: number;
}

/** Cells both ways, from `start` on. Dispose it to end them at once, which shows; `finish` ends them at their unit. */
export class Cover implements AsyncDisposable {
  /** The Cover function's own session: its output are cells. */
  readonly outer: Session;
  readonly #tunnel: CoverTunnel;
  readonly #running: Promise<void>;
  readonly #unitMs: number;
  readonly #startedMs = performance.now();
  readonly #stop = new AbortController();

  private constructor(outer: Session, tunnel: CoverTunnel, unitMs: number) {
    this.outer = outer;
    this.#tunnel = tunnel;
    this.#unitMs = unitMs;
    this.#running = this.#run();
    this.#running.catch(() => undefined);
    void this.#read();
  }

  /** Throws RangeError on a rate out of range, else what `BoxClient.run` throws. */
  static async start(client: BoxClient, options: CoverOptions): Promise<Cover> {
    const settings = coverSettings(options.rate);
    const outer = await client.run(
      options.cover,
      { args: [settings.rate] },
      // Some cells were under way when a connection broke, and without them nothing fits (spec/cover 2).
      { signal: options.signal, steadyAcks: true, endsWithConnection: true },
    );
    return new Cover(outer, new CoverTunnel(settings), options.unitMs ?? COVER_UNIT_MS);
  }

  /**
   * Runs one function of this box inside the cover, once. Its session is as without cover, but cannot be attached to
   * again when the cover is gone; a package that was sent along ends with the cover.
   */
  async run(
    what: Runnable,
    invocation: Invocation,
    options: SessionCallOptions & { readonly endInput?: boolean | undefined } = {},
  ): Promise<Session> {
    const link = new TunnelLink(this.#tunnel);
    this.#tunnel.begin({
      ...("token" in what ? { token: what.token } : {}),
      start: { invocation, ...("package" in what ? { package: what.package } : {}) },
    });
    if (options.endInput) await link.send(encodeClientFrame({ kind: "input-end" }));
    const { onEvent } = options;
    return new Session(link, await readAttached(link), { clock: systemClock, onEvent });
  }

  /** Milliseconds until the cover may end. */
  get leftMs(): number {
    return this.#unitMs - ((performance.now() - this.#startedMs) % this.#unitMs);
  }

  /** Keeps the cover up to the end of its unit, then ends it at both ends. Throws why it ended before. */
  async finish(signal?: AbortSignal): Promise<void> {
    const over = new AbortController();
    const ended = this.#running.then(() => true);
    const inTime = systemClock.sleep(
      this.leftMs,
      AbortSignal.any([over.signal, ...(signal ? [signal] : [])]),
    );
    let isEarly: boolean;
    try {
      isEarly = await Promise.race([inTime.then(() => false), ended]);
    } finally {
      over.abort();
      inTime.catch(() => undefined);
    }
    this.#tunnel.end();
    await this.#running;
    const outcome = await this.outer.drain().catch((error: unknown) => {
      throw coverGone(error);
    });
    if (outcome.kind !== "returned") {
      const why = outcome.kind === "failed" ? outcome.message : outcome.reason;
      throw new BentoError("function-failed", `The cover has ended: the box says ${why}`);
    }
    if (isEarly) throw coverGone(undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new BentoError("closed", "The cover has ended"));
    await this.#running.catch(() => undefined);
    await this.outer.detach();
  }

  async #run(): Promise<void> {
    try {
      await this.#tunnel.run({
        clock: pacingClock,
        send: (cell) => this.outer.send(cell),
        signal: this.#stop.signal,
      });
    } catch (error) {
      const gone = coverGone(error);
      this.#tunnel.fail(gone);
      throw gone;
    }
  }

  async #read(): Promise<void> {
    try {
      for await (const cell of this.outer) this.#tunnel.take(cell);
      this.#tunnel.fail(coverGone(undefined));
    } catch (error) {
      this.#tunnel.fail(coverGone(error));
    }
  }
}

/** What a lost connection means here; anything else as it is. */
function coverGone(cause: unknown): unknown {
  const isLost =
    cause === undefined ||
    (cause instanceof BentoError && ["connection-lost", "input-lost", "detached"].includes(cause.code));
  if (!isLost) return cause;
  return new BentoError(
    "connection-lost",
    "Connection lost: the cover has ended, and what went on inside it",
    {
      cause,
    },
  );
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

  // What is left unsaid goes with the cover, whose end is its own.
  finish(): void {}
  async leave(): Promise<void> {}
  destroy(): void {}
}
