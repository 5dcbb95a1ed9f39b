// The box's onion service: published in the background, kept published, retried with growing pauses while tor is
// down. The box serves all the while at its other addresses. Its key stays in the data directory, so the address
// stays the same.

import { join } from "node:path";
import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { ControlClient, type OnionPort } from "../tor/control-client.ts";
import { addOnionService, type OnionService, startSingleHopService } from "../tor/onion-service.ts";
import { TorProcess } from "../tor/process.ts";
import type { OnionConfig, SocketAddress, TorConfig } from "./config.ts";

/** Milliseconds between attempts: first, and longest. */
const RETRY = { firstMs: 2_000, longestMs: 300_000 } as const;

export interface OnionOptions {
  readonly config: Exclude<OnionConfig, { kind: "none" }>;
  readonly tor: TorConfig;
  /** Private directory for keys and the box's own tor. */
  readonly dir: string;
  /** Where the box listens. */
  readonly target: SocketAddress;
  /** The address when it is published, null when it is no longer. */
  readonly onAddress: (address: string | null) => void;
  readonly clock: Clock;
  readonly log: Log;
}

/** A published service and the news of its end. */
interface Published extends AsyncDisposable {
  readonly address: string;
  readonly lost: Promise<unknown>;
}

export class OnionPublisher implements AsyncDisposable {
  readonly #options: OnionOptions;
  readonly #stop = new AbortController();
  readonly #working: Promise<void>;

  constructor(options: OnionOptions) {
    this.#options = options;
    this.#working = this.#keepPublished();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error("the box is stopping"));
    await this.#working;
  }

  async #keepPublished(): Promise<void> {
    const { clock, log, onAddress } = this.#options;
    const { signal } = this.#stop;
    const stopped = new Promise<void>((resolve) => {
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    let retryMs: number = RETRY.firstMs;
    let hasComplained = false;
    while (!signal.aborted) {
      try {
        await using published = await this.#publish(signal);
        onAddress(published.address);
        log.info("onion service is published", { address: published.address });
        retryMs = RETRY.firstMs;
        hasComplained = false;
        await Promise.race([published.lost, stopped]);
        onAddress(null);
        if (signal.aborted) return;
        log.warn("tor is gone: the onion service will be published again");
        hasComplained = true;
      } catch (error) {
        if (signal.aborted) return;
        if (!hasComplained) log.warn("onion service cannot be published", { reason: messageOf(error) });
        hasComplained = true;
      }
      await clock.sleep(retryMs, signal).catch(() => undefined);
      retryMs = Math.min(retryMs * 2, RETRY.longestMs);
    }
  }

  async #publish(signal: AbortSignal): Promise<Published> {
    const { config, tor, dir } = this.#options;
    const ports = [{ virtualPort: config.port, target: targetText(this.#options.target) }];
    if (config.control) {
      await using undo = new AsyncDisposableStack();
      const at = config.control;
      const address = at.kind === "unix" ? { path: at.path } : { host: at.host, port: at.port };
      const control = undo.use(await ControlClient.connect(address, { signal }));
      return await throughControl(control, ports, { dir, undo, signal });
    }
    const torrc = tor.torrc === null ? [] : [`%include ${tor.torrc}`];
    if (config.kind === "single-hop") {
      const service = await startSingleHopService({ dir, ports, torrc, torPath: tor.program, signal });
      return {
        address: service.address,
        lost: service.process.exited,
        [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
      };
    }
    await using undo = new AsyncDisposableStack();
    const lines = [...torrc, `DataDirectory ${join(dir, "data")}`, "Log notice stdout", "SocksPort 0"];
    const daemon = undo.use(
      await TorProcess.start({ dir, torrc: lines.join("\n"), torPath: tor.program, signal }),
    );
    const control = undo.use(await daemon.connect({ signal }));
    await control.awaitBootstrap({ signal });
    return await throughControl(control, ports, { dir, undo, signal });
  }
}

async function throughControl(
  control: ControlClient,
  ports: readonly OnionPort[],
  options: { dir: string; undo: AsyncDisposableStack; signal: AbortSignal },
): Promise<Published> {
  const { dir, undo, signal } = options;
  const service: OnionService = undo.use(
    await addOnionService(control, { ports, keyPath: join(dir, "key"), signal }),
  );
  const held = undo.move();
  return {
    address: service.address,
    lost: control.closed,
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  };
}

function targetText(address: SocketAddress): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  return address.host.includes(":") ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}
