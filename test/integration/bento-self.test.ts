// Functions that deploy functions on their own box, with everything real but Tor: sandbox, both runtimes, store, the
// box's own listener. What a tree of functions can come to, and what is left of it. Needs root.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { PATHS } from "../../src/wire/api.ts";
import { ownUids } from "../support/own-uids.ts";
import { SpawnedBox } from "../support/spawned-box.ts";

const UIDS = ownUids(100);
const TOML = `[policy.bento]
boxes = ["self"]
functions = 8
depth = 3
`;

let dataDir: string;
let box: SpawnedBox;
before(async () => {
  dataDir = await mkdtemp(join(tmpdir(), "bento-self-"));
  box = await SpawnedBox.start(dataDir, { uids: UIDS, toml: TOML });
});
after(async () => {
  await box[Symbol.asyncDispose]();
  await rm(dataDir, { recursive: true });
});

type Deployer = { functions: number; [field: string]: unknown };

const ECHO = {
  manifest: { name: "echo", image: "deno" },
  source:
    "export default { async invoke(session) { for await (const m of session) await session.send(m); } };",
};

function deployer(body: string, bento: Deployer = { functions: 1 }) {
  return {
    manifest: { name: "deployer", image: "deno" as const, bento: { boxes: ["self"], ...bento } },
    source: `const ECHO = ${JSON.stringify(ECHO)};
      const text = (bytes) => new TextDecoder().decode(bytes);
      const codeOf = (promise) => promise.then(() => "none", (error) => error.code ?? String(error));
      export default { async invoke(session, env, ...args) { ${body} } };`,
  };
}

/** Runs it to its end: its messages as text. Fails when it did not return. */
async function run(body: string, bento?: Deployer, args: string[] = []): Promise<string[]> {
  const session = await box.client.run({ package: deployer(body, bento), invocation: { args } });
  await session.next("attached");
  const messages: string[] = [];
  for (;;) {
    const frame = await session.frames.receive({ signal: AbortSignal.timeout(60_000) });
    if (frame?.kind === "output") messages.push(Buffer.from(frame.bytes).toString());
    else if (frame?.kind === "ended") {
      assert.deepEqual(frame.outcome, { kind: "returned" }, messages.join("\n"));
      return messages;
    }
  }
}

test("env.bento: deploys, runs, talks with, and shuts down a function on its own box", async () => {
  const messages = await run(`
    const deployed = await env.bento.deploy("self", ECHO);
    const far = await env.bento.run("self", { token: deployed.invocationToken });
    for (const message of ["one", "", "two", "x".repeat(300_000)]) await far.send(message);
    await far.endInput();
    for await (const message of far) await session.send(message.length > 10 ? "long " + message.length : text(message));
    await session.send(JSON.stringify(await far.ended));
    await session.send(deployed.box + " " + far.offset);
    await session.send(String(await env.bento.shutdown("self", deployed.shutdownToken)));
    await session.send(await codeOf(env.bento.run("self", { token: deployed.invocationToken })));
  `);
  assert.deepEqual(messages, [
    "one",
    "two",
    "long 300000",
    '{"kind":"returned"}',
    "self 300006",
    "0",
    "bad-token",
  ]);
});

