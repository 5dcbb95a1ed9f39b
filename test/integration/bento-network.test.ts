// Functions that deploy functions on another box, over a private Tor network of real tor processes, with boxes as
// processes of their own: what arrives, what a box that dies leaves, and what no function reaches. Needs root.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type RunningNetwork, startNetwork, stopNetwork } from "../../src/bin/local-network.ts";
import { BoxClient, directDial } from "../../src/client/client.ts";
import { readPidFile } from "../../src/tor/process.ts";
import type { JsonValue } from "../../src/wire/api.ts";
import type { BoxChoice } from "../../src/wire/choose-boxes.ts";

let dir: string;
let net: RunningNetwork;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-net-"));
  net = await startNetwork({ dir, boxes: 2, detached: false });
});
after(async () => {
  await stopNetwork(dir);
  await rm(dir, { recursive: true, force: true });
});

const ECHO = {
  manifest: { name: "echo", image: "deno" },
  source:
    "export default { async invoke(session) { for await (const m of session) await session.send(m); } };",
};

function sourceOf(body: string): string {
  return `const ECHO = ${JSON.stringify(ECHO)};
    const text = (bytes) => new TextDecoder().decode(bytes);
    const codeOf = (promise) => promise.then(() => "none", (error) => error.code ?? String(error));
    export default { async invoke(session, env, ...args) { ${body} } };`;
}

/** Runs a function at box 0 that deploys: its messages as text. Fails when it did not return. */
async function run(
  body: string,
  args: readonly JsonValue[],
  bento: object = {},
  onMessage: (text: string) => Promise<void> = async () => undefined,
): Promise<string[]> {
  const [first] = net.boxes;
  assert.ok(first?.direct);
  using client = new BoxClient({ address: first.direct, dial: directDial });
  const manifest = { name: "deployer", image: "deno" as const, bento: { functions: 2, ...bento } };
  const session = await client.run(
    { package: { manifest, source: sourceOf(body) } },
    { args: [...args] },
    { endInput: true },
  );
  const messages: string[] = [];
  for await (const message of session) {
    messages.push(Buffer.from(message).toString());
    await onMessage(messages.at(-1) ?? "");
  }
  assert.deepEqual(await session.ended, { kind: "returned" }, messages.join("\n"));
  return messages;
}

test("env.bento: deploys on another box over Tor, talks with it, shuts it down", async () => {
  const other = net.boxes[1]?.address ?? "";
  const messages = await run(
    `
    const [other] = args;
    await session.send((await env.bento.info(other)).name);
    const deployed = await env.bento.deploy(other, ECHO);
    const far = await env.bento.run(other, { token: deployed.invocationToken });
    await far.send("over Tor");
    await far.endInput();
    for await (const message of far) await session.send(message);
    await session.send(JSON.stringify(await far.ended));
    await session.send(deployed.box + " " + await env.bento.shutdown(other, deployed.shutdownToken));
    await session.send(await codeOf(env.bento.exec(other, deployed.invocationToken)));`,
    [other],
  );
  assert.deepEqual(messages, ["box1", "over Tor", '{"kind":"returned"}', `${other} 0`, "bad-token"]);
});

test("env.bento: a tree over two boxes is never larger than the grant at its root", async () => {
  const [first = "", second = ""] = net.boxes.map(({ address }) => address);
  // Each generation deploys itself on the other box, as far as its grant goes, and tells what its children told.
  const recursive = `
    const [depth, functions, there, here, source] = args;
    const lines = [];
    for (const wanted of [functions - 1, 1, 1]) {
      const bento = { boxes: ["*"], functions: Math.max(1, wanted), depth: Math.max(1, depth - 1), invocations: 4 ** depth, bytes: 4 ** depth + "MiB" };
      const manifest = { name: "deployer", image: "deno", bento };
      try {
        const far = await env.bento.run(there, { manifest, source }, { args: [bento.depth, bento.functions, here, there, source], linked: true });
        await far.endInput();
        for await (const message of far) lines.push(...text(message).split("\\n"));
        lines.push("deployed");
      } catch (error) { lines.push(error.code ?? String(error)); }
    }
    try {
      for (;;) {
        await env.bento.deploy(there, ECHO, { linked: true });
        lines.push("deployed");
      }
    } catch (error) { lines.push(error.code); }
    await session.send(lines.join("\\n"));`;
  const source = sourceOf(recursive);
  const root = { boxes: ["*"], functions: 4, depth: 2, invocations: 64, bytes: "256MiB" };
  const messages = await run(recursive, [2, 4, second, first, source], root);
  const lines = messages[0]?.split("\n") ?? [];
  assert.equal(lines.filter((line) => line === "deployed").length, root.functions, lines.join());
  assert.ok(lines.includes("bento-depth"), lines.join());
  assert.ok(lines.includes("bento-budget"), lines.join());
});

test("env.bento: this box under its own names is this box, and needs the grant for it", async () => {
  const [first] = net.boxes;
  const own = [first?.address, first?.exit, first?.direct].filter((name) => name !== undefined);
  const body = "for (const box of args) await session.send(await codeOf(env.bento.info(box)));";
  assert.deepEqual(
    await run(body, own, { boxes: ["*"] }),
    own.map(() => "bento-refused"),
  );
  assert.deepEqual(
    await run(body, own, { boxes: ["self"] }),
    own.map(() => "none"),
  );
  assert.deepEqual(await run(body, [net.boxes[1]?.address ?? ""], { boxes: ["self"] }), ["bento-refused"]);
});

test("env.bento.choose: the boxes that suit, with the reasons against the others", async () => {
  const names = net.boxes.map(({ address }) => address);
  const messages = await run(
    `const choice = await env.bento.choose(args, ECHO.manifest, { count: 2, distinct: ["relay", "family"] });
     await session.send(JSON.stringify(choice));`,
    [...names, "self"],
  );
  const choice = JSON.parse(messages[0] ?? "") as BoxChoice;
  assert.equal(choice.chosen.length, 2);
  assert.equal(choice.left.length, 1);
  assert.match(choice.left[0]?.reason ?? "", /^same relay or family as /);
  assert.deepEqual(
    new Set(choice.chosen.map(({ relay }) => relay)),
    new Set(net.boxes.map(({ fingerprint }) => fingerprint)),
  );
});

test("env.bento: a box that dies while it is used is an error with a code", async () => {
  const messages = await run(
    `
    await using far = await env.bento.run(args[0], ECHO);
    await far.send("alive");
    for await (const message of far) { await session.send(message); break; }
    await session.send(await codeOf((async () => { for (;;) await env.bento.info(args[0]); })()));
    await session.send(await codeOf(env.bento.deploy(args[0], ECHO)));`,
    [net.boxes[1]?.exit ?? ""],
    {},
    async (text) => {
      if (text !== "alive") return;
      const identity = await readPidFile(join(dir, "boxes", "box1", "pid"));
      assert.ok(identity);
      process.kill(identity.pid, "SIGKILL");
    },
  );
  assert.deepEqual(messages, ["alive", "box-unreachable", "box-unreachable"]);
});
