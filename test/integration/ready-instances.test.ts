// Instances that wait with a function of the box's own loaded: used once each, with nothing of whoever was there before, for
// whoever runs just that source and for nobody else. The real sandbox. Needs root.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { createLog, silentLog } from "../../src/base/log.ts";
import { Box } from "../../src/box/box.ts";
import { parseBoxConfig } from "../../src/box/config.ts";
import { type PackageInput, sourceHash } from "../../src/wire/package.ts";
import { BoxClient } from "../support/box-client.ts";
import { ownUids, uidText } from "../support/own-uids.ts";
import { portOf } from "../support/testnet-box.ts";

/** Says what it finds of its own past, leaves traces, fails when asked to. */
const SOURCE = `
let prepared = 0;
let invoked = 0;
export default {
  prepare() { prepared++; },
  async invoke(session, env, what) {
    invoked++;
    globalThis.traces = (globalThis.traces ?? 0) + 1;
    Array.prototype.traces = (Array.prototype.traces ?? 0) + 1;
    let found = 0;
    try { found = Deno.readTextFileSync("/tmp/trace").length; } catch {}
    Deno.writeTextFileSync("/tmp/trace", "1");
    if (what === "fail") throw new RangeError("as asked");
    const own = Object.getOwnPropertyNames(globalThis).filter((name) => /bento/i.test(name));
    await session.send(JSON.stringify({ prepared, invoked, traces: globalThis.traces, found, array: [].traces, own }));
  },
};
`;
const COUNTER: PackageInput = { manifest: { name: "counter", image: "deno" }, source: SOURCE };
const BROKEN: PackageInput = {
  manifest: { name: "broken", image: "deno" },
  source: `export default { prepare() { throw new Error("no"); }, invoke: (session) => session.send("ran") };`,
};
/** Fetches with what it was granted, and with what stands on the globals. */
const FETCHER: PackageInput = {
  manifest: { name: "fetcher", image: "deno", syscalls: ["loopback"], net: { allow: ["*:*"] } },
  source: `
let prepared = 0;
export default {
  prepare() { prepared++; },
  async invoke(session, env, url) {
    const text = async (fetch) => {
      try { return await (await fetch(url)).text(); } catch (error) { return error.name; }
    };
    const own = env.fetch ? [await text(env.fetch), await text(env.fetch)] : [];
    await session.send(JSON.stringify({ prepared, own, global: await text(fetch) }));
  },
};
`,
};
const hashOf = ({ source }: PackageInput) => sourceHash({ manifest: { image: "deno" }, source });
const NAMED = { manifest: { ...COUNTER.manifest }, sourceHash: hashOf(COUNTER) };
const FRESH = { invoked: 1, traces: 1, found: 0, array: 1, own: [] };

let dir: string;
let box: Box;
let client: BoxClient;