test("env.bento: a function that deploys itself stops by its depth and its functions, whatever it asks for", async () => {
  // Each generation tries every number of functions that it might hand on, and says how far it got.
  const recursive = `
    const [depth, functions, source] = args;
    const lines = [];
    for (let child = 0; child < functions + 2; child++) {
      const bento = { boxes: ["self"], functions: Math.max(1, functions - 1 - child), depth: Math.max(1, depth - 1), invocations: 2 ** depth, bytes: 4 ** depth + "MiB" };
      const manifest = { name: "deployer", image: "deno", bento };
      try {
        const far = await env.bento.run("self", { manifest, source }, { args: [bento.depth, bento.functions, source], linked: true });
        await far.endInput();
        for await (const message of far) lines.push(...text(message).split("\\n"));
        lines.push("deployed");
      } catch (error) {
        lines.push(error.code ?? String(error));
      }
    }
    await session.send(lines.join("\\n"));`;
  const { source } = deployer(recursive);
  const bento = { functions: 4, depth: 3, invocations: 32, bytes: "256MiB" };
  const session = await box.client.run({
    package: deployer(recursive, bento),
    invocation: { args: [bento.depth, bento.functions, source] },
  });
  await session.next("attached");
  const lines = (await session.text()).split("\n");
  assert.equal((await session.next("ended")).outcome.kind, "returned");
  const count = (line: string) => lines.filter((one) => one === line).length;
  assert.ok(count("deployed") >= 2, lines.join());
  assert.ok(count("deployed") <= bento.functions, lines.join());
  assert.ok(count("bento-depth") > 0, lines.join());
  assert.deepEqual(
    lines.filter((line) => !["deployed", "bento-depth", "bento-budget"].includes(line)),
    [],
  );
});

test("env.bento: two functions that invoke each other stop when their invocations are used up", async () => {
  const ping = `
    const [own, other] = args;
    let code = "none";
    try {
      const far = await env.bento.run("self", { token: other }, { args: [other, own] });
      await far.endInput();
      for await (const message of far) await session.send(message);
    } catch (error) { code = error.code ?? String(error); }
    await session.send("called, then " + code);`;
  const limits = { bento: { boxes: ["self"], functions: 1, invocations: 2 }, memory: "64MiB" };
  const pack = { ...deployer(ping), manifest: { ...deployer(ping).manifest, ...limits } };
  const [a, b] = [await box.client.store(pack), await box.client.store(pack)];
  const instance = await box.client.exec(a.invocationToken, {
    args: [a.invocationToken, b.invocationToken],
  });
  const session = await box.client.open(instance);
  await session.next("attached");
  const messages = [];
  for (;;) {
    const frame = await session.frames.receive({ signal: AbortSignal.timeout(60_000) });
    if (frame?.kind !== "output") break;
    messages.push(Buffer.from(frame.bytes).toString());
  }
  // a b a b and once more a, whose two invocations are gone.
  assert.deepEqual(messages, ["called, then bento-budget", ...Array(4).fill("called, then none")]);
});

test("env.bento: what is linked ends with the instance, however it ends; what is not goes on", async () => {
  const alive = async (token: string) => (await box.client.call("GET", PATHS.list, { token })).status === 200;
  for (const end of ["return", "throw new Error('x')", "await new Promise(() => {})"]) {
    const body = `
      const linked = await env.bento.deploy("self", ECHO, { linked: true });
      const free = await env.bento.deploy("self", ECHO);
      await session.send(linked.shutdownToken + " " + free.shutdownToken);
      ${end};`;
    const session = await box.client.run({ package: deployer(body, { functions: 2 }) });
    const { attached } = await session.next("attached");
    const [linked = "", free = ""] = (await session.text()).split(" ");
    if (end.startsWith("await")) {
      await box.client.call("POST", PATHS.close, { token: attached.instance, body: { kill: true } });
    }
    await session.next("ended");
    const deadline = AbortSignal.timeout(30_000);
    while (await alive(linked)) deadline.throwIfAborted();
    assert.equal(await alive(free), true, end);
    await box.client.call("POST", PATHS.shutdown, { token: free, body: {} });
  }
});

