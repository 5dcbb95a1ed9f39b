import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { publishedPolicy } from "../src/box/admit/policy.ts";
import { parseBoxConfig } from "../src/box/config.ts";
import { grant } from "../src/wire/grant.ts";
import { parseManifest } from "../src/wire/manifest.ts";
import { generated } from "./schemas.ts";

test("schemas: the generated files in docs are current (else run: node tools/schemas.ts)", async () => {
  for (const [path, content] of generated()) {
    assert.equal(await readFile(new URL(`../${path}`, import.meta.url), "utf8"), content, path);
  }
});

test("box.example.toml: means the same as an empty file", () => {
  assert.deepEqual(parseBoxConfig(generated().get("docs/box.example.toml") ?? "x"), parseBoxConfig(""));
});

test("box.example.toml: each key without a default has an example that can be used as it stands", () => {
  const lines = (generated().get("docs/box.example.toml") ?? "").split("\n");
  let section = "";
  let tried = 0;
  for (const line of lines) {
    if (line.startsWith("[")) section = line;
    if (!/^# \w+ = /.test(line)) continue;
    tried++;
    assert.notDeepEqual(parseBoxConfig(`${section}\n${line.slice(2)}`), parseBoxConfig(""), line);
  }
  assert.equal(tried, 9);
});

interface Property {
  readonly description?: string;
  readonly type?: string;
  readonly enum?: unknown;
  readonly examples?: readonly unknown[];
  readonly properties?: Readonly<Record<string, Property>>;
  readonly items?: Property;
}

function* propertiesOf(path: string, node: Property): Generator<[string, Property]> {
  for (const [key, property] of Object.entries(node.properties ?? {})) {
    const here = `${path}${key}`;
    yield [here, property];
    yield* propertiesOf(`${here}.`, property);
  }
}

const MANIFEST = JSON.parse(generated().get("docs/schema/manifest.schema.json") ?? "") as Property;

test("manifest.schema.json: editors can say what each key is, and offer a value that is taken", () => {
  const minimal = { name: "a", image: "deno" };
  let tried = 0;
  for (const [path, property] of propertiesOf("", MANIFEST)) {
    assert.ok((property.description ?? "").length > 10, `${path}: a description`);
    const isQuantity =
      property.type === "string" && !property.enum && /bytes|memory|cpu|tmp|time|backlog/.test(path);
    if (isQuantity) assert.ok(property.examples, `${path}: an example`);
    if (path.includes(".")) continue;
    for (const example of property.examples ?? []) {
      tried++;
      parseManifest({ ...minimal, [path]: example });
    }
  }
  assert.ok(tried >= 8);
});

test("manifest.schema.json: what it says of keys that are left out is what functions get", () => {
  const huge = parseBoxConfig(
    '[policy.function]\nmemory = "1GiB"\ncpu = "400%"\npids = 1000\ntmp = "1GiB"\ninstances = 100\nlifetime = "90d"\nruntime = "90d"\nbacklog = "1GiB"\n[policy.net]\nconnections = 1000\n[policy.total]\nmemory = "8GiB"',
  );
  const policy = publishedPolicy(huge.policy, ["accept *:*"]);
  const manifest = parseManifest({ name: "a", image: "deno", net: { allow: ["*:443"] } });
  const said = new Map(propertiesOf("", MANIFEST));
  let compared = 0;
  grant(manifest, policy, ({ rule, wanted, asked }) => {
    const property = said.get(rule);
    if (asked || !property) return;
    compared++;
    const value = wanted.replace(" ", "");
    assert.match(property.description ?? "", new RegExp(`; ${value} when left out`), `${rule}: ${value}`);
  });
  assert.equal(compared, 10);
});
