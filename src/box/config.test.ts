import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { BentoError } from "../base/errors.ts";
import { parseBoxConfig } from "./config.ts";
import { parseSocketAddress } from "./config-schema.ts";

function errorOf(text: string): string {
  try {
    parseBoxConfig(text);
  } catch (error) {
    assert.ok(error instanceof BentoError && error.code === "bad-config", String(error));
    return error.message;
  }
  throw new assert.AssertionError({ message: `accepted: ${text}` });
}

test("parseBoxConfig: an empty file is a box that serves on loopback and as an onion service, and lets functions reach nothing", () => {
  const config = parseBoxConfig("");
  assert.deepEqual(config.listen, [{ kind: "tcp", host: "127.0.0.1", port: 5005 }]);
  assert.deepEqual(config.onion, {
    kind: "single-hop",
    port: 80,
    control: null,
  });
  assert.deepEqual(config.tor, { program: "tor", torrc: null });
  assert.deepEqual(config.policy.bento?.boxes, ["self"]);
  assert.equal(config.policy.tor, null);
  assert.equal(config.relay.control, null);
  assert.equal(config.policy.function.memoryBytes, 128 * 2 ** 20);
});

test("parseBoxConfig: nobody can change the result", () => {
  const config = parseBoxConfig("");
  assert.throws(() => Object.assign(config.policy.function, { memoryBytes: 1 }), TypeError);
});

test("parseBoxConfig: reads every section", () => {
  const config = parseBoxConfig(`
    [box]
    listen = ["unix:/run/bento.sock", "[::1]:5005"]
    [relay]
    control = "unix:/run/tor/control"
    fingerprint = "abcdef0123456789abcdef0123456789abcdef01"
    [onion]
    mode = "hidden"
    control = "127.0.0.1:9051"
    [exit_port]
    listen = "192.0.2.1:5006"
    [policy.net]
    resolver = ["127.0.0.1:53"]
    private_networks_allowed = ["127.0.0.0/8"]
    [policy.storage]
    enabled = false
    [sandbox]
    uids = "3000-3009"
    profile = "strict"
  `);
  assert.deepEqual(config.listen[1], { kind: "tcp", host: "::1", port: 5005 });
  assert.equal(config.relay.fingerprint, "ABCDEF0123456789ABCDEF0123456789ABCDEF01");
  assert.deepEqual(config.onion, {
    kind: "hidden",
    port: 80,
    control: { kind: "tcp", host: "127.0.0.1", port: 9051 },
  });
  assert.equal(config.exitPort?.port, 5006);
  assert.deepEqual(config.policy.net?.privateNetworksAllowed, ["127.0.0.0/8"]);
  assert.equal(config.policy.storage, null);
  assert.deepEqual(config.policy.syscalls, [], "the strict filter has no groups");
  assert.deepEqual(config.sandbox.uids, { first: 3000, last: 3009 });
});

test("parseBoxConfig: names unknown keys and guesses what was meant", () => {
  assert.match(
    errorOf("[policy.function]\nmemroy = 3"),
    /policy\.function\.memroy: unknown key; did you mean memory\?/,
  );
  assert.match(errorOf("[polcy]"), /polcy: unknown key; did you mean policy\?/);
  assert.match(
    errorOf("[warm]\nzzzzzzzzz = 3"),
    /warm\.zzzzzzzzz: unknown key; expected one of deno, python/,
  );
});

test("parseBoxConfig: each error names key, found and wanted, all at once", () => {
  const message = errorOf('[box]\nname = 3\nlisten = ["example.com:80"]\n[policy.function]\nmemory = "lots"');
  assert.match(message, /box\.name: found 3, expected text/);
  assert.match(message, /box\.listen\.0: found "example.com:80", expected an address such as/);
  assert.match(message, /policy\.function\.memory: found "lots", expected a size such as "64MiB"/);
  assert.match(errorOf("box = 3"), /box: found 3, expected a section/);
  assert.match(errorOf("a = \n b"), /line 1, column/);
});

