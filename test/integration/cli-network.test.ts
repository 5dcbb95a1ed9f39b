// The command line with everything real: private Tor network, boxes with sandboxes, pages through circuits.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { WebServer } from "../../src/testnet/web-server.ts";
import { findByArgument } from "../../src/tor/process.ts";
import { bento, finished, startBento } from "../support/bento-command.ts";
import { SITE_CERTIFICATE, SITE_KEY } from "../vectors/site-certificate.ts";

async function newHome(t: TestContext): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-cli-net-"));
  t.after(async () => {
    await bento(dir, "net", "down");
    await rm(dir, { recursive: true, force: true });
  });
  return dir;
}

/** A file left on a box and one spread in shards, each fetched over the box's onion service. */
async function filesThroughTor(home: string): Promise<void> {
  const content = randomBytes(300_000);
  await writeFile(path.join(home, "file"), content);
  const put = await bento(home, "put", "file", "--as", "kept");
  assert.match(put.out, /^bento:dropbox\?box=[a-z2-7]{56}\.onion:80&token=\S+&key=\S+\n$/, put.err);
  await writeFile(path.join(home, "link"), put.out);
  const got = await bento(home, "get", "@link", "-o", "got");
  assert.equal(got.code, 0, got.err);
  assert.ok((await readFile(path.join(home, "got"))).equals(content));
  assert.equal((await bento(home, "get", "@link")).code, 7, "used up");
  const shard = ["shard", "put", "file", "-k", "2", "-n", "3", "--share-boxes", "-o", "receipt.json"];
  const sharded = await bento(home, ...shard);
  assert.equal(sharded.code, 0, sharded.err);
  const back = await bento(home, "shard", "get", "receipt.json", "-o", "back");
  assert.equal(back.code, 0, back.err);
  assert.ok((await readFile(path.join(home, "back"))).equals(content));
}