test("env.bento: boxes that were not granted, tokens that are none, and budgets are refused with their codes", async () => {
  const port = box.client.port;
  const messages = await run(
    `
    const [port] = args;
    const codes = [];
    codes.push(await codeOf(env.bento.info("127.0.0.1:1")));
    codes.push(await codeOf(env.bento.info("example.com:80")));
    codes.push(await codeOf(env.bento.info("not an address")));
    codes.push(await codeOf(env.bento.info("127.0.0.1:" + port)));
    codes.push(await codeOf(env.bento.run("self", { token: "nonsense" })));
    codes.push(await codeOf(env.bento.shutdown("self", "end-" + "A".repeat(43))));
    codes.push(await codeOf(env.bento.open("self", crypto.randomUUID())));
    codes.push(await codeOf(env.bento.deploy("self", { manifest: { name: "NO" }, source: "x" })));
    const greedy = { ...ECHO, manifest: { ...ECHO.manifest, memory: "1TiB" } };
    const refused = await env.bento.deploy("self", greedy).catch((error) => error);
    codes.push(refused.code, refused.refusals[0].rule);
    codes.push(await codeOf(env.bento.deploy("self", { ...ECHO, source: "x".repeat(5e6) })));
    codes.push(await codeOf(env.bento.deploy("self", ECHO)));
    codes.push(await codeOf(env.bento.deploy("self", ECHO)));
    const { bento } = await env.bento.policy("self");
    codes.push(bento.boxes.join(), bento.depth);
    await session.send(codes.join(" "));`,
    { functions: 1 },
    [String(port)],
  );
  const codes = messages[0]?.split(" ");
  assert.deepEqual(codes, [
    "bento-refused",
    "bento-refused",
    "bento-refused",
    "none",
    "bad-token",
    "bad-token",
    "bad-token",
    "bad-manifest",
    "policy-refused",
    "memory",
    "too-large",
    "none",
    "bento-budget",
    "self",
    "3",
  ]);
});

test("env.bento: without the grant there is nothing", async () => {
  assert.deepEqual(await run("await session.send(typeof env.bento);"), ["object"]);
  const session = await box.client.run({
    package: {
      manifest: { name: "none", image: "deno" as const },
      source: `export default { async invoke(session, env) { await session.send(typeof env.bento); } };`,
    },
  });
  await session.next("attached");
  assert.equal(await session.text(), "undefined");
});

test("api.bento_*: the same from Python: deploys, talks, chooses, shuts down, and sees what was refused", async () => {
  const source = `
def main(echo_source):
    echo = {"name": "echo", "image": "deno"}
    deployed = api.bento_deploy("self", echo, echo_source)
    far = api.bento_run("self", token=deployed["invocationToken"])
    for text in ("one", "x" * 200000):
        far.send(text)
        api.send(far.recv()[:3])
    far.end()
    try:
        far.recv()
    except EOFError:
        api.send(far.outcome["kind"] + " " + str(far.offset))
    again = api.bento_run("self", manifest=echo, source=echo_source, linked=True)
    again.send("two")
    api.send(again.recv() + b" " + again.deployment["box"].encode())
    again.close()
    choice = api.bento_choose(["self", "example.com:80"], echo, count=2)
    api.send(",".join(one["box"] for one in choice["chosen"]) + " not " + choice["left"][0]["box"])
    api.send(str(api.bento_shutdown("self", deployed["shutdownToken"])))
    for call in (
        lambda: api.bento_run("self", token=deployed["invocationToken"]),
        lambda: api.bento_deploy("self", {**echo, "memory": "1TiB"}, echo_source),
        lambda: api.bento_deploy("self", echo, "x" * 5000000),
    ):
        try:
            call()
        except api.HostError as error:
            api.send(error.code + "".join(" " + one["rule"] for one in error.refusals))
`;
  const session = await box.client.run({
    package: {
      manifest: { name: "python", image: "python" as const, bento: { boxes: ["self"], functions: 8 } },
      source,
    },
    invocation: { args: [ECHO.source] },
  });
  await session.next("attached");
  const messages: string[] = [];
  for (;;) {
    const frame = await session.frames.receive({ signal: AbortSignal.timeout(60_000) });
    if (frame?.kind === "output") messages.push(Buffer.from(frame.bytes).toString());
    if (frame?.kind === "ended") assert.deepEqual(frame.outcome, { kind: "returned" });
    if (frame?.kind !== "output") break;
  }
  assert.deepEqual(messages, [
    "one",
    "xxx",
    "returned 200003",
    "two self",
    "self not example.com:80",
    "0",
    "bad-token",
    "policy-refused memory",
    "too-large",
  ]);
});
