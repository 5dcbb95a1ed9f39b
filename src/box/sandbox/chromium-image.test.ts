import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { chromiumPlan } from "./chromium-image.ts";
import type { ImagePlan } from "./image.ts";

const DENO: ImagePlan = {
  name: "deno",
  version: "1",
  argv: ["/usr/bin/deno"],
  env: {},
  staged: [],
  bound: [],
  texts: [{ target: "/etc/hosts", text: "" }],
  symlinks: [{ target: "/proc/self/exe", to: "/usr/bin/deno" }],
  devices: [],
  memoryBytesMin: 1,
};

test("chromiumPlan: names what is missing and how to get it", async () => {
  const probe = await chromiumPlan(DENO, "/nonexistent/chromium");
  assert.ok(probe.kind === "incomplete");
  assert.match(probe.missing[0]?.what ?? "", /chromium-headless-shell/);
  assert.match(probe.missing[0]?.fix ?? "", /apt-get install .*chromium-headless-shell/);
});

test("chromiumPlan: adds to deno what Chromium opens, and no setting or font of this machine", {
  skip: existsSync("/usr/lib/chromium/chromium-headless-shell")
    ? false
    : "chromium-headless-shell is not installed",
}, async () => {
  const probe = await chromiumPlan(DENO);
  assert.ok(probe.kind === "complete", JSON.stringify(probe));
  const { plan } = probe;
  assert.match(plan.version, /^\d+\./);
  assert.deepEqual(plan.argv, DENO.argv);
  const targets = [...plan.staged, ...plan.bound].map(({ target }) => target);
  assert.equal(new Set(targets).size, targets.length, "each once");
  for (const target of targets)
    assert.match(target, /^\/(usr\/)?lib|^\/usr\/share\/fonts\/truetype\/dejavu\//);
  const shells = plan.bound.filter(({ target }) => target.endsWith("chromium-headless-shell"));
  assert.equal(shells.length, 1);
  assert.deepEqual(
    plan.symlinks.map(({ target }) => target),
    ["/usr/bin/chromium", "/proc/self/exe"],
  );
  assert.deepEqual(
    plan.texts.map(({ target }) => target),
    ["/etc/hosts", "/etc/fonts/fonts.conf", "/dev/null"],
  );
  assert.deepEqual(plan.devices, ["/dev/urandom"]);
});
