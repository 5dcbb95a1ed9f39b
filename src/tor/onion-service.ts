// Publishing a local port as an onion service, in two ways. Both keep their ed25519 key between runs and resolve when
// the descriptor is out, so that the address can be given to people.
// (a) its own tor process as a single-hop service: fast, and not anonymous for the server, which is public anyway.
//     Only a torrc makes it single-hop: ADD_ONION with NonAnonymous still builds four hops (tor 0.4.9).
// (b) ADD_ONION on a tor that runs already.
// Spec: rend-spec-v3, control-spec 3.27 (ADD_ONION), tor(1) HiddenServiceSingleHopMode.

import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { BentoError, systemCode } from "../base/errors.ts";
import type { ControlClient, OnionPort, Wait } from "./control-client.ts";
import { TorProcess } from "./process.ts";

export interface OnionService extends AsyncDisposable {
  /** 56 characters and ".onion". */
  readonly address: string;
}

export interface SingleHopOptions {
  /** Private to this service, mode 700; keeps the key. */
  readonly dir: string;
  readonly ports: readonly OnionPort[];
  /** Further torrc lines: the DirAuthority lines of a private network, for instance. */
  readonly torrc?: readonly string[];
  readonly torPath?: string;
  readonly onProgress?: (percent: number, summary: string) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Starts a tor process for one single-hop service. Dispose ends the process; the key stays in `dir`. */
export async function startSingleHopService(
  options: SingleHopOptions,
): Promise<OnionService & { readonly process: TorProcess }> {
  const serviceDir = join(options.dir, "service");
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const torrc = [
    ...(options.torrc ?? []),
    `DataDirectory ${join(options.dir, "data")}`,
    "Log notice stdout",
    "SocksPort 0",
    "HiddenServiceNonAnonymousMode 1",
    "HiddenServiceSingleHopMode 1",
    `HiddenServiceDir ${serviceDir}`,
    ...options.ports.map(({ virtualPort, target }) => `HiddenServicePort ${String(virtualPort)} ${target}`),
    // Until we listen for the events that tell of the upload.
    "DisableNetwork 1",
  ].join("\n");
  const daemon = await TorProcess.start({
    dir: options.dir,
    torrc,
    signal: options.signal,
    ...(options.torPath === undefined ? {} : { torPath: options.torPath }),
  });
  try {
    // This connection lives only until the service is published.
    await using control = await daemon.connect(options);
    const address = (await readFile(join(serviceDir, "hostname"), "utf8")).trim();
    await publishing(control, options, async () => {
      await control.setConf([["DisableNetwork", "0"]], options);
      await control.awaitBootstrap(options);
      return address.replace(/\.onion$/u, "");
    });
    return {
      address,
      process: daemon,
      [Symbol.asyncDispose]: async () => daemon[Symbol.asyncDispose](),
    };
  } catch (error) {
    await daemon[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Publishes through a running tor. The service ends with `control`, or with its own dispose. `keyPath` keeps the key
 * (mode 600, made when absent); without it every call gives a new address.
 */
export async function addOnionService(
  control: ControlClient,
  options: { readonly ports: readonly OnionPort[]; readonly keyPath?: string } & Wait,
): Promise<OnionService> {
  const kept = options.keyPath === undefined ? undefined : await readKey(options.keyPath);
  const serviceId = await publishing(control, options, async () => {
    const added = await control.addOnion(
      { ports: options.ports, ...(kept === undefined ? {} : { key: kept }) },
      options,
    );
    try {
      if (kept === undefined && options.keyPath !== undefined && added.key !== undefined)
        await writeKey(options.keyPath, added.key);
    } catch (error) {
      await control.delOnion(added.serviceId);
      throw error;
    }
    return added.serviceId;
  });
  return {
    address: `${serviceId}.onion`,
    async [Symbol.asyncDispose]() {
      if (control.isClosed) return;
      await control.delOnion(serviceId).catch((error: unknown) => {
        // 552: removed already, by us or by hand.
        if (!(error instanceof BentoError)) throw error;
      });
    },
  };
}

/**
 * Runs `start`, which gives a service's id, and waits until every upload of its descriptor that tor has begun has
 * ended and at least one of them well. Removes nothing when it fails: the caller knows what it started.
 */
async function publishing(control: ControlClient, wait: Wait, start: () => Promise<string>): Promise<string> {
  const published = Promise.withResolvers<void>();
  const begun = new Map<string, number>();
  const uploaded = new Set<string>();
  const wanted: { serviceId?: string } = {};
  const check = () => {
    const id = wanted.serviceId;
    if (id !== undefined && uploaded.has(id) && (begun.get(id) ?? 0) <= 0) published.resolve();
  };
  await using _subscription = await control.subscribe(
    ["HS_DESC"],
    (event) => {
      if (event.kind !== "HS_DESC") return;
      const { action, address } = event;
      if (action === "UPLOAD") begun.set(address, (begun.get(address) ?? 0) + 1);
      if (action === "UPLOADED") uploaded.add(address);
      if (action === "UPLOADED" || action === "FAILED") begun.set(address, (begun.get(address) ?? 0) - 1);
      check();
    },
    wait,
  );
  const serviceId = await start();
  wanted.serviceId = serviceId;
  check();
  await control.during(published.promise, wait);
  return serviceId;
}

// Sample: ED25519-V3:cBV+...(88 characters of base64)
async function readKey(path: string): Promise<string | undefined> {
  let text: string;
  try {
    text = (await readFile(path, "utf8")).trim();
  } catch (error) {
    if (systemCode(error) === "ENOENT") return undefined;
    throw error;
  }
  if (!/^ED25519-V3:[A-Za-z0-9+/]{86}==$/u.test(text))
    throw new BentoError("tor-onion-key", `Cannot publish onion service: ${path} holds no ED25519-V3 key`, {
      advice: "Restore the file from a backup, or delete it to get a new address.",
    });
  return text;
}

async function writeKey(path: string, key: string): Promise<void> {
  await writeFile(`${path}.new`, `${key}\n`, { mode: 0o600, flush: true });
  await rename(`${path}.new`, path);
}
