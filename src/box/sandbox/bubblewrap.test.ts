import assert from "node:assert/strict";
import { test } from "node:test";
import { atLeast, contentArguments } from "./bubblewrap.ts";
import type { StagedImage } from "./stage.ts";

const image: StagedImage = {
  root: "/srv/stage/python",
  binds: [
    { source: "/usr/lib/python3.11", target: "/usr/lib/python3.11" },
    { source: "/opt/bento/guest", target: "/bento" },
  ],
  plan: {
    name: "python",
    version: "3.11.2",
    argv: ["/usr/bin/python3.11", "/bento/runner.py"],
    env: { HOME: "/tmp" },
    staged: [],
    bound: [],
    texts: [],
    symlinks: [],
    devices: ["/dev/urandom"],
    memoryBytesMin: 1,
  },
};

test("atLeast: compares part by part", () => {
  assert.ok(atLeast([0, 8, 0], [0, 8, 0]));
  assert.ok(atLeast([0, 12, 1], [0, 12, 0]));
  assert.ok(atLeast([1, 0], [0, 12, 0]));
  assert.ok(!atLeast([0, 11, 9], [0, 12, 0]));
  assert.ok(!atLeast([0], [0, 1]));
});

test("contentArguments: no mount lies where a function can write, and all but /tmp and devices is read-only", () => {
  const args = contentArguments({ image, tmpBytes: 4096 });
  const mounts = args.flatMap((arg, at) =>
    /^--(.*bind.*|tmpfs|proc|dev|dir|file)$/.test(arg) ? [[arg, at] as const] : [],
  );
  assert.deepEqual(
    mounts.map(([kind]) => kind),
    ["--ro-bind", "--ro-bind", "--ro-bind", "--dev-bind", "--tmpfs"],
  );
  const targets = mounts.map(([kind, at]) => args[at + (kind === "--tmpfs" ? 1 : 2)]);
  assert.deepEqual(
    targets,
    ["/", "/usr/lib/python3.11", "/bento", "/dev/urandom", "/tmp"],
    "the writable one last",
  );
});

test("contentArguments: the environment is exactly the plan's, /tmp has its size", () => {
  const args = contentArguments({ image, tmpBytes: 4096 });
  const variables = args.flatMap((arg, at) => (arg === "--setenv" ? [args.slice(at + 1, at + 3)] : []));
  assert.deepEqual(variables, [["HOME", "/tmp"]]);
  assert.deepEqual(args.slice(args.indexOf("--size"), args.indexOf("--size") + 2), ["--size", "4096"]);
});
