// Too much of everything, with the whole box around it: floods of invocations and connections, and functions that
// reach each of their limits. What is refused gets a code, and a neighbour is served all the while.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { Agent, request } from "node:http";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { type Outcome, PATHS } from "../../src/wire/api.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import type { TestSession } from "../support/box-client.ts";
import { untilNone } from "../support/leftovers.ts";
import { ownUids } from "../support/own-uids.ts";
import { processesOf, SpawnedBox } from "../support/spawned-box.ts";

const UIDS = ownUids(40);
const RSS_MAX_BYTES = 400 * 2 ** 20;
const INVOCATIONS = 10_000;
const CONNECTIONS = 64;

let dir: string;
let box: SpawnedBox;
let neighbour: TestSession;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-escape-"));
  const toml = `[policy]\nsyscalls = ["fork", "files"]\n[warm]\ndeno = 1\npython = 1\n[policy.total]\ninstances = 16\ncpu = "150%"\n`;
  box = await SpawnedBox.start(dir, { uids: UIDS, toml });
  neighbour = await box.client.run({
    package: deno("for await (const message of session) await session.send(message);", { cpu: "50%" }),
  });
  await neighbour.next("attached");
});
after(async () => {
  neighbour.hangUp();
  await box[Symbol.asyncDispose]();
  assert.deepEqual(await processesOf(UIDS), []);
  await rm(dir, { recursive: true });
});

const deno = (body: string, more: object = {}): PackageInput => ({
  manifest: { name: "f", image: "deno", ...more },
  source: `export default { async invoke(session, env, ...args) { ${body} } };`,
});
const python = (body: string, more: object = {}): PackageInput => ({
  manifest: { name: "f", image: "python", ...more },
  source: `def main(*args):\n${body.replace(/^/gm, "    ")}\n`,
});

async function neighbourIsWell(): Promise<void> {
  neighbour.input("well?");
  // A message may come in several fragments.
  let text = "";
  for (let last = false; !last; ) {
    const frame = await neighbour.next("output");
    text += Buffer.from(frame.bytes).toString();
    last = frame.last;
  }
  assert.equal(text, "well?");
}

async function outcomeOf(session: TestSession): Promise<Outcome> {
  for (;;) {
    const frame = await session.frames.receive({ signal: AbortSignal.timeout(30_000) });
    if (frame?.kind === "ended") return frame.outcome;
    assert.equal(frame?.kind, "output");
  }
}

