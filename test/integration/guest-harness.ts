// Runs real guest runtimes without a sandbox, with services kept in memory: for the tests of the guest room.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Duplex } from "node:stream";
import { concat } from "../../src/base/bytes.ts";
import { Channel } from "../../src/base/channel.ts";
import { BentoError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { type GuestEnd, GuestLink, type OutputFragment } from "../../src/box/host/guest-link.ts";
import type { FunctionStorage, HostServices, InstanceNet } from "../../src/box/host/services.ts";
import { buildGuests, type GuestFiles, PYTHON_PATH } from "../../src/guest/build.ts";
import { guestRunners } from "../../src/guest/images.ts";
import type { Invocation } from "../../src/wire/api.ts";
import type { Grant } from "../../src/wire/grant.ts";
import type { ImageName } from "../../src/wire/policy.ts";

const ISOLATION = {
  deno: ["run", "--no-prompt", "--no-config", "--no-lock", "--no-remote", "--no-npm", "--cached-only"],
  python: ["-I", "-S", "-B", "-u", "-X", "utf8"],
};

export interface RunOptions {
  readonly invocation?: Invocation;
  readonly entry?: string;
  readonly grant?: Partial<Grant>;
  readonly services?: HostServices;
  readonly env?: Readonly<Record<string, string>>;
  /** Whether output is consumed as it comes; else the test calls `consume`. */
  readonly reads?: boolean;
}

/** One running guest and what came out of it so far. */
export interface RunningGuest extends AsyncDisposable {
  readonly link: GuestLink;
  readonly child: ChildProcess;
  readonly fragments: OutputFragment[];
  readonly logs: { level: string; text: string }[];
  readonly ended: Promise<GuestEnd>;
  /** The next whole output message; undefined when the guest ended before. */
  next(): Promise<Uint8Array | undefined>;
  /** All whole messages until the end, as text. */
  all(): Promise<string[]>;
  send(text: string | Uint8Array): Promise<void>;
}

export class GuestBench implements AsyncDisposable {
  readonly files: GuestFiles;
  readonly #dir: string;

  private constructor(dir: string, files: GuestFiles) {
    this.#dir = dir;
    this.files = files;
  }

  static async open(): Promise<GuestBench> {
    const dir = await mkdtemp(join(tmpdir(), "bento-guest-"));
    return new GuestBench(dir, await buildGuests(dir));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#dir, { recursive: true, force: true });
  }

  /** Launches a runtime; nothing is started in it yet. */
  launch(
    image: ImageName,
    env: Readonly<Record<string, string>> = {},
  ): { child: ChildProcess; link: GuestLink } {
    const { file, flags } = guestRunners(this.files.dir)[image];
    const argv = [...ISOLATION[image], ...flags, join(this.files.dir, file)];
    const child = spawn(image === "deno" ? denoPath() : PYTHON_PATH, argv, {
      stdio: ["pipe", "pipe", "inherit"],
      env: { NO_COLOR: "1", ...env },
    });
    return { child, link: new GuestLink({ stdin: child.stdin, stdout: child.stdout, log: silentLog }) };
  }

  async run(image: ImageName, source: string, options: RunOptions = {}): Promise<RunningGuest> {
    const { child, link } = this.launch(image, options.env);
    await link.ready;
    const fragments: OutputFragment[] = [];
    const logs: { level: string; text: string }[] = [];
    const messages = new Channel<Uint8Array>(Number.POSITIVE_INFINITY);
    let parts: Uint8Array[] = [];
    const reads = options.reads ?? true;
    link.start(
      {
        name: "test",
        source,
        invocation: options.invocation ?? { args: [] },
        grant: grantOf(image, options.grant),
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
      child,
      fragments,
      logs,
      ended: link.ended,
      next: () => messages.receive(),
      async all() {
        const texts: string[] = [];
        for await (const message of messages) texts.push(Buffer.from(message).toString());
        return texts;
      },
      send: (text) => link.sendInput(Buffer.from(text), { last: true }),
      async [Symbol.asyncDispose]() {
        await link[Symbol.asyncDispose]();
        if (child.exitCode !== null || child.signalCode !== null) return;
        const exited = once(child, "exit");
        child.kill("SIGKILL");
        await exited;
      },
    };
  }
}

export function grantOf(image: ImageName, wanted: Partial<Grant> = {}): Grant {
  const limits = {
    memoryBytes: 64 * 2 ** 20,
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

function denoPath(): string {
  const architecture = process.arch === "arm64" ? "arm64" : "x64";
  const require = createRequire(import.meta.url);
  return join(dirname(require.resolve(`@deno/linux-${architecture}-glibc/package.json`)), "deno");
}
