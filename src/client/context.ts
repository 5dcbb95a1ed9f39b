// What this user's command line remembers between calls: the running network's boxes, saved functions with their
// tokens, instances with the offset read so far. One JSON file, readable by the user alone, because tokens are
// capabilities. Written whole under a lock and renamed into place, so that two commands never tear it.

import { mkdir, readFile, readlink, rename, rm, symlink, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import path from "node:path";
import { z } from "zod";
import { type Clock, systemClock } from "../base/clock.ts";
import { BentoError, messageOf, systemCode } from "../base/errors.ts";

const name = z.string().min(1).max(80);

const boxEntry = z.object({
  /** Where clients reach it through Tor. */
  address: z.string().max(300),
  /** SOCKS port of the tor that reaches it; absent: the network's, or the default. */
  socks: z.string().max(300).optional(),
  /** Where it listens on this machine, for `--direct`. */
  direct: z.string().max(300).optional(),
  /** Its port on its relay's own address. */
  exit: z.string().max(300).optional(),
  /** Fingerprint of the companion relay. */
  fingerprint: z.string().max(40).optional(),
  /** Control port of the tor that reaches it: an address that is no onion is reached by circuits that end at the relay. */
  control: z.string().max(300).optional(),
});
export type BoxEntry = z.infer<typeof boxEntry>;

/** How a saved thing is reached: the box as it was named then, and the isolation of its circuits. */
const reach = {
  box: z.string().max(300),
  socks: z.string().max(300).optional(),
  direct: z.boolean().optional(),
  /** Fingerprint of the relay where circuits to it end, and the control port of the tor that builds them. */
  relay: z.string().max(40).optional(),
  control: z.string().max(300).optional(),
  isolation: z.string().max(200),
};

const functionEntry = z.object({
  ...reach,
  invocationToken: z.string(),
  shutdownToken: z.string().optional(),
  sourceHash: z.string().optional(),
  expiresAt: z.number(),
});
/** How a saved thing is reached. */
export type SavedReach = Pick<FunctionEntry, "box" | "socks" | "direct" | "relay" | "control">;
export type FunctionEntry = z.infer<typeof functionEntry>;

const instanceEntry = z.object({
  ...reach,
  instance: z.string(),
  function: z.string().optional(),
  /** Output bytes read so far. */
  offset: z.number(),
  startedAt: z.number(),
  /** Set when `run` installed the function for this one call: it is ended with the instance. */
  shutdownToken: z.string().optional(),
});

/** What else is known of a function that is a Dropbox of ours (spec/dropbox). */
const dropboxEntry = z.object({
  /** The owner's secret: continues an interrupted put. */
  writer: z.string(),
  /** The content's key, base64url; absent for what was put as it is. */
  key: z.string().optional(),
  /** What is put there: path, size and time, by which a put that is continued knows it again. */
  file: z.string(),
  size: z.number(),
  modifiedAt: z.number(),
  padding: z.string(),
  gets: z.number(),
  bytes: z.number().optional(),
  isSealed: z.boolean(),
});
export type DropboxEntry = z.infer<typeof dropboxEntry>;

/** An answer that waits in a Dropbox (spec/later), beside the function that is this Dropbox. */
const laterEntry = z.object({
  /** The Dropbox's owner's secret: it tells whether the answer is there. */
  writer: z.string(),
  /** Opens the answer, base64url. */
  key: z.string(),
  /** Name of the function that was left to be run. */
  of: z.string(),
  gets: z.number(),
  startedAt: z.number(),
  /** Of a page: its address, and the sizes that its answer may have, none when it is as it comes. */
  page: z.object({ url: z.string(), sizes: z.array(z.number()) }).optional(),
  /** The box that runs it, and what ends it there. */
  runner: z.object({ ...reach, shutdownToken: z.string() }).optional(),
});
export type LaterEntry = z.infer<typeof laterEntry>;

/** The box of a further load balancer, as boxes name it; what else is needed to find it once it is there. */
const standbyEntry = z.object({
  ...reach,
  address: z.string(),
  instance: z.string().optional(),
  invocationToken: z.string().optional(),
  shutdownToken: z.string().optional(),
  expiresAt: z.number().optional(),
});
export type StandbyEntry = z.infer<typeof standbyEntry>;

/** A load balancer (spec/loadbalancer), beside the function that it is. */
const balancerEntry = z.object({
  instance: z.string(),
  /** Of the onion service, and the file with its key. */
  address: z.string(),
  keyFile: z.string(),
  startedAt: z.number(),
  /** Its own box, as boxes name it. */
  own: z.string().optional(),
  standby: standbyEntry.optional(),
  /** Where a standby may be when it is not there, in order of preference. */
  reserves: z.array(standbyEntry).optional(),
});
export type BalancerEntry = z.infer<typeof balancerEntry>;

const contextSchema = z.object({
  version: z.literal(1),
  network: z.object({ dir: z.string(), socks: z.string() }).optional(),
  boxes: z.record(name, boxEntry).default({}),
  functions: z.record(name, functionEntry).default({}),
  instances: z.record(name, instanceEntry).default({}),
  /** By the name of the function. */
  dropboxes: z.record(name, dropboxEntry).default({}),
  laters: z.record(name, laterEntry).default({}),
  balancers: z.record(name, balancerEntry).default({}),
});
export type ContextData = z.infer<typeof contextSchema>;

/** Instances remembered; the oldest are forgotten first. They cost the box nothing once ended. */
export const INSTANCES_MAX = 200;
/** A lock held longer than this belongs to a process that died without its pid being reused or that hangs. */
const LOCK_WAIT_MS = 5000;
const LOCK_STEP_MS = 20;

/** `$XDG_STATE_HOME/bento`, or `~/.local/state/bento`. */
export function stateDir(env: NodeJS.ProcessEnv): string {
  const base = env["XDG_STATE_HOME"];
  return path.join(
    base && path.isAbsolute(base) ? base : path.join(env["HOME"] ?? homedir(), ".local/state"),
    "bento",
  );
}

export class Context {
  readonly dir: string;
  readonly #clock: Clock;

  constructor(dir: string, clock: Clock = systemClock) {
    this.dir = dir;
    this.#clock = clock;
  }

  get #file(): string {
    return path.join(this.dir, "context.json");
  }

  /** What is known now. A missing file is an empty context. */
  async read(): Promise<ContextData> {
    let text: string;
    try {
      text = await readFile(this.#file, "utf8");
    } catch (error) {
      if (systemCode(error) === "ENOENT") return contextSchema.parse({ version: 1 });
      throw new BentoError("bad-config", `Cannot read ${this.#file}: ${systemCode(error) ?? "failed"}`, {
        cause: error,
      });
    }
    try {
      return contextSchema.parse(JSON.parse(text));
    } catch (cause) {
      throw new BentoError("bad-config", `Cannot read ${this.#file}: not a context file of this version`, {
        cause,
        advice: "It holds saved tokens: move it away rather than deleting it.",
      });
    }
  }

  /** Changes the context under its lock. Entries that have expired are dropped on the way. */
  async update<T>(change: (data: ContextData) => T): Promise<T> {
    await this.#writing(() => mkdir(this.dir, { recursive: true, mode: 0o700 }));
    await using _lock = await this.#lock();
    const data = await this.read();
    const result = change(data);
    this.#prune(data);
    const temporary = `${this.#file}.${process.pid}.tmp`;
    await this.#writing(async () => {
      try {
        await writeFile(temporary, `${JSON.stringify(data, null, 1)}\n`, { mode: 0o600, flush: true });
        await rename(temporary, this.#file);
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
    });
    return result;
  }

  /** Throws now if nothing could be saved: to be called before a box makes what only a saved token can end. */
  async checkWritable(): Promise<void> {
    await this.update(() => undefined);
  }

  async #writing<T>(write: () => Promise<T>): Promise<T> {
    try {
      return await write();
    } catch (cause) {
      const code = systemCode(cause);
      throw new BentoError("bad-config", `Cannot write ${this.dir}: ${code ?? messageOf(cause)}`, {
        cause,
        advice:
          code === "ENOSPC" || code === "EDQUOT"
            ? "The disk is full: free some space; tokens are saved there."
            : "Set XDG_STATE_HOME to a folder that you can write; tokens are saved there.",
      });
    }
  }

  #prune(data: ContextData): void {
    const now = this.#clock.now();
    for (const [key, entry] of Object.entries(data.functions)) {
      if (entry.expiresAt < now) delete data.functions[key];
    }
    for (const key of Object.keys(data.dropboxes)) {
      if (!Object.hasOwn(data.functions, key)) delete data.dropboxes[key];
    }
    for (const key of Object.keys(data.laters)) {
      if (!Object.hasOwn(data.functions, key)) delete data.laters[key];
    }
    for (const key of Object.keys(data.balancers)) {
      if (!Object.hasOwn(data.functions, key)) delete data.balancers[key];
    }
    const byAge = Object.entries(data.instances).sort(([, a], [, b]) => a.startedAt - b.startedAt);
    for (const [key] of byAge.slice(0, Math.max(0, byAge.length - INSTANCES_MAX))) delete data.instances[key];
  }

  async #lock(): Promise<AsyncDisposable> {
    const lock = path.join(this.dir, "context.lock");
    for (let waitedMs = 0; ; waitedMs += LOCK_STEP_MS) {
      const isOurs = await this.#writing(async () => {
        try {
          // A link that leads nowhere names its holder from the moment it exists, on a full disk, too.
          await symlink(String(process.pid), lock);
          return true;
        } catch (error) {
          if (systemCode(error) === "EEXIST") return false;
          throw error;
        }
      });
      if (isOurs) return { [Symbol.asyncDispose]: () => rm(lock, { force: true }) };
      if (waitedMs >= LOCK_WAIT_MS) {
        throw new BentoError("bad-config", `Cannot lock ${this.dir}: another command holds it`, {
          advice: `If none is running, delete ${lock}.`,
        });
      }
      if (await isAbandoned(lock)) await rm(lock, { force: true });
      else await this.#clock.sleep(LOCK_STEP_MS);
    }
  }
}

