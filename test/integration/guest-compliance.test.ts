// One table of behaviours, run against both real runtimes, as plain processes and in the sandbox: what a box relies on (spec/guest).

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { duplexPair } from "node:stream";
import { after, before, describe, test } from "node:test";
import type { JsonValue } from "../../src/wire/api.ts";
import type { Grant } from "../../src/wire/grant.ts";
import { Limits } from "../../src/wire/limits.ts";
import {
  fakeNet,
  GuestBench,
  memoryStorage,
  NET,
  PLACES,
  type RunningGuest,
  type RunOptions,
} from "./guest-harness.ts";

/** The same function in both languages: the body of `invoke(session, env, ...args)`, and of `main(*args)`. */
const IMAGES = ["deno", "python"] as const;
type Sources = Readonly<Record<(typeof IMAGES)[number], string>>;

const ECHO: Sources = {
  deno: "for await (const message of session) await session.send(message);",
  python: `
while True:
    try:
        api.send(api.recv())
    except EOFError:
        break`,
};

const FLOOD: Sources = {
  deno: "for (let at = 0; at < 64; at++) await session.send(new Uint8Array(65536).fill(at));",
  python: `
for at in range(64):
    api.send(bytes([at]) * 65536)`,
};

const deno = (body: string) =>
  `import { defineFunction } from "bento/function";
export default defineFunction({ async invoke(session, env, ...args) { ${body}
} });`;
const python = (body: string) =>
  `def main(*args):\n${body
    .split("\n")
    .map((line) => `    ${line}`)
    .join("\n")}\n`;
const storageGrant: Partial<Grant> = { storage: { bytes: 1000 } };

