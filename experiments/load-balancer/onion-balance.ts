// OnionBalance v3, as Debian packages it, in front of C tor onion services: it merges their introduction points into one
// descriptor, and clients choose among these at random.

import { type ChildProcess, spawn } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { mkdir, open, writeFile } from "node:fs/promises";
import path from "node:path";
import { onionAddress } from "../../src/onion/service/onion-address.ts";
import type { Testnet, TestnetNode } from "../../src/testnet/testnet.ts";
import { TorProcess } from "../../src/tor/process.ts";
import { startTorService } from "./tor-service.ts";

export interface OnionBalanceOptions {
  readonly dir: string;
  readonly testnet: Testnet;
  /** One backend beside each of these relays. */
  readonly guards: readonly TestnetNode[];
  readonly target: { readonly host: string; readonly port: number };
  readonly signal: AbortSignal;
}

/** Resolves when all runs; OnionBalance publishes about a minute later. */
export async function startOnionBalance(
  options: OnionBalanceOptions,
): Promise<{ readonly address: string } & AsyncDisposable> {
  const { dir, testnet, guards, target, signal } = options;
  await using undo = new AsyncDisposableStack();
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  const raw = Buffer.from(publicKey.export({ format: "jwk" }).x ?? "", "base64url");
  const address = onionAddress(raw);
  const keyPath = path.join(dir, "frontend.key");
  await writeFile(keyPath, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  const backends = await Promise.all(
    guards.map(async (guard, index) => {
      const backendDir = path.join(dir, `backend${index}`);
      return undo.use(
        await startTorService({
          dir: backendDir,
          testnet,
          guard,
          target,
          masterAddress: address,
          usesKist: true,
          signal,
        }),
      );
    }),
  );
  // What OnionBalance itself speaks to: a tor without limits, which fetches and uploads descriptors.
  const manager = undo.use(
    await TorProcess.start({
      dir: path.join(dir, "manager"),
      torrc: [
        ...testnet.joinTorrc,
        `DataDirectory ${path.join(dir, "manager", "data")}`,
        "SocksPort 0",
        "Log notice stdout",
      ].join("\n"),
      signal,
    }),
  );
  {
    await using control = await manager.connect({ signal });
    await control.awaitBootstrap({ signal });
  }
  // The config is YAML, of which JSON is a part.
  const config = {
    services: [
      {
        key: keyPath,
        instances: backends.map(({ address: one }, index) => ({ address: one, name: `node${index}` })),
      },
    ],
  };
  const configPath = path.join(dir, "config.yaml");
  await writeFile(configPath, JSON.stringify(config));
  const child = await startBalancer(dir, configPath, manager.controlAddress);
  undo.defer(async () => {
    const exited = once(child, "exit");
    // Asked to end while it fetches descriptors it says that it does, and stays. It has nothing to put in order.
    if (child.exitCode === null && child.signalCode === null && child.kill("SIGKILL")) await exited;
  });
  const owned = undo.move();
  return { address, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function startBalancer(
  dir: string,
  configPath: string,
  control: { readonly host: string; readonly port: number },
): Promise<ChildProcess> {
  const log = await open(path.join(dir, "onionbalance.log"), "w", 0o600);
  try {
    const args = [
      "--hs-version",
      "v3",
      "--is-testnet",
      "-v",
      "info",
      "-i",
      control.host,
      "-p",
      String(control.port),
      "-c",
      configPath,
    ];
    const child = spawn("onionbalance", args, {
      cwd: dir,
      stdio: ["ignore", log.fd, log.fd],
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", HOME: dir },
    });
    await once(child, "spawn");
    return child;
  } finally {
    await log.close();
  }
}
