// What tests of `bento lb` share: a command line in this process, and boxes whose every function is the fake load balancer.

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { PassThrough, Writable } from "node:stream";
import { afterEach } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Cli } from "../../src/client/cli/cli.ts";
import { Io } from "../../src/client/cli/io.ts";
import { type LbStartOptions } from "../../src/client/cli/lb.ts";
import { Context } from "../../src/client/context.ts";
import { RelayDialers } from "../../src/client/relay-dial.ts";
import { TEST_POLICY, TestBox, type TestCall, type TestScript } from "../../src/client/test-box.ts";
import {
  type LoadBalancerStart,
  type SiteIndex,
  type StandbyPlace,
  type StandbyReserve,
} from "../../src/wire/loadbalancer.ts";
import { fakeBalancer } from "./fake-balancer/balancer.ts";

export const FAKE = path.resolve("test/support/fake-balancer");
export const MIB = 2 ** 20;
export const POLICY = {
  ...TEST_POLICY,
  bento: { boxes: ["self", "*"], functions: 64, invocations: 1000, sessions: 32, depth: 2, bytes: 64 * MIB },
};

export const cleanUps: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

export interface Ran {
  readonly cli: Cli;
  readonly dir: string;
  readonly out: () => string;
  readonly err: () => string;
  readonly abort: AbortController;
}

export async function newCli(options: { json?: boolean; dir?: string } = {}): Promise<Ran> {
  const dir = options.dir ?? (await mkdtemp(path.join(tmpdir(), "bento-lb-")));
  if (!options.dir) cleanUps.push(() => rm(dir, { recursive: true }));
  const site = path.join(dir, "web");
  await mkdir(site, { recursive: true });
  await writeFile(path.join(site, "index.html"), "<h1>hello</h1>");
  const text = { out: "", err: "" };
  const sink = (key: "out" | "err") =>
    new Writable({
      write(chunk: Buffer, _, done) {
        text[key] += chunk.toString();
        done();
      },
    });
  const abort = new AbortController();
  const io = new Io({
    stdin: new PassThrough(),
    stdout: sink("out"),
    stderr: sink("err"),
    json: options.json ?? false,
    env: {},
  });
  const relays = new RelayDialers();
  const cli: Cli = {
    io,
    context: new Context(path.join(dir, "state")),
    env: {},
    signal: abort.signal,
    relays,
  };
  return { cli, dir, out: () => text.out, err: () => text.err, abort };
}

export interface FakeBox {
  readonly box: TestBox;
  readonly read: { start: LoadBalancerStart; site: SiteIndex | undefined; packages: string[] }[];
  /** Ends what runs, as a crash does. */
  readonly crash: () => void;
}

export function startOf({ start: { invocation } }: TestCall): LoadBalancerStart {
  return ("args" in invocation ? invocation.args[0] : undefined) as unknown as LoadBalancerStart;
}

/** A box whose every function is the fake load balancer. */
export async function balancerBox(
  options: {
    standby?: () => StandbyPlace;
    reserves?: () => readonly StandbyReserve[];
    script?: TestScript;
  } = {},
): Promise<FakeBox> {
  const read: FakeBox["read"] = [];
  const crashed = Promise.withResolvers<void>();
  const script: TestScript = async (call) => {
    const start = startOf(call);
    const running = fakeBalancer(start, {
      input: call.input,
      send: (text) => call.output(Buffer.from(text)),
      onStart: (one) => void read.push(one),
      ...(options.standby ? { standby: options.standby() } : {}),
      ...(options.reserves ? { reserves: options.reserves() } : {}),
    });
    const how = await Promise.race([running, crashed.promise.then(() => "crashed")]);
    if (how === "crashed") return { kind: "failed", name: "Error", message: "boom", traceback: "" };
    for (const token of box.installed) box.remove(token);
    return { kind: "returned" };
  };
  const box = await TestBox.start({ script: options.script ?? script, policy: POLICY });
  cleanUps.push(() => box[Symbol.asyncDispose]());
  return { box, read, crash: () => crashed.resolve() };
}

export function startOptions(ran: Ran, box: TestBox, more: Partial<LbStartOptions> = {}): LbStartOptions {
  return {
    box: box.address,
    direct: true,
    site: path.join(ran.dir, "web"),
    boxes: ["self"],
    port: 80,
    balancerFn: FAKE,
    replicaFn: "hello",
    ...more,
  };
}

export const STATUS = { interval: 0.1, direct: true } as const;
export const lines = (text: string) => text.trim().split("\n");
export const lastJson = (ran: Ran) => JSON.parse(lines(ran.out()).at(-1) ?? "") as Record<string, unknown>;

/** Waits for something that happens in other tasks. */
export async function until(isTrue: () => boolean | Promise<boolean>): Promise<void> {
  for (const signal = AbortSignal.timeout(20_000); !(await isTrue()); ) {
    signal.throwIfAborted();
    await sleep(10);
  }
}
