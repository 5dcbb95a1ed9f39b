import assert from "node:assert/strict";
import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { WebServer } from "./web-server.ts";

let dir: string;
let web: WebServer;

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-web-"));
  await writeFile(join(dir, "index.html"), "<p>home</p>");
  await writeFile(join(dir, "big.txt"), "x".repeat(10_000));
  await symlink("/etc/hostname", join(dir, "link.txt"));
  web = await WebServer.start({ folder: dir, address: "127.0.0.1" });
});

after(async () => {
  await web[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

const get = async (path: string) => fetch(`${web.origin}${path}`, { redirect: "manual" });

test("WebServer: serves its folder and nothing above it", async () => {
  const home = await get("/");
  assert.equal(home.headers.get("content-type"), "text/html; charset=utf-8");
  assert.equal(await home.text(), "<p>home</p>");
  for (const path of [
    "/absent",
    "/link.txt",
    "/%2e%2e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/%00",
    "/%ff",
  ])
    assert.equal((await get(path)).status, 404, path);
});

test("WebServer: each fault does what it says", async () => {
  web.faults.set("/gone", { kind: "status", status: 503 });
  web.faults.set("/moved", { kind: "redirect", to: "/" });
  web.faults.set("/made", { kind: "body", type: "text/css", body: "a{}" });
  assert.equal((await get("/gone")).status, 503);
  assert.equal((await get("/moved")).headers.get("location"), "/");
  assert.equal(await (await get("/made")).text(), "a{}");
  for (const encoding of ["gzip", "br"] as const) {
    web.faults.set("/big.txt", { kind: "encoding", encoding });
    const response = await get("/big.txt");
    assert.equal(response.headers.get("content-encoding"), encoding);
    assert.equal((await response.text()).length, 10_000);
  }
  web.faults.set("/big.txt", { kind: "slow", bytesPerSecond: 200_000 });
  assert.equal((await (await get("/big.txt")).text()).length, 10_000);
  web.faults.set("/big.txt", { kind: "cut", afterBytes: 5000 });
  await assert.rejects(async () => (await get("/big.txt")).text());
});

test("WebServer: a stalled body delivers its first bytes and then nothing", async () => {
  web.faults.set("/big.txt", { kind: "stall", afterBytes: 1234 });
  const { promise, resolve } = Promise.withResolvers<number>();
  let bytes = 0;
  const call = request(`${web.origin}/big.txt`, { agent: false }, (response) => {
    response.on("error", () => {
      // Destroyed below.
    });
    response.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes >= 1234) setImmediate(() => resolve(bytes));
    });
  });
  call.on("error", () => {
    // Destroyed below.
  });
  call.end();
  assert.equal(await promise, 1234);
  call.destroy();
});