test("bento net up, run, browse, status, down: over circuits of a private network", async (t) => {
  const home = await newHome(t);
  const up = await bento(home, "net", "up", "--boxes", "1", "--json");
  assert.equal(up.code, 0, up.err);
  const { boxes } = JSON.parse(up.out.trimEnd().split("\n").at(-1) ?? "") as {
    boxes: { address: string; direct: string; exit: string; fingerprint: string; control: string }[];
  };
  assert.match(boxes[0]?.address ?? "", /^[a-z2-7]{56}\.onion:80$/);
  const hello = await bento(home, "run", "hello", "Tor");
  assert.deepEqual({ code: hello.code, out: hello.out }, { code: 0, out: "hello Tor" }, hello.err);
  await writeFile(path.join(home, "add.py"), "def add(x, y):\n    api.send(str(x + y))\n");
  const add = await bento(home, "run", "add.py", "--call", "add(5, 12)");
  assert.equal(add.out, "17", add.err);

  await writeFile(
    path.join(home, "index.html"),
    "<!doctype html><title>t</title><img src=a.svg><img src=missing.png>",
  );
  await writeFile(path.join(home, "a.svg"), '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>');
  const block = /^127\.\d+/.exec(boxes[0]?.direct ?? "")?.[0] ?? "";
  await using web = await WebServer.start({ folder: home, address: `${block}.8.1` });
  await filesThroughTor(home);
  const page = path.join(home, "page.html");
  const browsed = await bento(
    home,
    "browse",
    `http://${web.address}:${web.port}/`,
    "--pad",
    "64KiB",
    "-o",
    page,
  );
  assert.equal(browsed.code, 0, browsed.err);
  assert.match(browsed.err, /hash is right/);
  assert.match(browsed.err, /not fetched: \S+missing\.png/);
  const html = await readFile(page, "utf8");
  assert.match(html, /data:image\/svg/);
  assert.doesNotMatch(html, /src="?a\.svg/);

  const nothing = path.join(home, "nothing.html");
  for (const to of [["-o", nothing], []]) {
    const refused = await bento(home, "browse", `http://${boxes[0]?.direct}/`, ...to);
    assert.equal(refused.code, 1, "a box does not reach itself");
    assert.equal(refused.out, "", "no page is no output");
    assert.match(refused.err, /There was no page; nothing was written\.\n {2}not fetched: /);
    assert.doesNotMatch(refused.err, /hash is right/);
  }
  await assert.rejects(readFile(nothing), { code: "ENOENT" });

  // Its certificate is its own word: such a page is none, and such a part is left out.
  await using secure = await untrustedSite(`${block}.8.1`);
  const untrusted = await bento(home, "browse", `https://${block}.8.1:${secure.port}/`);
  assert.deepEqual([untrusted.code, untrusted.out], [1, ""], untrusted.err);
  assert.match(untrusted.err, /not fetched: https:\S+: .*(network|certificate)/);
  assert.equal(secure.requests, 0, "nothing is asked over such a connection");

  const [box] = boxes;
  assert.ok(box);
  const relay = ["--relay", box.fingerprint];
  const atRelay = await bento(home, "run", "hello", "relay", "--box", "box0", ...relay);
  assert.equal(atRelay.out, "hello relay", atRelay.err);
  const typed = ["--box", box.exit, ...relay, "--tor-control", box.control];
  assert.equal((await bento(home, "store", "echo", "--as", "there", ...typed)).code, 0);
  const saved = await bento(home, "run", "there", "-i", path.join(home, "a.svg"));
  assert.match(saved.out, /<svg/, `a saved function is reached the same way: ${saved.err}`);
  const other = ["--box", box.exit, "--relay", "AB".repeat(20), "--tor-control", box.control];
  const elsewhere = await bento(home, "run", "hello", ...other);
  assert.equal(elsewhere.code, 6, "a relay that is not there is an error, and no other way is taken");

  await writeFile(
    path.join(home, "noisy.ts"),
    'export default { async invoke(session) { console.log("to the log \\u001b[31m"); await session.send("out"); } };',
  );
  const noisy = await bento(home, "run", "noisy.ts", "--logs");
  assert.equal(noisy.out, "out");
  assert.match(noisy.err, /Z 1 info {2}to the log \n/);
  assert.equal((await bento(home, "store", "noisy.ts")).code, 0);
  assert.equal((await bento(home, "run", "noisy")).out, "out");
  assert.match((await bento(home, "logs", "noisy")).out, /^\S+Z 1 info {2}to the log \n$/);

  const monitored = await bento(home, "monitor", "--count", "2", "--interval", "1", "--json");
  assert.equal(monitored.code, 0, monitored.err);
  const measurements = monitored.out
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as object);
  const facts = ["time", "load", "memory", "disk", "network", "instances"];
  assert.deepEqual(
    measurements.map((measurement) => Object.keys(measurement)),
    [facts, facts],
  );

  // Another network under the same names: what was saved of the first is of no use any more.
  const again = await bento(home, "net", "up", "--boxes", "1", "--no-onion");
  assert.equal(again.code, 0, again.err);
  assert.match(again.err, /boxes before are gone.*functions kept, there, noisy/);
  assert.equal((await bento(home, "ls")).out, "");
  const bare = await bento(home, "run", "hello", "bare");
  assert.equal(bare.out, "hello bare", `a box without onion service just works: ${bare.err}`);
  assert.equal((await bento(home, "net", "up", "--relays", "3")).code, 2);
  assert.equal((await bento(home, "net", "status")).code, 0, "wrong use does not stop what runs");
  const down = await bento(home, "net", "down");
  assert.equal(down.code, 0, down.err);
  assert.equal((await bento(home, "net", "down")).code, 0);
  assert.deepEqual(await findByArgument(path.join(home, ".local/state/bento/net/boxes/box0/box.toml")), []);
});

async function untrustedSite(host: string) {
  const site = { port: 0, requests: 0 };
  const server = createServer({ key: SITE_KEY, cert: SITE_CERTIFICATE }, (_, response) => {
    site.requests++;
    response.end("<p>never seen");
  });
  server.listen(0, host);
  await once(server, "listening");
  site.port = (server.address() as AddressInfo).port;
  return Object.assign(site, {
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  });
}

test("bento demo: a verified page; interrupted half-way it leaves nothing", async (t) => {
  const home = await newHome(t);
  const demo = await bento(home, "demo", "--json");
  assert.equal(demo.code, 0, demo.err);
  const events = demo.out
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { event: string; verified?: boolean; resources?: number });
  const page = events.find(({ event }) => event === "page");
  assert.deepEqual(
    { verified: page?.verified, resources: page?.resources },
    { verified: true, resources: 6 },
  );
  await rm(path.join(home, "bento-demo.html"));

  const child = startBento(home, ["demo"]);
  let said = "";
  child.stderr?.on("data", (text: Buffer) => {
    const before = said;
    said += text.toString();
    if (!before.includes("consensus") && said.includes("consensus")) child.kill("SIGINT");
  });
  const { code, err } = await finished(child);
  assert.equal(code, 130, err);
  assert.match(err, /nothing is left behind/);
});
