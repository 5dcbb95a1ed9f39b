// Runs real guest runtimes, with and without their sandbox, with services kept in memory: for the tests of the
// guest room.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { concat } from "../../src/base/bytes.ts";
import { Channel } from "../../src/base/channel.ts";
import { systemClock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { type GuestEnd, GuestLink, type OutputFragment } from "../../src/box/host/guest-link.ts";
import type { FunctionStorage, HeldValue, HostServices, InstanceNet } from "../../src/box/host/services.ts";
import { findDeno } from "../../src/box/sandbox/image.ts";
import { SandboxHost } from "../../src/box/sandbox/sandbox.ts";
import { sandboxSpec } from "../../src/box/session/sandboxed-guest.ts";
import { buildGuests, type GuestFiles, PYTHON_PATH } from "../../src/guest/build.ts";
import { GUEST_DIR, guestRunners } from "../../src/guest/images.ts";
import type { Invocation } from "../../src/wire/api.ts";
import type { Grant } from "../../src/wire/grant.ts";
import type { ImageName } from "../../src/wire/policy.ts";
import { ownUids } from "../support/own-uids.ts";
import { SITE_CERTIFICATE } from "../vectors/site-certificate.ts";

/** Of the sandboxes of a bench. */
export const BENCH_UIDS = ownUids(50);

const ISOLATION = {
  deno: ["run", "--no-prompt", "--no-config", "--no-lock", "--no-remote", "--no-npm", "--cached-only"],
  python: ["-I", "-S", "-B", "-u", "-X", "utf8"],
};

/** Those that can also run outside a sandbox. */
type PlainImage = keyof typeof ISOLATION;

export interface RunOptions {
  readonly invocation?: Invocation;
  readonly entry?: string;
  readonly grant?: Partial<Grant>;
  readonly services?: HostServices;
  /** Whether output is consumed as it comes; else the test calls `consume`. */
  readonly reads?: boolean;
}

/** One running guest and what came out of it so far. */
export interface RunningGuest extends Launched {
  readonly fragments: OutputFragment[];
  readonly logs: { level: string; text: string }[];
  readonly ended: Promise<GuestEnd>;
  /** The next whole output message; undefined when the guest ended before. */
  next(): Promise<Uint8Array | undefined>;
  /** All whole messages until the end, as text. */
  all(): Promise<string[]>;
  send(text: string | Uint8Array): Promise<void>;
}

/** Where runtimes run: as plain processes of this user, or in the sandbox that boxes use (needs root). */
export type Place = "plain" | "sandbox";
export const PLACES: readonly Place[] = process.getuid?.() === 0 ? ["plain", "sandbox"] : ["plain"];

/** A runtime that was launched, wherever. */
interface Launched extends AsyncDisposable {
  readonly link: GuestLink;
  /** Its process id on this machine. */
  readonly pid: number;
  /** The exit code, or how else it ended. */
  readonly exited: Promise<number | string>;
}

export class GuestBench implements AsyncDisposable {
  readonly place: Place;
  /** Where guests see a file with the certificate of site.test. */
  readonly caFile: string;
  readonly #files: GuestFiles;
  readonly #host: SandboxHost | undefined;
  readonly #dir: string;

  private constructor(place: Place, dir: string, files: GuestFiles, host: SandboxHost | undefined) {
    this.place = place;
    this.#dir = dir;
    this.#files = files;
    this.#host = host;
    this.caFile = join(place === "plain" ? files.dir : GUEST_DIR, "site.pem");
  }

  static async open(
    place: Place = "plain",
    images: readonly ImageName[] = ["deno", "python"],
  ): Promise<GuestBench> {
    const dir = await mkdtemp(join(tmpdir(), "bento-guest-"));
    // Sandboxes have other user ids.
    await chmod(dir, 0o755);
    const files = await buildGuests(dir);
    await writeFile(join(files.dir, "site.pem"), SITE_CERTIFICATE);
    if (place === "plain") return new GuestBench(place, dir, files, undefined);
    const { deno, python, chromium } = files.runners;
    const env = { DENO_CERT: join(GUEST_DIR, "site.pem") };
    const host = await SandboxHost.open({
      dir,
      guest: {
        dir: files.dir,
        runners: {
          ...(deno && { deno: { ...deno, env } }),
          ...(python && { python }),
          ...(chromium && { chromium }),
        },
      },
      images,
      uidRange: BENCH_UIDS,
      total: { memoryBytes: 2 ** 30, pidsMax: 500, cpuPercent: 200 },
      instancesMax: 8,
      warm: [],
      warmLimits: { memoryBytes: 96 * 2 ** 20, pidsMax: 64, cpuPercent: 100 },
      log: silentLog,
      clock: systemClock,
    });
    return new GuestBench(place, dir, files, host);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#host?.[Symbol.asyncDispose]();
    await rm(this.#dir, { recursive: true, force: true });
  }

  /** Launches a runtime; nothing is started in it yet. */
  async launch(image: ImageName, grant: Grant = grantOf(image)): Promise<Launched> {
    if (this.#host) return launchBoxed(this.#host, grant);
    assert.ok(image !== "chromium", "the chromium image is for the sandbox");
    return this.#launchPlain(image);
  }

  #launchPlain(image: PlainImage): Launched {
    const { file, flags } = guestRunners(this.#files.dir)[image];
    const argv = [...ISOLATION[image], ...flags, join(this.#files.dir, file)];
    const child = spawn(image === "deno" ? (findDeno() ?? assert.fail("no deno")) : PYTHON_PATH, argv, {
      stdio: ["pipe", "pipe", "inherit"],
      // As in the sandbox: a runtime that asks for updates is no part of a test.
      env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", DENO_CERT: this.caFile },
    });
    const exited = new Promise<number | string>((resolve) => {
      child.once("exit", (code, signal) => {
        resolve(code ?? signal ?? "");
      });
    });
    const link = new GuestLink({ stdin: child.stdin, stdout: child.stdout, log: silentLog });
    return {
      link,
      pid: child.pid ?? 0,
      exited,
      async [Symbol.asyncDispose]() {
        await link[Symbol.asyncDispose]();
        if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
        await exited;
      },
    };
  }

  async run(image: ImageName, source: string, options: RunOptions = {}): Promise<RunningGuest> {
    const grant = grantOf(image, options.grant);
    const launched = await this.launch(image, grant);
    const { link } = launched;
    await link.ready;
    const fragments: OutputFragment[] = [];
    const logs: { level: string; text: string }[] = [];
    const messages = new Channel<Uint8Array | Promise<Uint8Array>>(Number.POSITIVE_INFINITY);
    let parts: Uint8Array[] = [];
    const reads = options.reads ?? true;
    link.start(
      {
        name: "test",
        source,
        invocation: options.invocation ?? { args: [] },
        grant,
        ...(options.entry === undefined ? {} : { entry: options.entry }),
      },
      options.services ?? {},
      {
        onOutput(fragment) {
          fragments.push(fragment);
          if (reads) link.credit(fragment.cost);
          parts.push(fragment.bytes);
          if (!fragment.last) return;
          messages.push(concat(parts));
          parts = [];
        },
        async onValue(value) {
          const message = wholeValue(value);
          messages.push(message);
          await message;
          value.release();
        },
        onLog(line) {
          logs.push(line);
        },
      },
    );
    void (async () => {
      await link.ended;
      messages.close();
    })();
    return {
      link,
      pid: launched.pid,
      exited: launched.exited,
      fragments,
      logs,
      ended: link.ended,
      next: async () => messages.receive(),
      async all() {
        const texts: string[] = [];
        for await (const message of messages) texts.push(Buffer.from(message).toString());
        return texts;
      },
      send: (text) => link.sendInput(Buffer.from(text), { last: true }),
      [Symbol.asyncDispose]: () => launched[Symbol.asyncDispose](),
    };
  }
}

async function wholeValue(value: HeldValue): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  while (length < value.bytes) {
    const part = await value.read(length);
    parts.push(part);
    length += part.length;
  }
  return concat(parts);
}

async function launchBoxed(host: SandboxHost, grant: Grant): Promise<Launched> {
  const sandbox = await host.start(sandboxSpec(grant), { signal: new AbortController().signal });
  const link = new GuestLink({ stdin: sandbox.stdin, stdout: sandbox.stdout, log: silentLog });
  return {
    link,
    pid: sandbox.pid,
    exited: sandbox.exited.then((exit) => (exit.kind === "exited" ? exit.code : exit.kind)),
    async [Symbol.asyncDispose]() {
      await link[Symbol.asyncDispose]();
      await sandbox[Symbol.asyncDispose]();
    },
  };
}

export function grantOf(image: ImageName, wanted: Partial<Grant> = {}): Grant {
  const limits = {
    memoryBytes: 128 * 2 ** 20,
    cpuPercent: 100,
    pids: 32,
    tmpBytes: 8 * 2 ** 20,
    instances: 1,
    lifetimeMs: 60_000,
    runtimeMs: 60_000,
    backlogBytes: 4 * 2 ** 20,
  };
  return { image, syscalls: [], box: [], limits, ...wanted };
}

export const NET: Partial<Grant> = { net: { allow: ["*:*"], connections: 8, bytes: 2 ** 30 } };

/** Storage in memory with a quota of `quotaBytes` for one value. */
export function memoryStorage(quotaBytes = Number.POSITIVE_INFINITY): FunctionStorage {
  const values = new Map<string, Uint8Array>();
  return {
    async put(key, value) {
      const parts: Uint8Array[] = [];
      let bytes = 0;
      for await (const part of value) {
        parts.push(part.slice());
        bytes += part.length;
        if (bytes > quotaBytes) {
          throw new BentoError(
            "storage-quota",
            `Cannot store: ${bytes} bytes, expected at most ${quotaBytes}`,
          );
        }
      }
      values.set(key, concat(parts));
      return { bytes };
    },
    async get(key, { offset = 0 }) {
      const found = values.get(key);
      if (!found) return undefined;
      return {
        bytes: found.length,
        value: (async function* () {
          yield found.subarray(offset);
        })(),
      };
    },
    hold(key, { offset, bytes }) {
      const found = values.get(key);
      if (!found) return undefined;
      if (offset > found.length)
        throw new BentoError("storage-offset", `Cannot read: ${offset}, expected at most ${found.length}`);
      const held = found.slice(offset, bytes === undefined ? undefined : offset + bytes);
      return {
        bytes: held.length,
        signal: new AbortController().signal,
        read: async (from) => held.subarray(from, from + 7),
        rest() {},
        release() {},
      };
    },
    async delete(key) {
      return values.delete(key);
    },
    async list({ prefix, after, limit }) {
      return [...values]
        .map(([key, value]) => ({ key, bytes: value.length }))
        .filter(({ key }) => key.startsWith(prefix) && (after === undefined || key > after))
        .sort((a, b) => (a.key < b.key ? -1 : 1))
        .slice(0, limit);
    },
  };
}

/** Connects names to what the test says, and refuses every other name as a policy would. */
export function fakeNet(
  routes: Readonly<Record<string, () => Promise<Duplex> | Duplex>>,
): InstanceNet & { readonly asked: string[] } {
  const asked: string[] = [];
  return {
    asked,
    async connect({ host, port }) {
      asked.push(`${host}:${port}`);
      const route = routes[`${host}:${port}`];
      if (!route) throw new BentoError("net-refused", `Cannot connect: no rule allows port ${port}`);
      return route();
    },
    async [Symbol.asyncDispose]() {
      /* the streams are the test's */
    },
  };
}
