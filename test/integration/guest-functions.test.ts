// The small bundled functions, each run as its folder has it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { parseManifest } from "../../src/wire/manifest.ts";
import { GuestBench, type RunningGuest, type RunOptions } from "./guest-harness.ts";

describe("bundled functions", { timeout: 30_000 }, () => {
  let bench: GuestBench;
  before(async () => {
    bench = await GuestBench.open();
  });
  after(async () => {
    await bench[Symbol.asyncDispose]();
  });
  const run = async (name: string, options: RunOptions = {}): Promise<RunningGuest> => {
    const folder = new URL(`../../functions/${name}/`, import.meta.url);
    const manifest = parseManifest(JSON.parse(await readFile(new URL("manifest.json", folder), "utf8")));
    assert.equal(manifest.name, name);
    const source = await readFile(new URL("function.ts", folder), "utf8");
    return bench.run(manifest.image, source, { ...options, grant: { box: manifest.box, ...options.grant } });
  };

  test("hello: greets the world, or whom it is told", async () => {
    await using world = await run("hello");
    assert.deepEqual(await world.all(), ["hello world"]);
    await using ada = await run("hello", { invocation: { args: ["Ada"] } });
    assert.deepEqual(await ada.all(), ["hello Ada"]);
  });

  test("echo: sends back what comes until the input ends", async () => {
    await using guest = await run("echo");
    await guest.send("a");
    await guest.send("b");
    guest.link.endInput();
    assert.deepEqual(await guest.all(), ["a", "b"]);
    assert.deepEqual(await guest.ended, { kind: "returned" });
  });

  test("monitor: one line for each measurement, with its time", async () => {
    let load = 0;
    const services = { box: async () => ({ load: load++ }) };
    await using guest = await run("monitor", { invocation: { args: ["2", "1000"] }, services });
    const lines = await guest.all();
    assert.deepEqual(
      lines.map((line) => JSON.parse(line).load),
      [0, 1],
    );
    assert.ok(lines.every((line) => Math.abs(JSON.parse(line).time - Date.now()) < 600_000));
  });

  test("monitor: without a count it goes on until the client ends its input", async () => {
    const services = { box: async () => ({}) };
    await using guest = await run("monitor", { invocation: { args: [0, 60_000] }, services });
    await guest.next();
    guest.link.endInput();
    assert.deepEqual(await guest.ended, { kind: "returned" });
  });

  test("monitor: ends when it is asked to, and says what it lacks", async () => {
    const services = { box: async () => ({}) };
    await using guest = await run("monitor", { invocation: { args: [1000, 60_000] }, services });
    await guest.next();
    guest.link.stop();
    assert.deepEqual(await guest.ended, { kind: "returned" });
    await using blind = await run("monitor", { grant: { box: [] } });
    const end = await blind.ended;
    assert.ok(end.kind === "failed");
    assert.match(end.failure.message, /grants no facts/);
  });
});
