// C tor's own onion service in a process of its own: the yardstick, and OnionBalance's backends. Its only guard is one
// given relay, so that it stands where a box would.

import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Testnet, TestnetNode } from "../../src/testnet/testnet.ts";
import { TorProcess } from "../../src/tor/process.ts";

export interface TorServiceOptions {
  readonly dir: string;
  readonly testnet: Testnet;
  /** Its only guard. */
  readonly guard: TestnetNode;
  readonly target: { readonly host: string; readonly port: number };
  /** For a backend of OnionBalance: the address in front of it. */
  readonly masterAddress?: string;
  /** Tor's own scheduler keeps queues out of the kernel, and adds up to 10 ms; the network's tors send at once. */
  readonly usesKist?: boolean;
  readonly signal: AbortSignal;
}

export interface TorService extends AsyncDisposable {
  readonly address: string;
  readonly process: TorProcess;
}

/** Resolves when its descriptor is out. */
export async function startTorService(options: TorServiceOptions): Promise<TorService> {
  const { dir, testnet, guard, target, signal } = options;
  const serviceDir = join(dir, "service");
  await mkdir(serviceDir, { recursive: true, mode: 0o700 });
  const isBackend = options.masterAddress !== undefined;
  if (isBackend)
    await writeFile(join(serviceDir, "ob_config"), `MasterOnionAddress ${options.masterAddress}\n`, {
      mode: 0o600,
    });
  const daemon = await TorProcess.start({
    dir,
    torrc: [
      ...testnet.joinTorrc.filter((line) => !options.usesKist || line !== "Schedulers Vanilla"),
      `DataDirectory ${join(dir, "data")}`,
      "Log notice stdout",
      "SocksPort 0",
      // The one way to say which relay is the only guard: `EntryNodes` wants two, with the flag Stable, which new relays
      // have only by chance. To tor, any relay can be a bridge.
      "UseBridges 1",
      `Bridge ${guard.address}:${String(guard.orPort)} ${guard.fingerprint}`,
      "ConfluxEnabled 0",
      `HiddenServiceDir ${serviceDir}`,
      `HiddenServicePort 80 ${target.host}:${String(target.port)}`,
      ...(isBackend ? ["HiddenServiceOnionBalanceInstance 1"] : []),
      // Until we listen for the events that tell of the upload.
      "DisableNetwork 1",
    ].join("\n"),
    signal,
  });
  try {
    const uploaded = Promise.withResolvers<void>();
    await using control = await daemon.connect({ signal });
    // It is there once tor answers.
    const address = (await readFile(join(serviceDir, "hostname"), "utf8")).trim();
    await using _events = await control.subscribe(
      ["HS_DESC"],
      (event) => {
        if (event.kind === "HS_DESC" && event.action === "UPLOADED") uploaded.resolve();
      },
      { signal },
    );
    await control.setConf([["DisableNetwork", "0"]], { signal });
    await control.during(uploaded.promise, { signal });
    return { address, process: daemon, [Symbol.asyncDispose]: async () => daemon[Symbol.asyncDispose]() };
  } catch (error) {
    await daemon[Symbol.asyncDispose]();
    throw error;
  }
}
