// The directory of one network: who may change it, what it remembers, and how all that it started is found again,
// at whatever moment the process that started it was killed.
// A process of ours carries a path inside the directory as an argument, and that is what is looked for: nothing has to
// be written down between starting a process and being able to end it.

import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, realpath, rename, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { BentoError, systemCode } from "../base/errors.ts";
import { findByArgument, terminate } from "../tor/process.ts";
import type { TestnetPlan } from "./plan.ts";

const STATE_FORMAT = 1;

export interface NetworkState {
  readonly format: typeof STATE_FORMAT;
  /** "starting" until circuits work: such a network is cleaned up, never attached to. */
  readonly phase: "starting" | "up";
  readonly plan: TestnetPlan;
  /** By relay name, 40 upper-case hex digits. */
  readonly fingerprints: Readonly<Record<string, string>>;
  /** `DirAuthority` lines, for further tors that are to join. */
  readonly authorityLines: readonly string[];
}

/** Makes the directory when absent (mode 700) and returns its real path. */
export async function prepareDir(dir: string): Promise<string> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const real = await realpath(dir);
  const entries = await readdir(real);
  if (entries.length > 0 && !entries.includes("state.json"))
    throw new BentoError("testnet-dir-in-use", `Cannot start network: ${dir} holds other files`, {
      advice: "Name an empty or new directory.",
    });
  return real;
}

/** The lock of a directory, held by one process at a time; the kernel lets go of it when that process dies. */
export async function lockDir(real: string): Promise<AsyncDisposable> {
  // An abstract Unix socket: no file that could be left behind.
  const name = `\0bento-testnet-${createHash("sha256").update(real).digest("hex")}`;
  const server = createServer();
  const { promise, resolve: locked, reject } = Promise.withResolvers<void>();
  server.once("error", (cause) => {
    reject(
      systemCode(cause) === "EADDRINUSE"
        ? new BentoError(
            "testnet-busy",
            `Cannot use network at ${real}: another command is starting or stopping it`,
            {
              advice: "Wait for it to finish.",
            },
          )
        : cause,
    );
  });
  server.listen(name, locked);
  await promise;
  return {
    async [Symbol.asyncDispose]() {
      await new Promise((closed) => server.close(closed));
    },
  };
}

export async function writeState(real: string, state: Omit<NetworkState, "format">): Promise<void> {
  const path = join(real, "state.json");
  await writeFile(`${path}.new`, JSON.stringify({ format: STATE_FORMAT, ...state }, undefined, 1), {
    mode: 0o600,
  });
  await rename(`${path}.new`, path);
}

/** The state of the network in `dir`, undefined when there is none that this version can read. */
export async function readState(dir: string): Promise<NetworkState | undefined> {
  let text: string;
  try {
    text = await readFile(join(resolve(dir), "state.json"), "utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT") return undefined;
    throw error;
  }
  // Written by us in one step, into a directory that only we can write: only the version is in question.
  const state = JSON.parse(text) as NetworkState;
  return state.format === STATE_FORMAT ? state : undefined;
}

/** Ends every process of the network and removes what it wrote. The caller holds the lock. */
export async function cleanDir(real: string): Promise<void> {
  for (const node of await readdir(real, { withFileTypes: true }))
    if (node.isDirectory())
      // Daemons first, so that none is mid-write when its directory goes.
      await Promise.all(
        (await findByArgument(join(real, node.name, "torrc"))).map(async (found) => terminate(found)),
      );
  await Promise.all((await findByArgument(linksPath(real))).map(async (found) => terminate(found)));
  // state.json last: while it is there, a clean-up that was itself killed can be done again.
  for (const entry of await readdir(real))
    if (entry !== "state.json") await rm(join(real, entry), { recursive: true, force: true });
  await rm(join(real, "state.json"), { force: true });
}

/** The Unix SOCKS socket of the client in `dir`; undefined when the path is too long for one (unix(7): 108 bytes). */
export function socksPathOf(dir: string): string | undefined {
  const path = join(dir, "socks");
  return Buffer.byteLength(path) < 108 ? path : undefined;
}

/** Configuration of the link proxy process, and the argument by which that process is known. */
export function linksPath(real: string): string {
  return join(real, "links.json");
}
