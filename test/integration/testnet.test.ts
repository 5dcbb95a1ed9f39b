// The private network for real: it comes up, carries streams, shapes links, and leaves nothing behind.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { BentoError } from "../../src/base/errors.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import { socksConnect } from "../../src/tor/socks.ts";

async function tempDir() {
  const dir = await mkdtemp(join(tmpdir(), "bento-testnet-"));
  return { dir, [Symbol.asyncDispose]: async () => rm(dir, { recursive: true, force: true }) };
}

/** Live processes that mention `text` on their command line. */
async function mentions(text: string): Promise<number> {
  const pids = (await readdir("/proc")).filter((name) => /^[0-9]+$/u.test(name));
  const lines = await Promise.all(
    pids.map(async (pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")),
  );
  return lines.filter((line) => line.includes(text)).length;
}

async function echoAt(address: string) {
  const server = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    socket.pipe(socket);
  });
  server.listen(0, address);
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => void server.close(),
  };
}

/** Milliseconds from one byte sent to the same byte back on an established stream, the least of some tries. */
async function roundTripMs(net: Testnet): Promise<number> {
  await using echo = await echoAt(net.plan.webAddress);
  const stream = await socksConnect({
    proxy: net.socks(),
    host: net.plan.webAddress,
    port: echo.port,
    isolation: { username: "rtt", password: crypto.randomUUID() },
    signal: AbortSignal.timeout(30_000),
  });
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 5; i++) {
    const start = performance.now();
    stream.write("x");
    await once(stream, "data", { signal: AbortSignal.timeout(30_000) });
    least = Math.min(least, performance.now() - start);
  }
  stream.destroy();
  return least;
}

/** Resolves when a client has fetched a consensus newer than the one it began with, which it gets as a difference. */
async function newerConsensus(net: Testnet, client: string): Promise<void> {
  const signal = AbortSignal.timeout(150_000);
  await using control = await net.control(client, { signal });
  const came = Promise.withResolvers<void>();
  await using _subscription = await control.subscribe(["NEWCONSENSUS"], () => came.resolve(), { signal });
  await control.during(came.promise, { signal });
}

test("Testnet.up: link latency shows, clients keep up with the network, traces are written, down leaves nothing", async () => {
  await using temp = await tempDir();
  const dir = join(temp.dir, "net");
  const phases: string[] = [];
  const net = await Testnet.up({
    dir,
    relays: 1,
    exits: 1,
    latencyMs: 40,
    traced: ["r0"],
    onProgress: (phase) => phases.push(phase),
  });
  try {
    assert.deepEqual(phases, ["keys", "relays", "consensus", "client", "circuit", "up"]);
    // Three links, each 40 ms each way.
    assert.ok((await roundTripMs(net)) >= 240);
    await newerConsensus(net, "c0");
    assert.doesNotMatch(await readFile(join(dir, "c0", "stdout.log"), "utf8"), /Could not apply/u);
    const status = await (await Testnet.attach(dir)).status();
    assert.deepEqual(
      status.map(({ name, role }) => `${name} ${role}`),
      ["a0 authority", "a1 authority", "a2 authority", "r0 relay", "e0 exit", "c0 client", "links links"],
    );
    assert.ok(status.every(({ pid, rssBytes, bootstrap }) => pid && rssBytes > 1e6 && bootstrap >= 75));
    assert.match(
      await readFile(join(dir, "r0.trace"), "utf8"),
      /^\d+\tr0\t127\.\d+\.\d+\.\d+\t\d+\tin\t\d+$/mu,
    );
    await assert.rejects(Promise.all([Testnet.down(dir), Testnet.down(dir)]), { code: "testnet-busy" });
  } finally {
    await net.down().catch(async () => {
      await sleep(4000);
      await net.down();
    });
  }
  await Testnet.down(dir);
  assert.equal(await mentions(dir), 0);
  assert.deepEqual(await readdir(dir), []);
  await assert.rejects(Testnet.attach(dir), { code: "testnet-not-up" });
});

test("Testnet.up: aborted half-way leaves nothing running", async () => {
  await using temp = await tempDir();
  const abort = new AbortController();
  await assert.rejects(
    Testnet.up({
      dir: temp.dir,
      relays: 0,
      exits: 1,
      signal: abort.signal,
      onProgress: (phase) => {
        if (phase === "consensus") abort.abort(new Error("Ctrl-C"));
      },
    }),
    /Ctrl-C/u,
  );
  assert.equal(await mentions(temp.dir), 0);
});

test("Testnet.up: killed half-way, the next up cleans up and two networks stand side by side", async () => {
  await using temp = await tempDir();
  const dir = join(temp.dir, "net");
  const program = join(temp.dir, "up.ts");
  const module = join(import.meta.dirname, "../../src/testnet/testnet.ts");
  await writeFile(
    program,
    `import { Testnet } from ${JSON.stringify(module)};
     await Testnet.up({ dir: ${JSON.stringify(dir)}, relays: 0, exits: 1, latencyMs: 1, detached: true,
       onProgress: (phase) => console.log(phase) });`,
  );
  const child = spawn(process.execPath, [program], { stdio: ["ignore", "pipe", "inherit"] });
  for await (const text of child.stdout as AsyncIterable<Buffer>) if (text.includes("consensus")) break;
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.ok((await mentions(join(dir, "a0"))) > 0);
  await using first = await Testnet.up({ dir, relays: 0, exits: 1, signal: AbortSignal.timeout(60_000) });
  await using second = await Testnet.up({ dir: join(temp.dir, "two"), relays: 0, exits: 1 });
  assert.notEqual(first.plan.block, second.plan.block);
  assert.ok((await roundTripMs(first)) < 240);
});

test("Testnet.up: a directory with other files is left alone; missing tor gives advice", async () => {
  await using temp = await tempDir();
  await writeFile(join(temp.dir, "precious"), "x");
  await assert.rejects(Testnet.up({ dir: temp.dir }), { code: "testnet-dir-in-use" });
  await Testnet.down(temp.dir);
  assert.deepEqual(await readdir(temp.dir), ["precious"]);
  await assert.rejects(
    Testnet.up({ dir: join(temp.dir, "net"), torPath: "/nonexistent/tor" }),
    (error: unknown) =>
      error instanceof BentoError && error.code === "tor-missing" && error.advice !== undefined,
  );
});