for (const { image, place } of IMAGES.flatMap((name) =>
  PLACES.map((where) => ({ image: name, place: where })),
)) {
  describe(`guest ${image}, ${place}`, { timeout: 60_000 }, () => {
    let bench: GuestBench;
    before(async () => {
      bench = await GuestBench.open(place);
    });
    after(async () => {
      await bench[Symbol.asyncDispose]();
    });
    const run = (sources: Sources, options: RunOptions = {}): Promise<RunningGuest> =>
      bench.run(image, image === "deno" ? deno(sources.deno) : python(sources.python), options);

    test("arguments arrive and output leaves as whole messages, then the guest returns", async () => {
      await using guest = await run(
        {
          deno: "await session.send(JSON.stringify(args)); await session.send('zwei ü');",
          python: "import json\napi.send(json.dumps(args, separators=(',', ':')))\napi.send('zwei ü')",
        },
        { invocation: { args: [1, "a", null, { k: [true, 2.5] }] } },
      );
      assert.deepEqual(await guest.all(), ['[1,"a",null,{"k":[true,2.5]}]', "zwei ü"]);
      assert.deepEqual(await guest.ended, { kind: "returned" });
      assert.equal(await guest.exited, 0);
    });

    test("input messages arrive whole and in order, and input ends", async () => {
      await using guest = await run(ECHO);
      for (const text of ["one", "", "three"]) await guest.send(text);
      guest.link.endInput();
      const texts = await guest.all();
      assert.deepEqual(texts, image === "deno" ? ["one", "", "three"] : ["one", "three"]);
      assert.deepEqual(await guest.ended, { kind: "returned" });
    });

    test("a message of 1 MiB passes both ways in fragments", async () => {
      await using guest = await run(ECHO);
      const message = randomBytes(Limits.inputMessageBytesMax);
      for (let at = 0; at < 3; at++) {
        await guest.send(message);
        assert.equal(Buffer.compare((await guest.next()) ?? Buffer.alloc(0), message), 0);
      }
      assert.ok(guest.fragments.every(({ bytes }) => bytes.length <= Limits.fragmentBytesMax));
      guest.link.endInput();
      assert.deepEqual(await guest.ended, { kind: "returned" });
    });

    test("output stops at the window until it is consumed", async () => {
      await using guest = await run(FLOOD, { reads: false });
      let held = 0;
      while (held + Limits.fragmentBytesMax < Limits.streamWindowBytes) {
        await guest.next();
        held = guest.fragments.reduce((sum, { cost }) => sum + cost, 0);
      }
      // Another answer of the guest comes after all it could send: nothing more is under way.
      assert.equal(guest.fragments.length, 3);
      assert.ok(held <= Limits.streamWindowBytes);
      for (let consumed = 0; consumed < 64; consumed++) {
        const fragment = guest.fragments[consumed] ?? assert.fail("no fragment to consume");
        guest.link.credit(fragment.cost);
        if (guest.fragments.length < 64) await guest.next();
      }
      assert.deepEqual(await guest.ended, { kind: "returned" });
      assert.equal(guest.fragments.length, 64);
    });

    test("input stops at the window until the function takes it", async () => {
      const go = Promise.withResolvers<Readonly<Record<string, JsonValue>>>();
      const asked = Promise.withResolvers<void>();
      const box = async () => {
        asked.resolve();
        return go.promise;
      };
      await using guest = await run(
        {
          deno: `await env.box.facts(); let count = 0;
            for await (const message of session) count++;
            await session.send(String(count));`,
          python: `
api.box_facts()
count = 0
try:
    while True:
        api.recv()
        count += 1
except EOFError:
    api.send(str(count))`,
        },
        { grant: { box: ["load"] }, services: { box } },
      );
      await asked.promise;
      let sent = 0;
      const full = Promise.withResolvers<void>();
      const sending = (async () => {
        for (; sent < 100; sent++) {
          if (sent === 7) full.resolve();
          await guest.link.sendInput(new Uint8Array(32 * 1024), { last: true });
        }
        guest.link.endInput();
      })();
      await full.promise;
      // Turns in which more would be sent if anything had been given back.
      for (let at = 0; at < 200; at++) await new Promise((resolve) => setImmediate(resolve));
      // One whole message counts as taken before the function asks for it, seven more fit into the window.
      assert.ok(sent <= 9, `${sent} messages were taken`);
      go.resolve({});
      await sending;
      assert.deepEqual(await guest.all(), ["100"]);
    });

    test("stop ends the input", async () => {
      await using guest = await run(ECHO);
      await guest.send("x");
      await guest.next();
      guest.link.stop();
      assert.deepEqual(await guest.ended, { kind: "returned" });
    });

    test("an error reaches the box with the function's own frames", async () => {
      await using guest = await run({
        deno: "\n  const inner = () => { throw new RangeError('bad ü'); };\n  await null;\n  inner();",
        python: "def inner():\n    raise ValueError('bad ü')\ninner()",
      });
      const end = await guest.ended;
      assert.ok(end.kind === "failed");
      assert.equal(end.failure.name, image === "deno" ? "RangeError" : "ValueError");
      assert.equal(end.failure.message, "bad ü");
      assert.match(
        end.failure.traceback,
        image === "deno" ? /function\.ts:3:/ : /File "function\.py", line 3, in inner/,
      );
      if (image === "python") assert.match(end.failure.traceback, /raise ValueError\('bad ü'\)/);
      assert.doesNotMatch(end.failure.traceback, /runner|bento|deno|blob:|data:|<frozen|\/tmp|\/usr/);
    });

    test("deno: frames are the function's own, however large the source and whatever stands in it", async () => {
      if (image !== "deno") return;
      for (const padding of ["", "x".repeat(20_000), "'(): \"\\` é \\ud800 %27", "/* :1:2) */"]) {
        await using guest = await bench.run(
          image,
          `const padding = ${JSON.stringify(padding)};\nexport default { invoke(session: unknown) {\n  throw new Error(padding.slice(0, 1)); } };`,
        );
        const end = await guest.ended;
        assert.ok(end.kind === "failed");
        assert.match(end.failure.traceback, /\n\s+at Object\.invoke \(function\.ts:3:\d+\)$/);
      }
    });

    test("an error while loading reaches the box", async () => {
      for (const source of [
        "this is no code",
        image === "deno" ? "throw new Error('early')" : "raise Exception('early')",
      ]) {
        await using guest = await bench.run(image, source);
        const end = await guest.ended;
        assert.ok(end.kind === "failed");
        assert.match(
          end.failure.traceback,
          image === "deno" ? /function\.ts:1:/ : /File "function\.py", line 1/,
        );
        assert.doesNotMatch(end.failure.traceback, /blob:|data:|runner|\/tmp/);
      }
    });

    test("a function without an entry is refused with what is missing", async () => {
      await using guest = await bench.run(image, image === "deno" ? "export const x = 1" : "x = 1");
      const end = await guest.ended;
      assert.ok(end.kind === "failed");
      assert.match(end.failure.message, /Cannot start/);
    });

    test("output before an error arrives before it", async () => {
      await using guest = await run({
        deno: "session.send('a'); session.send('b'); throw new Error('x');",
        python: "api.send('a')\napi.send('b')\nraise Exception('x')",
      });
      const texts = await guest.all();
      assert.deepEqual(texts, ["a", "b"]);
      assert.equal((await guest.ended).kind, "failed");
    });

    test("a guest that exits by itself is lost", async () => {
      await using guest = await run({ deno: "Deno.exit(3);", python: "import os\nos._exit(3)" });
      const end = await guest.ended;
      assert.ok(end.kind === "lost");
      assert.equal(end.error.code, "guest-gone");
    });

    test("what is printed becomes log lines and leaves the channel alone", async () => {
      await using guest = await run({
        deno: "console.log('a', { b: 1 }); console.error('c'); env.log.warn('d'); await session.send('x');",
        python:
          "import sys\nprint('a', {'b': 1})\nprint('c', file=sys.stderr)\napi.log.warn('d')\napi.send('x')",
      });
      assert.deepEqual(await guest.all(), ["x"]);
      assert.equal((await guest.ended).kind, "returned");
      assert.equal(guest.logs.length, 3);
      assert.match(guest.logs[0]?.text ?? "", /^a \{ ?'?b'?: 1 ?\}$/);
      assert.deepEqual(guest.logs[2], { level: "warn", text: "d" });
    });

    test("a flood of log lines is cut, not queued", async () => {
      await using guest = await run({
        deno: "for (let at = 0; at < 3000; at++) env.log.info('x'.repeat(10000)); await session.send('done');",
        python: "for at in range(3000): api.log.info('x' * 10000)\napi.send('done')",
      });
      assert.deepEqual(await guest.all(), ["done"]);
      assert.ok(guest.logs.length < 300, `${guest.logs.length} lines`);
      assert.ok(guest.logs.every(({ text }) => Buffer.byteLength(text) <= Limits.logTextBytesMax));
    });

    test("what was not granted is not there", async () => {
      await using guest = await run({
        deno: "await session.send(Object.keys(env).sort().join());",
        python: "api.send(','.join(sorted(name for name in dir(api) if name[0] != '_')))",
      });
      const expected = image === "deno" ? "log,self" : "HostError,log,poll,recv,remove_function,send";
      assert.deepEqual(await guest.all(), [expected]);
    });

    test("storage: values go in and come out whole, and are listed and deleted", async () => {
      await using guest = await run(
        {
          deno: `
            const value = new Uint8Array(700_000).map((_, at) => at % 251);
            const put = await env.storage.put("a/1", (async function* () { yield value.subarray(0, 9); yield value.subarray(9); })());
            await env.storage.put("a/2", "text"); await env.storage.put("b", "");
            const found = await env.storage.get("a/1");
            const back = await found.bytes();
            const keys = []; for await (const { key, bytes } of env.storage.list({ prefix: "a/" })) keys.push(key + "=" + bytes);
            const part = await (await env.storage.get("a/2", { offset: 2 })).text();
            const missing = await env.storage.get("none");
            const gone = [await env.storage.delete("b"), await env.storage.delete("b")];
            await session.send(JSON.stringify([put.bytes, found.size, back.length, back.every((byte, at) => byte === at % 251), keys, part, missing === undefined, gone]));`,
          python: `
import json
value = bytes(at % 251 for at in range(700000))
put = api.storage_put("a/1", value)
api.storage_put("a/2", "text")
api.storage_put("b", "")
back = api.storage_get("a/1")
keys = [key + "=" + str(size) for key, size in api.storage_list("a/")]
part = api.storage_get("a/2", 2).decode()
missing = api.storage_get("none")
gone = [api.storage_delete("b"), api.storage_delete("b")]
api.send(json.dumps([put, len(back), len(back), back == value, keys, part, missing is None, gone], separators=(",", ":")))`,
        },
        { grant: storageGrant, services: { storage: memoryStorage() } },
      );
      assert.deepEqual(await guest.all(), [
        '[700000,700000,700000,true,["a/1=700000","a/2=4"],"xt",true,[true,false]]',
      ]);
      assert.equal((await guest.ended).kind, "returned");
    });

    test("storage: the box sends values in their place among the messages, and says how much", async () => {
      await using guest = await run(
        {
          deno: `
            await env.storage.put("v", "0123456789");
            const refusal = (error) => error.code;
            const sent = [
              session.send("before"), env.storage.send("v"), session.send("x".repeat(400_000)),
              env.storage.send("v", { offset: 8, bytes: 100 }), env.storage.send("v", { offset: 2, bytes: 3 }),
              env.storage.send("v", { offset: 10 }), env.storage.send("none"),
              env.storage.send("v", { offset: 11 }).catch(refusal), env.storage.send("v", { bytes: -1 }).catch(refusal),
            ];
            await session.send("after");
            await session.send(JSON.stringify((await Promise.all(sent)).map((size) => size ?? null).filter((_, at) => at !== 0 && at !== 2)));`,
          python: `
import json
api.storage_put("v", "0123456789")
api.send("before")
def refusal(*range):
    try:
        return api.storage_send("v", *range)
    except api.HostError as error:
        return error.code
sizes = [api.storage_send("v")]
api.send("x" * 400000)
sizes += [api.storage_send("v", 8, 100), api.storage_send("v", 2, 3), api.storage_send("v", 10), api.storage_send("none")]
sizes += [refusal(11), refusal(0, -1)]
api.send("after")
api.send(json.dumps(sizes, separators=(",", ":")))`,
        },
        { grant: storageGrant, services: { storage: memoryStorage() } },
      );
      const expected = ["before", "0123456789", "x".repeat(400_000), "89", "234"];
      // A box does not carry empty messages; here it is told of them.
      assert.deepEqual(
        (await guest.all()).filter((text) => text !== ""),
        [...expected, "after", '[10,2,3,0,null,"storage-offset","bad-call"]'],
      );
      assert.equal((await guest.ended).kind, "returned");
    });

    test("storage: a refusal in the middle of a value reaches the function with its code", async () => {
      await using guest = await run(
        {
          deno: "try { await env.storage.put('k', new Uint8Array(3_000_000)); } catch (error) { await session.send(error.code); }",
          python:
            "try:\n    api.storage_put('k', bytes(3000000))\nexcept api.HostError as error:\n    api.send(error.code)",
        },
        { grant: storageGrant, services: { storage: memoryStorage(100_000) } },
      );
      assert.deepEqual(await guest.all(), ["storage-quota"]);
      assert.equal((await guest.ended).kind, "returned");
    });

    test("storage: many keys come in pages", async () => {
      const storage = memoryStorage();
      for (let at = 0; at < 600; at++) {
        const key = String(at).padStart(4, "0").padEnd(400, "k");
        await storage.put(key, (async function* () {})(), { signal: new AbortController().signal });
      }
      await using guest = await run(
        {
          deno: "let count = 0; for await (const { key } of env.storage.list()) count += Number(key.startsWith('0')); await session.send(String(count));",
          python: "return str(len(list(api.storage_list())))",
        },
        { grant: storageGrant, services: { storage } },
      );
      assert.deepEqual(await guest.all(), ["600"]);
    });

    test("net: bytes pass both ways, and each direction ends by itself", async () => {
      const [near, far] = duplexPair();
      // The far end answers only after the function has ended its direction.
      const received: Uint8Array[] = [];
      far.on("data", (chunk: Uint8Array) => received.push(chunk));
      far.on("end", () => far.end(Buffer.concat(received)));
      const net = fakeNet({ "echo.test:7": () => near });
      await using guest = await run(
        {
          deno: `
            const connection = await env.net.connect({ host: "echo.test", port: 7 });
            const writer = connection.writable.getWriter();
            for (let at = 0; at < 40; at++) await writer.write(new Uint8Array(20_000).fill(at));
            await writer.close();
            const back = await new Response(connection.readable).bytes();
            await connection.closed;
            await session.send(back.length + " " + back.every((byte, at) => byte === Math.floor(at / 20_000)));`,
          python: `
connection = api.net_connect("echo.test", 7)
for at in range(40):
    connection.send(bytes([at]) * 20000)
connection.end()
back = b""
while part := connection.recv():
    back += part
api.send("%d %s" % (len(back), str(back == b"".join(bytes([at]) * 20000 for at in range(40))).lower()))`,
        },
        { grant: NET, services: { net } },
      );
      assert.deepEqual(await guest.all(), ["800000 true"]);
      assert.deepEqual(net.asked, ["echo.test:7"]);
    });

    test("net: a refusal reaches the function with code and rule", async () => {
      await using guest = await run(
        {
          deno: "try { await env.net.connect({ host: 'x.test', port: 25 }); } catch (error) { await session.send(error.code + ' ' + error.message); }",
          python:
            "try:\n    api.net_connect('x.test', 25)\nexcept api.HostError as error:\n    api.send(error.code + ' ' + str(error))",
        },
        { grant: NET, services: { net: fakeNet({}) } },
      );
      assert.deepEqual(await guest.all(), ["net-refused Cannot connect: no rule allows port 25"]);
    });

    test("net: a broken connection breaks the function's streams, not the guest", async () => {
      const [near] = duplexPair();
      await using guest = await run(
        {
          deno: `const connection = await env.net.connect({ host: "x.test", port: 1 });
            await session.send("open");
            try { await new Response(connection.readable).bytes(); } catch (error) { await session.send(error.code); }`,
          python: `
connection = api.net_connect("x.test", 1)
api.send("open")
try:
    connection.recv()
except api.HostError as error:
    api.send(error.code)`,
        },
        { grant: NET, services: { net: fakeNet({ "x.test:1": () => near }) } },
      );
      await guest.next();
      near.destroy(new Error("secret detail"));
      assert.deepEqual(await guest.all(), ["net-closed"]);
    });

    test("box: the granted facts arrive", async () => {
      await using guest = await run(
        {
          deno: "await session.send(JSON.stringify(await env.box.facts()));",
          python: "import json\napi.send(json.dumps(api.box_facts(), separators=(',', ':')))",
        },
        { grant: { box: ["load"] }, services: { box: async () => ({ load: [0.5, 1, 2] }) } },
      );
      assert.deepEqual(await guest.all(), ['{"load":[0.5,1,2]}']);
    });

    test("a call without its service is refused, not fatal", async () => {
      await using guest = await run(
        {
          deno: "try { await env.storage.delete('x'); } catch (error) { await session.send(error.code); }",
          python:
            "try:\n    api.storage_delete('x')\nexcept api.HostError as error:\n    api.send(error.code)",
        },
        { grant: storageGrant },
      );
      assert.deepEqual(await guest.all(), ["not-granted"]);
    });

    test("parameters out of bounds are refused, not fatal", async () => {
      await using guest = await run(
        {
          deno: "for (const key of ['', 'k'.repeat(513)]) try { await env.storage.delete(key); } catch (error) { await session.send(error.code); }",
          python:
            "for key in ('', 'k' * 513):\n    try:\n        api.storage_delete(key)\n    except api.HostError as error:\n        api.send(error.code)",
        },
        { grant: storageGrant, services: { storage: memoryStorage() } },
      );
      assert.deepEqual(await guest.all(), ["bad-call", "bad-call"]);
    });

    test("a guest whose box is gone ends", async () => {
      await using guest = await run(ECHO);
      await guest.send("x");
      await guest.next();
      await guest.link[Symbol.asyncDispose]();
      await guest.exited;
    });
  });
}