test("parseBoxConfig: functions that instances wait for, as many as may be and one more", () => {
  assert.deepEqual(parseBoxConfig("").ready, { functions: ["browser"], each: 1 });
  assert.deepEqual(parseBoxConfig("[warm]\nready = []").ready, { functions: [], each: 1 });
  const ready = (count: number, each: number) =>
    `[warm]\nready = ${JSON.stringify(Array.from({ length: count }, (_, at) => `f${at}`))}\nready_each = ${each}`;
  assert.equal(parseBoxConfig(ready(16, 100)).ready.functions.length, 16);
  assert.match(errorOf(ready(17, 100)), /warm\.ready:/);
  assert.match(errorOf(ready(16, 101)), /warm\.ready_each: found 101, expected/);
});

test("parseBoxConfig: refuses values that contradict each other", () => {
  assert.match(
    errorOf('[policy.function]\nmemory = "8GiB"'),
    /policy\.function\.memory: found 8 GiB, expected at most policy\.total\.memory, 2 GiB/,
  );
  assert.match(errorOf('[policy]\npackage = "5MiB"'), /policy\.package/);
});

test("parseBoxConfig: any text is a config or a BentoError", () => {
  const keys = fc.constantFrom(
    "box",
    "policy",
    "policy.function",
    "memory",
    "listen",
    "__proto__",
    "onion.mode",
  );
  const values = fc.constantFrom("1", '"x"', "[]", "{}", "true", "1979-05-27", "nan", '["a"]', "{a=1}");
  const line = fc.oneof(
    fc.tuple(keys, values).map(([key, value]) => `${key} = ${value}`),
    keys.map((key) => `[${key}]`),
    fc.string(),
  );
  fc.assert(
    fc.property(fc.array(line, { maxLength: 6 }), (lines) => {
      try {
        parseBoxConfig(lines.join("\n"));
      } catch (error) {
        assert.ok(error instanceof BentoError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});

test("parseBoxConfig: chromium is offered only where it is named, and only with room for it", () => {
  assert.deepEqual(parseBoxConfig("").policy.images, ["deno", "python"]);
  const named = '[policy]\nimages = ["deno", "chromium"]\n';
  assert.deepEqual(parseBoxConfig(named).policy.images, ["deno", "chromium"]);
  assert.match(
    errorOf(`${named}[policy.function]\nmemory = "127MiB"\npids = 63\ntmp = "31MiB"\n`),
    /memory: found 127 MiB.*\n.*pids: found 63, expected at least 64.*\n.*tmp: found 31 MiB/,
  );
  assert.match(errorOf(`${named}[onion]\nmode = "hidden"\n`), /found "chromium", expected none with onion/);
  assert.match(errorOf(`${named}[sandbox]\nprofile = "strict"\n`), /found "chromium", expected none/);
});

test("parseSocketAddress: takes addresses and sockets, not names", () => {
  assert.deepEqual(parseSocketAddress("127.0.0.1:1"), { kind: "tcp", host: "127.0.0.1", port: 1 });
  assert.deepEqual(parseSocketAddress("unix:/a b"), { kind: "unix", path: "/a b" });
  for (const text of [
    "",
    "127.0.0.1",
    "127.0.0.1:0",
    "127.0.0.1:65536",
    "::1:80",
    "[127.0.0.1]:1",
    "localhost:1",
    "unix:a",
    `unix:/${"a".repeat(107)}`,
  ]) {
    assert.equal(parseSocketAddress(text), undefined, text);
  }
});

test("parseBoxConfig: a hidden box opens no links to relays, whose far ends would see where it is", () => {
  const relays = "[policy.relays]\nenabled = true\n";
  assert.match(
    errorOf(`${relays}[onion]\nmode = "hidden"\n`),
    /policy\.relays\.enabled: found true, expected false/,
  );
  assert.equal(parseBoxConfig('[onion]\nmode = "hidden"\n').policy.relays, null);
  assert.equal(parseBoxConfig(`${relays}[onion]\nmode = "single-hop"\n`).policy.relays?.links, 16);
});

test("parseBoxConfig: a hidden box tells nothing about its machine", () => {
  const facts = '[policy]\nbox = ["load"]\n';
  assert.deepEqual(parseBoxConfig(facts).policy.box, ["load"]);
  assert.match(
    errorOf(`${facts}[onion]\nmode = "hidden"\n`),
    /^Cannot read box.toml: policy.box: found load, expected none/,
  );
});