/**
 * Drops what was saved of boxes that no longer exist, named or by address: their tokens open nothing any more, and boxes
 * of a new network take over the names. Returns what was dropped.
 */
export function forgetBoxes(data: ContextData, boxes: Readonly<Record<string, BoxEntry>>): Forgotten {
  const gone = new Set(
    Object.entries(boxes).flatMap(([box, { address, direct, exit }]) => [box, address, direct, exit]),
  );
  const drop = (entries: Record<string, { readonly box: string }>) => {
    const dropped = Object.keys(entries).filter((key) => gone.has(entries[key]?.box));
    for (const key of dropped) delete entries[key];
    return dropped;
  };
  return { functions: drop(data.functions), instances: drop(data.instances) };
}

export interface Forgotten {
  readonly functions: readonly string[];
  readonly instances: readonly string[];
}

/** `base`, or `base-2`, `base-3`, ...: the first that is not taken. */
export function freeName(base: string, taken: Readonly<Record<string, unknown>>): string {
  if (!Object.hasOwn(taken, base)) return base;
  for (let number = 2; ; number++) {
    const candidate = `${base}-${number}`;
    if (!Object.hasOwn(taken, candidate)) return candidate;
  }
}

async function isAbandoned(lock: string): Promise<boolean> {
  try {
    const pid = Number(await readlink(lock));
    if (!Number.isInteger(pid) || pid < 1) return false;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return systemCode(error) === "ESRCH";
  }
}