async function residentBytes(): Promise<number> {
  const status = await readFile(`/proc/${box.child.pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
}

describe("escape: floods", () => {
  it("escape 49: 10,000 invocations of one function over many connections", async () => {
    const { invocationToken } = await box.client.store(
      deno("await new Promise(() => {});", { instances: 3 }),
    );
    const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
    const answers = new Map<string, number>();
    const instances: string[] = [];
    const invoke = async () => {
      const sent = request({
        agent,
        host: "127.0.0.1",
        port: box.client.port,
        path: PATHS.exec,
        method: "POST",
        headers: { authorization: `Bearer ${invocationToken}`, "content-type": "application/json" },
      });
      sent.end('{"args":[]}');
      const [response] = (await once(sent, "response")) as [AsyncIterable<Buffer> & { statusCode: number }];
      let text = "";
      for await (const chunk of response) text += chunk.toString();
      const body = JSON.parse(text) as { code?: string; instance?: string };
      if (body.instance !== undefined) instances.push(body.instance);
      const answer = `${response.statusCode} ${body.code ?? ""}`;
      answers.set(answer, (answers.get(answer) ?? 0) + 1);
    };
    const turns = Array.from({ length: INVOCATIONS }, (_, turn) => turn);
    let asked = 0;
    const flood = Array.from({ length: CONNECTIONS }, async () => {
      while (turns.pop() !== undefined) await invoke();
    });
    const watching = (async () => {
      while (turns.length > 0) {
        await neighbourIsWell();
        asked++;
      }
    })();
    await Promise.all([...flood, watching]);
    agent.destroy();
    assert.deepEqual(new Set(answers.keys()), new Set(["201 ", "429 too-many-instances"]));
    assert.equal(answers.get("201 "), 3, "control: as many as the function may have did start");
    assert.equal((answers.get("201 ") ?? 0) + (answers.get("429 too-many-instances") ?? 0), INVOCATIONS);
    assert.ok(asked > 10, `the neighbour was answered ${asked} times meanwhile`);
    assert.ok((await residentBytes()) < RSS_MAX_BYTES);
    const other = await box.client.run({ package: deno("await session.send('served');") });
    await other.next("attached");
    assert.equal(await other.text(), "served");
    other.hangUp();
    for (const token of instances)
      await box.client.call("POST", PATHS.close, { token, body: { kill: true } });
  });

  it("escape 49: more functions at once than the box may run", async () => {
    const runs = await Promise.allSettled(
      Array.from({ length: 40 }, () => box.client.run({ package: python("api.recv()") })),
    );
    const started = runs.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
    const refused = runs.flatMap((each) => (each.status === "rejected" ? [each.reason as object] : []));
    assert.equal(started.length, 15, "control: all places but the neighbour's");
    for (const { status, code } of refused as { status: number; code: string }[]) {
      assert.deepEqual([status, code], [503, "box-full"]);
    }
    await neighbourIsWell();
    for (const session of started) {
      const { instance } = (await session.next("attached")).attached;
      session.hangUp();
      await box.client.call("POST", PATHS.close, { token: instance, body: { kill: true } });
    }
  });

  it("escape 49: more connections than the box takes", async () => {
    const sockets: Socket[] = [];
    const refused = new Set<Socket>();
    for (let at = 0; at < 1_200; at++) {
      const socket = connect(box.client.port, "127.0.0.1");
      socket.on("error", () => undefined);
      socket.once("close", () => refused.add(socket));
      sockets.push(socket);
      await once(socket, "connect");
    }
    await neighbourIsWell();
    const end = Date.now() + 10_000;
    while (refused.size < 150 && Date.now() < end) await new Promise((resolve) => setImmediate(resolve));
    assert.ok(refused.size >= 150 && refused.size < 1_200, `${refused.size} of 1200 were turned away`);
    for (const socket of sockets) socket.destroy();
    // Places come back when the box has seen them close.
    for (;;) {
      const info = await box.client.call("GET", PATHS.info).catch(() => undefined);
      if (info?.status === 200) break;
      assert.ok(Date.now() < end, "places come back");
    }
  });
});

const HOGS: readonly (readonly [what: string, pack: PackageInput, ends: RegExp])[] = [
  [
    "memory (deno)",
    deno("const held = []; for (;;) held.push(new Uint8Array(1e7).fill(1));"),
    /out-of-memory/,
  ],
  [
    "memory (python)",
    python("held = []\nwhile True: held.append(bytearray(10_000_000))"),
    /out-of-memory|MemoryError/,
  ],
  [
    "processes (python)",
    python(
      "import os\nn = 0\nwhile True:\n    try:\n        if os.fork() == 0:\n            import time; time.sleep(60)\n        n += 1\n    except OSError: break\napi.send('refused')",
      { syscalls: ["fork"] },
    ),
    /returned/,
  ],
  [
    "threads (python)",
    python(
      "import threading, time\ntry:\n    while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nexcept RuntimeError: api.send('refused')",
    ),
    /returned/,
  ],
  [
    "scratch space (python)",
    python(
      "try:\n    f = open('/tmp/fill', 'wb')\n    while True: f.write(b'x' * 65536)\nexcept OSError: api.send('refused')",
    ),
    /returned/,
  ],
  ["log lines (deno)", deno("for (let n = 0; n < 50_000; n++) console.log('x'.repeat(1000));"), /returned/],
];

describe("escape: limits of one function, and its neighbour", () => {
  for (const [what, pack, ends] of HOGS) {
    it(`escape 23, 25, 28, 29: a function at its limit of ${what}`, async () => {
      const hog = await box.client.run({ package: pack });
      await hog.next("attached");
      const ended = outcomeOf(hog);
      while ((await Promise.race([ended, neighbourIsWell()])) === undefined);
      const outcome = await ended;
      hog.hangUp();
      assert.match(JSON.stringify(outcome), ends);
      await neighbourIsWell();
    });
  }

  it("escape 25: fork with another group granted, though the box would grant fork, too (python)", async () => {
    const forks = (groups: string[]) =>
      python(
        "import os\ntry:\n    if os.fork() == 0: os._exit(0)\n    api.send('forked')\nexcept OSError as e: api.send(e.strerror)",
        { syscalls: groups },
      );
    for (const [groups, expected] of [
      [["files"], "Operation not permitted"],
      [["fork"], "forked"],
    ] as const) {
      const session = await box.client.run({ package: forks([...groups]) });
      await session.next("attached");
      assert.equal(await session.text(), expected);
      session.hangUp();
    }
  });

  it("escape 26, 29: functions that spin and that flood while nobody reads, until they are killed", async () => {
    const spin = await box.client.run({ package: deno("for (;;);") });
    const flood = await box.client.run({
      package: deno("for (;;) await session.send(new Uint8Array(60_000));"),
    });
    const hogs = [spin, flood];
    const tokens: string[] = [];
    for (const session of hogs) {
      session.acknowledge = false;
      tokens.push((await session.next("attached")).attached.instance);
    }
    await untilNone("control: it does flood", async () => (flood.bytes > 0 ? [] : ["no output"]), 30_000);
    for (let times = 0; times < 50; times++) await neighbourIsWell();
    assert.ok((await residentBytes()) < RSS_MAX_BYTES);
    for (const token of tokens) {
      const closed = await box.client.call("POST", PATHS.close, { token, body: { kill: true } });
      assert.equal(closed.status, 200, closed.text);
    }
    for (const session of hogs) session.hangUp();
    await neighbourIsWell();
  });
});
