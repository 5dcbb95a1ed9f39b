// Functions that deploy functions on their own box, with everything real but Tor: sandbox, both runtimes, store, the
// box's own listener. What a tree of functions can come to, and what is left of it. Needs root.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { SpawnedBox } from "../support/spawned-box.ts";

const UIDS = { first: 27_500, count: 100 };
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
