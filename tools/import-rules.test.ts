import assert from "node:assert/strict";
import { test } from "node:test";
import { brokenRules } from "./import-rules.ts";

const broken = (file: string, text: string) => brokenRules(file, text).map(({ imported }) => imported);

test("brokenRules: what each room may import", () => {
  assert.deepEqual(broken("src/client/cli/x.ts", 'import { a } from "../../wire/api.ts";'), []);
  assert.deepEqual(broken("src/client/x.ts", 'import type { B } from "../box/box.ts";'), ["src/box/box.ts"]);
  assert.deepEqual(broken("src/tor/x.ts", 'export { a } from "../wire/api.ts";'), ["src/wire/api.ts"]);
  assert.deepEqual(broken("src/base/x.ts", 'import { a } from "./bytes.ts";'), []);
  assert.deepEqual(broken("src/base/x.ts", 'await import("../wire/api.ts")'), ["src/wire/api.ts"]);
  assert.deepEqual(broken("src/bin/x.ts", 'import { a } from "../box/box.ts";'), []);
  assert.deepEqual(broken("functions/a/function.ts", 'import { a } from "#bento/function";'), []);
  assert.deepEqual(broken("functions/a/function.ts", 'import { a } from "../../src/box/box.ts";'), [
    "src/box/box.ts",
  ]);
  const ours = 'import { a } from "../../src/onion/link/';
  assert.deepEqual(broken("functions/a/function.ts", `${ours}stream-link.ts";`), []);
  assert.deepEqual(broken("functions/a/function.ts", `${ours}tls-link.ts";`), ["src/onion/link/tls-link.ts"]);
  const all = 'import { a } from "../../src/onion/onion.ts";';
  assert.deepEqual(broken("functions/a/function.ts", all), ["src/onion/onion.ts"]);
});

test("brokenRules: packages, Node's modules and comments do not count", () => {
  const text = 'import { z } from "zod";\nimport net from "node:net";\n// from "../box/box.ts"\n';
  assert.deepEqual(broken("src/base/x.ts", text), []);
});

test("brokenRules: names the line", () => {
  assert.equal(brokenRules("src/base/x.ts", '\nimport "../tor/socks.ts";')[0]?.line, 2);
});