async function startBox(name: string, firstUid: number, ready: string): Promise<Box> {
  const config = parseBoxConfig(`
[policy.net]
private_networks_allowed = ["127.0.0.0/8"]
[box]
data_dir = "${join(dir, name)}"
[onion]
mode = "none"
[warm]
deno = 0
python = 0
${ready}
[sandbox]
uids = "${uidText(ownUids(100, firstUid))}"
`);
  // A broken function is told to the operator; the others have nothing to say.
  const log = ready.includes("broken") ? silentLog : createLog((line) => process.stderr.write(line), "warn");
  const listen = [{ kind: "tcp", host: "127.0.0.1", port: 0 }] as const;
  return await Box.start(
    { ...config, listen },
    {
      clock: systemClock,
      log,
      bundled: [COUNTER, FETCHER, BROKEN],
      exitWithoutRelay: ["accept *:*"],
    },
  );
}

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-ready-"));
  box = await startBox("box", 0, 'ready = ["counter", "fetcher"]\nready_each = 1');
  client = new BoxClient(portOf(box));
});
after(async () => {
  await box?.[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

const deadline = () => AbortSignal.timeout(60_000);
type Run = Parameters<BoxClient["run"]>[0];

async function traces(pack: Run["package"]) {
  const session = await client.run({ package: pack as NonNullable<Run["package"]> });
  await session.next("attached");
  return JSON.parse(await session.text()) as Record<string, unknown>;
}

test("ready instances: whoever runs the source gets one, named or whole, each used once and without a past", async () => {
  for (const pack of [NAMED, COUNTER, NAMED]) {
    await box.warmedUp(deadline());
    assert.deepEqual(await traces(pack), { prepared: 1, ...FRESH });
  }
  // The control: a source that differs in one character is loaded when it is run, and prepared never.
  await box.warmedUp(deadline());
  assert.deepEqual(await traces({ ...COUNTER, source: `${SOURCE} ` }), { prepared: 0, ...FRESH });
});

test("ready instances: when none waits, or its limits are others, the function starts as any other", async () => {
  await box.warmedUp(deadline());
  const both = await Promise.all([traces(NAMED), traces(NAMED)]);
  assert.deepEqual(new Set(both.map(({ prepared }) => prepared)), new Set([0, 1]));
  await box.warmedUp(deadline());
  const other = { ...NAMED, manifest: { ...NAMED.manifest, tmp: "1MiB" } };
  assert.deepEqual(await traces(other), { prepared: 0, ...FRESH });
});

test("ready instances: fetch goes where the grant leads, and without one nowhere", async () => {
  const seen: string[] = [];
  const server = createServer((request, response) => {
    seen.push(request.headers.host ?? "");
    response.end("from the network");
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  try {
    const fetched = async (source: string, manifest: object) => {
      await box.warmedUp(deadline());
      const pack = { manifest: { ...FETCHER.manifest, ...manifest }, source };
      const session = await client.run({ package: pack, invocation: { args: [`http://${host}/`] } });
      await session.next("attached");
      return JSON.parse(await session.text()) as unknown;
    };
    const text = "from the network";
    // Ready, and the control.
    assert.deepEqual(await fetched(FETCHER.source, {}), { prepared: 1, own: [text, text], global: text });
    assert.deepEqual(await fetched(`${FETCHER.source} `, {}), {
      prepared: 0,
      own: [text, text],
      global: text,
    });
    assert.deepEqual(
      seen.splice(0),
      Array.from({ length: 6 }, () => host),
    );
    for (const source of [FETCHER.source, `${FETCHER.source} `]) {
      const prepared = source === FETCHER.source ? 1 : 0;
      assert.deepEqual(await fetched(source, { net: undefined }), { prepared, own: [], global: "TypeError" });
    }
    assert.deepEqual(seen, []);
  } finally {
    server.close();
  }
});

test("ready instances: an error names the function's file and lines, and no place of the box", async () => {
  const outcomes = [];
  for (const pack of [NAMED, { ...COUNTER, source: `${SOURCE} ` }]) {
    await box.warmedUp(deadline());
    const session = await client.run({ package: pack, invocation: { args: ["fail"] } });
    await session.next("attached");
    outcomes.push((await session.next("ended")).outcome);
  }
  assert.ok(outcomes[0]?.kind === "failed");
  assert.match(outcomes[0].traceback, /^RangeError: as asked\n\s+at .*function\.ts:13:/);
  assert.doesNotMatch(outcomes[0].traceback, /bento|ready|file:/);
  assert.deepEqual(outcomes[0], outcomes[1]);
});

test("ready instances: a function that cannot be prepared still runs; one that is not there stops the box", async () => {
  await using broken = await startBox("broken", 100, 'ready = ["broken"]');
  const session = await new BoxClient(portOf(broken)).run({
    package: { ...NAMED, sourceHash: hashOf(BROKEN) },
  });
  await session.next("attached");
  assert.equal(await session.text(), "ran");
  await assert.rejects(startBox("none", 200, 'ready = ["missing"]'), {
    code: "bad-config",
    message: 'Cannot keep instances of "missing" ready: expected one of counter, fetcher, broken',
  });
});
