// What a function can do to its box through the one channel out of the sandbox, with the whole box around it: frames
// that are not, values that are more than data, calls on storage beyond what is granted, state left for others. A
// neighbour in the same box is asked after each.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { PATHS } from "../../src/wire/api.ts";
import { encodeGuestFrame, GUEST_FRAME } from "../../src/wire/guest-frame.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import type { TestSession } from "../support/box-client.ts";
import { ownUids } from "../support/own-uids.ts";
import { SpawnedBox } from "../support/spawned-box.ts";

const UIDS = ownUids(40);
const IMAGES = ["deno", "python"] as const;
type Image = (typeof IMAGES)[number];

let dir: string;
let box: SpawnedBox;
let neighbour: TestSession;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-escape-"));
  const toml = `[warm]\ndeno = 2\npython = 2\n`;
  box = await SpawnedBox.start(join(dir, "data"), { uids: UIDS, toml });
  neighbour = await box.client.run({
    package: deno("for await (const message of session) await session.send(message);"),
  });
  await neighbour.next("attached");
});
after(async () => {
  neighbour.hangUp();
  await box[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

const manifest = (image: Image, more: object = {}) => ({ name: "f", image, ...more });
const deno = (body: string, more: object = {}): PackageInput => ({
  manifest: manifest("deno", more),
  source: `export default { async invoke(session, env, ...args) { ${body} } };`,
});
const python = (body: string, more: object = {}): PackageInput => ({
  manifest: manifest("python", more),
  source: `def main(*args):\n${body.replace(/^/gm, "    ")}\n`,
});

async function neighbourIsWell(): Promise<void> {
  neighbour.input("well?");
  assert.equal(await neighbour.text(), "well?");
}

/** Runs to the end: its output messages as text, and the outcome. */
async function run(pack: PackageInput, args: string[] = [], token?: string) {
  const session = await box.client.run(
    token === undefined ? { package: pack, invocation: { args } } : { invocation: { args } },
    token,
  );
  const { stored } = (await session.next("attached")).attached;
  const texts: string[] = [];
  for (;;) {
    const frame = await session.frames.receive({ signal: AbortSignal.timeout(20_000) });
    assert.ok(frame?.kind === "output" || frame?.kind === "ended", JSON.stringify(frame));
    if (frame.kind === "ended") {
      session.hangUp();
      return { texts, outcome: frame.outcome, stored };
    }
    texts.push(Buffer.from(frame.bytes).toString());
  }
}

/** Functions that write the bytes of their argument (hex) into the raw channel and then wait for ever. */
const RAW: Readonly<Record<Image, PackageInput>> = {
  deno: deno(`
    const { stdout } = await import("node:process");
    stdout.write(Uint8Array.from(args[0].match(/../g), (pair) => Number.parseInt(pair, 16)));
    await new Promise(() => {});`),
  python: python(`
import fcntl, os, stat
for fd in range(3, 64):
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == os.O_WRONLY:
            os.write(fd, bytes.fromhex(args[0]))
    except OSError:
        pass
api.recv()`),
};

const hex = (...parts: Uint8Array[]): string => Buffer.concat(parts).toString("hex");
const json = (type: number, id: number, text: string) => encodeGuestFrame(type, id, Buffer.from(text));
const u32 = (value: number): Uint8Array => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
const call = (id: number, text: string) => json(GUEST_FRAME.call, id, text);
const LIST = '{"method":"storage.list","params":{"prefix":"","limit":1}}';
/** No call of the runner itself has come this far. */
const ID = 1000;

const MALFORMED: readonly (readonly [what: string, hex: string])[] = [
  ["a length of 4 GiB", "ffffffff2100000000"],
  ["a length one above the limit", "000100012100000000"],
  ["an unknown type", hex(encodeGuestFrame(0x7f, 0))],
  ["a type of the box", hex(json(GUEST_FRAME.start, 0, "{}"))],
  ["ready a second time", hex(encodeGuestFrame(GUEST_FRAME.ready, 0))],
  ["credit of nothing", hex(encodeGuestFrame(GUEST_FRAME.credit, 0, u32(0)))],
  ["credit for more than was sent", hex(encodeGuestFrame(GUEST_FRAME.credit, 0, u32(0x7fffffff)))],
  ["credit of three bytes", hex(encodeGuestFrame(GUEST_FRAME.credit, 0, Buffer.alloc(3)))],
  ["data on an id that never was", hex(encodeGuestFrame(GUEST_FRAME.data, 0xffffffff, Buffer.from("x")))],
  ["the end of a stream that never was", hex(encodeGuestFrame(GUEST_FRAME.dataEnd, 77))],
  ["a call with id 0", hex(call(0, LIST))],
  ["calls numbered down", hex(call(ID, LIST), call(ID - 1, LIST))],
  ["one id for two calls", hex(call(ID, LIST), call(ID, LIST))],
  ["a call that is no JSON", hex(call(ID, '{"method":'))],
  [
    "a call of invalid UTF-8",
    hex(encodeGuestFrame(GUEST_FRAME.call, ID, Buffer.from("ff".repeat(9), "hex"))),
  ],
  ["a log line that is a list", hex(json(GUEST_FRAME.log, 0, "[1]"))],
  ["a failure that is a number", hex(json(GUEST_FRAME.failed, 0, "1"))],
  ["noise", "a5".repeat(5000)],
];

for (const image of IMAGES) {
  describe(`escape: the channel (${image})`, () => {
    it(`escape 30: malformed frames end the guest that sent them, and nobody else (${image})`, async () => {
      const control = encodeGuestFrame(GUEST_FRAME.output, 0, Buffer.from("by hand"));
      const byHand = await run(RAW[image], [hex(control, encodeGuestFrame(GUEST_FRAME.done, 0))]);
      assert.deepEqual(byHand.texts, ["by hand"], "control: it is the channel that they write to");
      assert.deepEqual(byHand.outcome, { kind: "returned" });
      const elsewhere = encodeGuestFrame(GUEST_FRAME.output, 7, Buffer.from("mine"));
      const ids = await run(RAW[image], [hex(elsewhere, encodeGuestFrame(GUEST_FRAME.done, 0))]);
      assert.deepEqual(ids.texts, ["mine"], "an id in an output frame addresses nobody else");
      const broke = { kind: "killed", reason: "crashed", detail: "the runtime broke the guest protocol" };
      const results: [string, unknown][] = [];
      const rows = [...MALFORMED];
      const attempt = async () => {
        for (let row = rows.shift(); row; row = rows.shift()) {
          results.push([row[0], (await run(RAW[image], [row[1]])).outcome]);
        }
      };
      await Promise.all([attempt(), attempt(), attempt()]);
      for (const [what, outcome] of results) assert.deepEqual(outcome, broke, what);
      assert.equal(results.length, MALFORMED.length);
      await neighbourIsWell();
    });

    it(`escape 34: names of JavaScript's own objects in frames are data (${image})`, async () => {
      const names = ["__proto__", "constructor", "toString", "hasOwnProperty", "then", "net.connect.call"];
      const frames = names.flatMap((name, at) => [
        call(ID + 4 * at, JSON.stringify({ method: name, params: {} })),
        call(ID + 4 * at + 1, `{"method":"box.facts","params":{"${name}":{"granted":true}}}`),
        call(ID + 4 * at + 2, `{"method":"storage.get","params":{"key":"${name}"},"${name}":{"storage":1}}`),
        call(ID + 4 * at + 3, `{"${name}":{"method":"storage.get","params":{"key":"k"}}}`),
      ]);
      const failure = `{"name":"N","message":"M","traceback":"T","__proto__":{"kind":"returned"},"then":1}`;
      const { outcome } = await run(RAW[image], [hex(...frames, json(GUEST_FRAME.failed, 0, failure))]);
      // Each call is refused by itself or ends the guest; none is carried out and none reaches another object.
      assert.ok(outcome.kind === "failed" || outcome.kind === "killed", JSON.stringify(outcome));
      const after = await box.client.call("GET", PATHS.info);
      assert.equal(after.json["granted"] ?? after.json["storage"], undefined);
      assert.deepEqual((await run(WHAT_IS_GRANTED[image])).texts, [NOTHING[image]]);
      await neighbourIsWell();
    });

    it(`escape 34: a client's prototypes and thenables reach neither the box nor the function (${image})`, async () => {
      const hostile =
        '{"__proto__":{"net":{"allow":["*:*"]},"storage":{"bytes":9}},"name":"f","image":"IMAGE"}';
      const { source } = WHAT_IS_GRANTED[image];
      const stored = await box.client.call("POST", PATHS.store, {
        body: `{"manifest":${hostile.replace("IMAGE", image)},"source":${JSON.stringify(source)}}`,
      });
      if (stored.status === 201) {
        const token = String(stored.json["invocationToken"]);
        assert.deepEqual((await run({ manifest: manifest(image), source }, [], token)).texts, [
          NOTHING[image],
        ]);
      } else assert.equal(stored.status, 400);
      const own = await box.client.store(ARGUMENTS[image]);
      const args =
        '{"args":[{"__proto__":{"polluted":1},"then":"x","constructor":{"prototype":{"polluted":1}}}]}';
      const exec = await box.client.call("POST", PATHS.exec, { token: own.invocationToken, body: args });
      assert.equal(exec.status, 201, exec.text);
      const session = await box.client.open(String(exec.json["instance"]));
      await session.next("attached");
      assert.equal(await session.text(), "x clean");
      session.hangUp();
    });

    it(`escape 35, 40: what one instance changes, no other one finds (${image})`, async () => {
      const token = "11111111-2222-4333-8444-555555555555";
      const first = await run(LEAVES[image], [token]);
      assert.deepEqual(first.texts, ["file set, global set"], "control: it finds them itself");
      assert.ok(first.stored);
      const again = await run(LEAVES[image], [token], first.stored.invocationToken);
      const other = await run(LEAVES[image], [token]);
      for (const { texts } of [again, other]) assert.deepEqual(texts, ["file set, global set"]);
      const finds = await Promise.all([run(FINDS[image], [token]), run(FINDS[image], [token])]);
      for (const { texts } of finds) assert.deepEqual(texts, ["file none, global none"]);
    });

    it(`escape 41: storage of another function (${image})`, async () => {
      const owner = await run(STORES[image], ["secret"]);
      assert.deepEqual(owner.texts, ["secret"], "control");
      const thief = await run(READS_ALL[image], ["k", "../k", "/k", "k\0", "%2e%2e/k", "", "K"]);
      assert.deepEqual(thief.texts, ["nothing"]);
      assert.ok(owner.stored);
      const back = await run(STORES[image], [""], owner.stored.invocationToken);
      assert.deepEqual(back.texts, ["secret"], "control: the owner's next instance reads it");
    });

    it(`escape 42: the quota of storage, by many values, large keys and odd offsets (${image})`, async () => {
      const { texts } = await run(FILLS[image]);
      const report = JSON.parse(texts[0] ?? "") as Record<string, number | string>;
      assert.equal(report["many"], "storage-quota", JSON.stringify(report));
      assert.ok(Number(report["stored"]) > 0 && Number(report["stored"]) < 64, JSON.stringify(report));
      assert.equal(report["empty"], "storage-quota", JSON.stringify(report));
      assert.ok(Number(report["empties"]) < 5_000, JSON.stringify(report));
      assert.match(String(report["key512"]), /^ok$/, "control: the longest key");
      assert.match(String(report["key513"]), /^(storage-key|bad-call)$/);
      for (const each of ["negative", "fraction", "huge"]) {
        assert.match(String(report[each]), /^(bad-call|empty|storage-key)$/, each);
      }
      assert.notEqual(report["negative"], "empty");
      assert.equal(report["offset1"], "alue", "control: an offset inside");
      await neighbourIsWell();
    });
  });
}

const STORAGE = { storage: { bytes: "64KiB" } };
const NOTHING = { deno: "log,self", python: "HostError,log,poll,recv,remove_function,send" } as const;

const WHAT_IS_GRANTED: Readonly<Record<Image, PackageInput>> = {
  deno: deno("await session.send(Object.keys(env).sort().join());"),
  python: python('api.send(",".join(sorted(n for n in dir(api) if not n.startswith("_"))))'),
};

const ARGUMENTS: Readonly<Record<Image, PackageInput>> = {
  deno: deno('await session.send(args[0].then + " " + ({}.polluted === undefined ? "clean" : "polluted"));'),
  python: python('api.send(args[0]["then"] + " " + ("polluted" if hasattr({}, "polluted") else "clean"))'),
};

/** Files, globals and replaced built-ins; `LEAVES` makes them, both say what they find. */
const LOOKS: Readonly<Record<Image, string>> = {
  deno: `let file = "none";
    try { file = await Deno.readTextFile("/tmp/left"); } catch {}
    const global = globalThis.left ?? ({}).left ?? (JSON.parse === JSON.stringify ? "set" : "none");
    await session.send("file " + file + ", global " + global);`,
  python: `import builtins, os
file = open("/tmp/left").read() if os.path.exists("/tmp/left") else "none"
api.send("file %s, global %s" % (file, getattr(builtins, "left", "none")))`,
};
const LEAVES: Readonly<Record<Image, PackageInput>> = {
  deno: deno(`await Deno.writeTextFile("/tmp/left", "set");
    globalThis.left = "set"; Object.prototype.left = "set"; globalThis.fetch = () => "set"; ${LOOKS.deno}`),
  python: python(`import builtins
open("/tmp/left", "w").write("set")
builtins.left = "set"
builtins.open_before = open
${LOOKS.python}`),
};
const FINDS: Readonly<Record<Image, PackageInput>> = { deno: deno(LOOKS.deno), python: python(LOOKS.python) };

const STORES: Readonly<Record<Image, PackageInput>> = {
  deno: deno(
    'if (args[0]) await env.storage.put("k", args[0]); await session.send(await (await env.storage.get("k")).text());',
    STORAGE,
  ),
  python: python('if args[0]: api.storage_put("k", args[0])\napi.send(api.storage_get("k"))', STORAGE),
};
const READS_ALL: Readonly<Record<Image, PackageInput>> = {
  deno: deno(
    `const found = [];
    for await (const { key } of env.storage.list()) found.push(key);
    for (const key of args) {
      try { const value = await env.storage.get(key); if (value) found.push(await value.text()); }
      catch (error) { if (!["storage-key", "bad-call"].includes(error.code)) throw error; }
    }
    await session.send(found.join() || "nothing");`,
    STORAGE,
  ),
  python: python(
    `found = [key for key, size in api.storage_list()]
for key in args:
    try:
        value = api.storage_get(key)
        if value is not None: found.append(value.decode())
    except api.HostError as error:
        if error.code not in ("storage-key", "bad-call"): raise
api.send(",".join(found) or "nothing")`,
    STORAGE,
  ),
};

const FILLS: Readonly<Record<Image, PackageInput>> = {
  deno: deno(
    `const report = { stored: 0, empties: 0 };
    const attempt = async (name, act) => {
      try { report[name] = await act() ?? "ok"; } catch (error) { report[name] = error.code ?? String(error); }
    };
    await env.storage.put("v", "value");
    const read = async (offset) => (await (await env.storage.get("v", { offset })).text()) || "empty";
    await attempt("offset1", () => read(1));
    await attempt("negative", () => read(-1));
    await attempt("fraction", () => read(0.5));
    await attempt("huge", () => read(2 ** 60));
    await attempt("key512", async () => { await env.storage.put("k".repeat(512), ""); await env.storage.delete("k".repeat(512)); });
    await attempt("key513", async () => { await env.storage.put("k".repeat(513), ""); });
    await attempt("many", async () => { for (;;) { await env.storage.put("m" + report.stored, "x".repeat(1024)); report.stored++; } });
    for await (const { key } of env.storage.list({ prefix: "m" })) await env.storage.delete(key);
    await attempt("empty", async () => { for (;;) { await env.storage.put("e" + report.empties, ""); report.empties++; } });
    await session.send(JSON.stringify(report));`,
    STORAGE,
  ),
  python: python(
    `import json
report = {"stored": 0, "empties": 0}
def attempt(name, act):
    try:
        report[name] = act() or "ok"
    except Exception as error:
        report[name] = getattr(error, "code", "bad-call")
api.storage_put("v", "value")
read = lambda offset: api.storage_get("v", offset).decode() or "empty"
attempt("offset1", lambda: read(1))
attempt("negative", lambda: read(-1))
attempt("fraction", lambda: read(0.5))
attempt("huge", lambda: read(2 ** 60))
attempt("key512", lambda: (api.storage_put("k" * 512, ""), api.storage_delete("k" * 512)) and "ok")
attempt("key513", lambda: api.storage_put("k" * 513, ""))
def many(prefix, value, count):
    while True:
        api.storage_put(prefix + str(report[count]), value)
        report[count] += 1
attempt("many", lambda: many("m", "x" * 1024, "stored"))
for key in [key for key, size in api.storage_list("m")]:
    api.storage_delete(key)
attempt("empty", lambda: many("e", "", "empties"))
api.send(json.dumps(report))`,
    STORAGE,
  ),
};

describe("escape: names and tokens", () => {
  it("escape 38: hostile names in a package make nothing on the box", async () => {
    const target = join(dir, "planted");
    const names = [
      "../planted",
      `../../${basename(dir)}/planted`,
      target,
      "a/b",
      "..",
      ".",
      "a\0b",
      "-rf",
      "É",
    ];
    const source = "export default { async invoke() {} };";
    const before = await tree(dir);
    const asked = names.flatMap((name) => [
      { manifest: { name, image: "deno" }, source },
      { manifest: { name: "f", image: name }, source },
      { manifest: { name: "f", image: "python", entry: name }, source: "" },
      { manifest: { name: "f", image: "deno" }, source, [name]: source },
      { manifest: { name: "f", image: "deno" }, source, files: { [name]: source } },
      { manifest: { name: "f", image: "deno", files: [name] }, source },
    ]);
    for (const body of asked) {
      const { status } = await box.client.call("POST", PATHS.store, { body });
      assert.equal(status, 400, JSON.stringify(body));
    }
    assert.ok(!existsSync(target) && !existsSync(join(dir, "data", "planted")));
    // A package that is taken: its text lies sealed in the store, and no file has its name.
    const marker = "hostile-marker-in-source";
    const { status } = await box.client.call("POST", PATHS.store, {
      body: {
        manifest: { name: "planted", image: "deno", description: "../planted" },
        source: `// ${marker}`,
      },
    });
    assert.equal(status, 201, "control");
    const added = (await tree(dir)).filter((path) => !before.includes(path));
    assert.deepEqual(
      added.filter((path) => !/\.(sqlite|db)(-wal|-shm|-journal)?$|pipes\//.test(path)),
      [],
    );
  });

  it("escape 35: a function does not find the tokens of its caller in its own process (python)", async () => {
    const uuid = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}";
    const pack = python(`
import gc, re
planted = args[0]
found = set()
for thing in gc.get_objects():
    for each in gc.get_referents(thing):
        if isinstance(each, bytes): each = each.decode("latin-1")
        if isinstance(each, str): found.update(re.findall("${uuid}", each))
api.send(",".join(sorted(found)))`);
    const planted = "99999999-2222-4333-8444-555555555555";
    const { texts, stored } = await run(pack, [planted]);
    assert.ok(stored);
    assert.deepEqual(texts, [planted], "control: its argument is found, and nothing else");
  });
});

async function tree(directory: string): Promise<string[]> {
  return (await readdir(directory, { recursive: true })).sort();
}
