// Functions that deploy functions on another box, over a private Tor network of real tor processes, with boxes as
// processes of their own: what arrives, what a box that dies leaves, and what no function reaches. Needs root.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type RunningNetwork, startNetwork, stopNetwork } from "../../src/bin/local-network.ts";
import { BoxClient, directDial } from "../../src/client/client.ts";

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

/** Runs a function at box 0 that deploys: its messages as text. Fails when it did not return. */
async function run(body: string, args: string[], bento: object = {}): Promise<string[]> {
  const [first] = net.boxes;
  assert.ok(first?.direct);
  using client = new BoxClient({ address: first.direct, dial: directDial });
  const manifest = { name: "deployer", image: "deno" as const, bento: { functions: 2, ...bento } };
  const source = `const ECHO = ${JSON.stringify(ECHO)};
    const text = (bytes) => new TextDecoder().decode(bytes);
    const codeOf = (promise) => promise.then(() => "none", (error) => error.code ?? String(error));
    export default { async invoke(session, env, ...args) { ${body} } };`;
  const session = await client.run({ package: { manifest, source } }, { args }, { endInput: true });
  const messages: string[] = [];
  for await (const message of session) messages.push(Buffer.from(message).toString());
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
