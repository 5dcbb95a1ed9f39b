// The box's own tor client: how functions leave the box through Tor (`env.bento`, `env.tor`), and whom the box believes
// about which relays there are (`env.relays`). A process apart from
// the relay and from the onion service's, so that nothing a function does can touch either, and so that exactly one
// controller decides over its streams. Started in the background, started again when it dies.

import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { orAborted } from "../base/abort.ts";
import type { Clock } from "../base/clock.ts";
import { BentoError, messageOf } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { ControlClient } from "../tor/control-client.ts";
import { TorFirewall } from "../tor/firewall/firewall.ts";
import { RelayDirectory } from "../tor/firewall/relay-directory.ts";
import { TorProcess } from "../tor/process.ts";
import type { SocksAddress } from "../tor/socks.ts";
import type { OnionConfig, TorConfig } from "./config.ts";

/** Milliseconds between attempts: first, and longest. */
const RETRY = { firstMs: 1_000, longestMs: 120_000 } as const;
/** unix(7): a socket's path with its closing zero; the longest name that we put into the directory. */
const SOCKET_PATH_BYTES_MAX = 108;
const SOCKET_NAME_BYTES_MAX = 24;

/** A running, bootstrapped client. */
export interface TorClient {
  /** Streams with different SOCKS credentials never share a circuit. */
  readonly socks: SocksAddress;
  /** A further control connection, authenticated. What is added through it ends with it. */
  connect(signal?: AbortSignal): Promise<ControlClient>;
  /** Resolves, never rejects, when this process is gone. */
  readonly exited: Promise<void>;
  /** Functions' way to it (`env.tor`); undefined where the policy grants none. While it is there, no one else may attach streams. */
  readonly firewall: TorFirewall | undefined;
  /** The consensus as this tor verified it. */
  readonly directory: RelayDirectory;
  /** v3idents of the network's authorities, 40 upper-case hex digits; empty: those of the public network. */
  readonly authorities: readonly string[];
}

/** Who chooses the first relay of functions' circuits: could they, an author's relay would learn a hidden box's address. */
export function firstHopOf(onion: Pick<OnionConfig, "kind">): "any" | "guard" {
  return onion.kind === "hidden" ? "guard" : "any";
}

export interface ClientTorOptions {
  readonly config: TorConfig;
  /** Private directory of this tor. */
  readonly dir: string;
  /** Whether functions may use it, and who chooses their circuits' first relay; null: they may not. */
  readonly firewall: { readonly firstHop: "any" | "guard" } | null;
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
        // Without the firewall nobody would attach streams any more: the two live and end together.
        await Promise.race([client.exited, stopped, ...(client.firewall ? [client.firewall.lost] : [])]);
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
    const { config, dir, clock, firewall } = this.#options;
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const socketDir = await socketDirectory(dir, undo);
    const path = join(socketDir, "socks");
    const torrc = [
      ...(config.torrc === null ? [] : [`%include ${config.torrc}`]),
      `DataDirectory ${join(dir, "data")}`,
      "Log notice stdout",
      // A socket in a directory of this user alone: other users of the machine cannot use the box's tor.
      `SocksPort unix:"${path}" ExtendedErrors`,
      // What a function sends goes out at once, and every stream is told apart by its owner's credentials.
      "ConfluxEnabled 0",
      "ShutdownWaitLength 0",
    ];
    const daemon = undo.use(
      await TorProcess.start({ dir, torrc: torrc.join("\n"), torPath: config.program, signal }),
    );
    const control = undo.use(await daemon.connect({ signal }));
    await control.awaitBootstrap({ signal });
    const connect = (wait?: AbortSignal) => daemon.connect(wait ? { signal: wait } : {});
    const socks = { path };
    const authorities = await authoritiesOf(control, signal);
    if (!firewall) {
      const directory = new RelayDirectory(control, clock);
      return { socks, connect, exited: daemon.exited, firewall: undefined, directory, authorities };
    }
    const own = await daemon.connect({ signal });
    const { firstHop } = firewall;
    const opened = undo.use(
      await TorFirewall.open({ control: own, connect, socks, socketDir, firstHop, clock }),
    );
    const { directory } = opened;
    return { socks, connect, exited: daemon.exited, firewall: opened, directory, authorities };
  }
}

// Sample: 250 DirAuthority=a0 orport=21000 no-v2 v3ident=0123..(40) 127.1.1.1:21001 4567..(40); "250 DirAuthority": none given
async function authoritiesOf(control: ControlClient, signal: AbortSignal): Promise<readonly string[]> {
  const conf = await control.getConf(["DirAuthority", "AlternateDirAuthority"], { signal });
  const lines = [...conf.DirAuthority, ...conf.AlternateDirAuthority];
  return lines.flatMap((line) => /\bv3ident=([0-9A-Fa-f]{40})\b/u.exec(line)?.[1]?.toUpperCase() ?? []);
}

/** Below `dir` where paths may be so long, else in the system's place for temporary files. Empty, mode 700. */
async function socketDirectory(dir: string, undo: AsyncDisposableStack): Promise<string> {
  const near = join(dir, "s");
  const isShort = Buffer.byteLength(near) + 1 + SOCKET_NAME_BYTES_MAX < SOCKET_PATH_BYTES_MAX;
  // Those of a box that was killed.
  if (isShort) await rm(near, { recursive: true, force: true });
  if (isShort) await mkdir(near, { mode: 0o700 });
  const made = isShort ? near : await mkdtemp(join(tmpdir(), "bento-tor-"));
  undo.defer(async () => {
    await rm(made, { recursive: true, force: true });
  });
  return made;
}
