import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { LoadBalancerLimits, type SiteIndex } from "../../wire/loadbalancer.ts";
import { readSite, type Site, typeOf } from "./site.ts";

const base = await mkdtemp(path.join(tmpdir(), "bento-site-"));
after(() => rm(base, { recursive: true }));
let count = 0;

async function folder(files: Readonly<Record<string, string>>): Promise<string> {
  const dir = path.join(base, String(count++));
  await mkdir(dir);
  for (const [name, text] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(dir, name)), { recursive: true });
    await writeFile(path.join(dir, name), text);
  }
  return dir;
}

async function bytesOf(site: Site): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of site.read()) parts.push(part);
  return Buffer.concat(parts);
}

test("readSite: the index and then every file's bytes, in the order of the index", async () => {
  const files = { "index.html": "<p>hi</p>", "a/b.css": "p{}", "a/ü x.bin": "\u0000\u0001", empty: "" };
  const site = await readSite(await folder(files));
  const bytes = await bytesOf(site);
  assert.equal(bytes.length, site.bytes);
  const indexBytes = bytes.readUInt32BE(0);
  const index = JSON.parse(bytes.subarray(4, 4 + indexBytes).toString()) as SiteIndex;
  assert.deepEqual(index, site.index);
  assert.deepEqual(index.files.map((file) => file.path).sort(), Object.keys(files).sort());
  let at = 4 + indexBytes;
  for (const { path: name, bytes: size } of index.files) {
    assert.equal(bytes.subarray(at, at + size).toString(), files[name as keyof typeof files]);
    at += size;
  }
  assert.equal(at, bytes.length);
  assert.equal(index.files.find((file) => file.path === "a/b.css")?.type, "text/css; charset=utf-8");
});

test("readSite: hidden files stay here, .well-known goes along", async () => {
  const site = await readSite(
    await folder({
      "index.html": "x",
      ".git/config": "secret",
      ".env": "secret",
      ".well-known/security.txt": "y",
    }),
  );
  assert.deepEqual(
    site.index.files.map((file) => file.path),
    [".well-known/security.txt", "index.html"],
  );
  assert.equal(site.hidden, 2);
  assert.equal((await bytesOf(site)).includes("secret"), false);
});

test("readSite: links stay inside the folder", async () => {
  const outside = await folder({ secret: "secret" });
  const inside = await folder({ "index.html": "x" });
  await symlink("index.html", path.join(inside, "home.html"));
  const site = await readSite(inside);
  assert.equal(site.index.files.length, 2);
  for (const [name, target] of [
    ["file", path.join(outside, "secret")],
    ["up", "../"],
    ["gone", "nowhere"],
  ] as const) {
    const dir = await folder({ "index.html": "x" });
    await symlink(target, path.join(dir, name));
    await assert.rejects(readSite(dir), { code: "usage", message: /link that leads out/ });
  }
  const looping = await folder({ "a/index.html": "x" });
  await symlink("../a", path.join(looping, "a", "again"));
  await assert.rejects(readSite(looping), { code: "usage", message: /link to a folder/ });
});

test("readSite: a file that changes while it is sent fails the start, rather than shifting all that follows", async () => {
  const dir = await folder({ "a.txt": "aaaa", "b.txt": "bbbb" });
  for (const text of ["aaaaa", "aaa", ""]) {
    const site = await readSite(dir);
    await writeFile(path.join(dir, "a.txt"), text);
    await assert.rejects(bytesOf(site), { code: "usage", message: /changed/ });
    await writeFile(path.join(dir, "a.txt"), "aaaa");
  }
});

test("readSite: sizes up to the limit, and no further", async () => {
  const dir = await folder({ "index.html": "" });
  const fits = LoadBalancerLimits.siteBytesMax - (await readSite(dir)).bytes - 8;
  await truncate(path.join(dir, "index.html"), fits);
  const site = await readSite(dir);
  assert.equal(site.bytes, LoadBalancerLimits.siteBytesMax);
  await truncate(path.join(dir, "index.html"), fits + 1);
  await assert.rejects(readSite(dir), { code: "usage", message: /at most 256 MiB/ });
});

test("readSite: no folder, no files", async () => {
  await assert.rejects(readSite(path.join(base, "none")), { code: "usage", message: /ENOENT/ });
  await assert.rejects(readSite(await folder({})), { code: "usage", message: /no files/ });
  const dir = await folder({ x: "" });
  await assert.rejects(readSite(path.join(dir, "x")), { code: "usage", message: /no folder/ });
});

test("typeOf: by the end of the name, never by what every object has", () => {
  assert.equal(typeOf("a.PNG"), "image/png");
  assert.equal(typeOf("a.tar.gz"), "application/gzip");
  for (const name of ["README", "a.constructor", "a.unknown"])
    assert.equal(typeOf(name), "application/octet-stream");
});
