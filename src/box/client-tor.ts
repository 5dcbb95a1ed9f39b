// The box's own tor client: how functions leave the box through Tor (`env.bento`, `env.tor`). A process apart from
// the relay and from the onion service's, so that nothing a function does can touch either, and so that exactly one
// controller decides over its streams. Started in the background, started again when it dies.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { orAborted } from "../base/abort.ts";
import type { Clock } from "../base/clock.ts";
import { BentoError, messageOf } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { ControlClient } from "../tor/control-client.ts";
import { TorProcess } from "../tor/process.ts";
import type { SocksAddress } from "../tor/socks.ts";
import type { TorConfig } from "./config.ts";

/** Milliseconds between attempts: first, and longest. */
const RETRY = { firstMs: 1_000, longestMs: 120_000 } as const;

/** A running, bootstrapped client. */
export interface TorClient {
  /** Streams with different SOCKS credentials never share a circuit. */
  readonly socks: SocksAddress;
  /** A further control connection, authenticated. What is added through it ends with it. */
  connect(signal?: AbortSignal): Promise<ControlClient>;
  /** Resolves, never rejects, when this process is gone. */
  readonly exited: Promise<void>;
}

export interface ClientTorOptions {
  readonly config: TorConfig;
  /** Private directory of this tor. */
  readonly dir: string;
  readonly clock: Clock;
  readonly log: Log;
}

export class ClientTor implements AsyncDisposable {
  readonly #options: ClientTorOptions;
  readonly #stop = new AbortController();
  #running = Promise.withResolvers<TorClient>();
  readonly #working: Promise<void>;

  constructor(options: ClientTorOptions) {
    this.#options = options;
    this.#working = this.#keepRunning();
  }

  /** Waits until tor has bootstrapped. Throws the signal's reason, or BentoError "closed" when the box stops first. */
  async client(signal: AbortSignal): Promise<TorClient> {
    return await orAborted(this.#running.promise, AbortSignal.any([signal, this.#stop.signal]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new BentoError("closed", "Cannot use tor: the box is stopping"));
    await this.#working;
  }

  async #keepRunning(): Promise<void> {
    const { clock, log } = this.#options;
    const { signal } = this.#stop;
    const stopped = new Promise<void>((resolve) => {
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    let retryMs: number = RETRY.firstMs;
    while (!signal.aborted) {
      try {
        await using undo = new AsyncDisposableStack();
        const client = await this.#start(undo, signal);
        this.#running.resolve(client);
        retryMs = RETRY.firstMs;
        await Promise.race([client.exited, stopped]);
        this.#running = Promise.withResolvers();
        if (!signal.aborted) log.warn("the box's tor client is gone: it is started again");
      } catch (error) {
        if (signal.aborted) return;
        log.warn("the box's tor client does not start", { reason: messageOf(error) });
      }
      if (signal.aborted) return;
      await clock.sleep(retryMs, signal).catch(() => undefined);
      retryMs = Math.min(retryMs * 2, RETRY.longestMs);
    }
  }

  async #start(undo: AsyncDisposableStack, signal: AbortSignal): Promise<TorClient> {
    const { config, dir } = this.#options;
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const torrc = [
      ...(config.torrc === null ? [] : [`%include ${config.torrc}`]),
      `DataDirectory ${join(dir, "data")}`,
      "Log notice stdout",
      // On loopback at a port that the system chooses: paths of Unix sockets may be too long here (unix(7)).
      "SocksPort 127.0.0.1:auto ExtendedErrors",
      // What a function sends goes out at once, and every stream is told apart by its owner's credentials.
      "ConfluxEnabled 0",
      "ShutdownWaitLength 0",
    ];
    const daemon = undo.use(
      await TorProcess.start({ dir, torrc: torrc.join("\n"), torPath: config.program, signal }),
    );
    const control = undo.use(await daemon.connect({ signal }));
    await control.awaitBootstrap({ signal });
    return {
      socks: await socksOf(control, signal),
      connect: (wait) => daemon.connect(wait ? { signal: wait } : {}),
      exited: daemon.exited,
    };
  }
}

// Sample of GETINFO net/listeners/socks: "127.0.0.1:9050" "unix:/run/tor/socks"
async function socksOf(control: ControlClient, signal: AbortSignal): Promise<SocksAddress> {
  const answer = await control.getInfo(["net/listeners/socks"], { signal });
  const [, host, port] = /"(127\.0\.0\.1):(\d{1,5})"/.exec(answer["net/listeners/socks"]) ?? [];
  if (host === undefined) throw new BentoError("tor-start-failed", "Cannot use tor: it has no SOCKS port");
  return { host, port: Number(port) };
}
