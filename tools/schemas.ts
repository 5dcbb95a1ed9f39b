// Writes what is generated from the schemas in the code: docs/schema/*.json for editors, and docs/box.example.toml.
//   node tools/schemas.ts          writes the files
// schemas.test.ts fails while they are not current.

import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { boxSchema } from "../src/box/config-schema.ts";
import { receiptSchema } from "../src/client/shard/receipt.ts";
import { manifestSchema } from "../src/wire/manifest.ts";
import { policySchema } from "../src/wire/policy.ts";

/** Path from the root of the project -> content. */
export function generated(): ReadonlyMap<string, string> {
  return new Map([
    ["docs/schema/manifest.schema.json", jsonSchema(manifestSchema, "Manifest of a Bento function")],
    ["docs/schema/policy.schema.json", jsonSchema(policySchema, "Policy of a Bento box")],
    ["docs/schema/receipt.schema.json", jsonSchema(receiptSchema, "Receipt of a file that was sharded")],
    ["docs/schema/box.schema.json", jsonSchema(boxSchema, "box.toml")],
    ["docs/box.example.toml", exampleToml()],
  ]);
}

/** The part of JSON Schema that box.toml uses. */
interface Node {
  readonly description?: string;
  readonly default?: unknown;
  /** Ours: zod drops the standard `examples` of text that is transformed. */
  readonly example?: string;
  readonly properties?: Readonly<Record<string, Node>>;
}

function jsonSchema(schema: z.ZodType, title: string): string {
  // What editors offer: our `example` under the standard's name.
  const standard = (_: string, value: unknown) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    const { example, ...rest } = value as Record<string, unknown>;
    return typeof example === "string" ? { ...rest, examples: [example] } : value;
  };
  return `${JSON.stringify({ title, ...z.toJSONSchema(schema, { io: "input" }) }, standard, 2)}\n`;
}

function exampleToml(): string {
  const root = z.toJSONSchema(boxSchema, { io: "input" }) as Node;
  const head = [
    "# Every key of box.toml with its default; an empty file means the same. Keys that start with # have no default.",
    "# Check your file with: bento box check-config box.toml",
  ];
  return `${[...head, ...sectionLines("", root)].join("\n")}\n`;
}

function sectionLines(path: string, section: Node): string[] {
  const entries = Object.entries(section.properties ?? {});
  const keys = entries.filter(([, node]) => !node.properties);
  const sections = entries.filter(([, node]) => node.properties);
  const lines = path === "" ? [] : ["", `# ${section.description ?? ""}`, `[${path}]`];
  for (const [key, node] of keys) lines.push(keyLine(key, node));
  return [
    ...lines,
    ...sections.flatMap(([key, node]) => sectionLines(path === "" ? key : `${path}.${key}`, node)),
  ];
}

function keyLine(key: string, node: Node): string {
  const isOptional = node.default === undefined;
  const value = isOptional ? node.example : node.default;
  return `${`${isOptional ? "# " : ""}${key} = ${toml(value)}`.padEnd(36)} # ${node.description ?? ""}`;
}

/** The values that box.toml has: text, numbers, truth and lists of text. */
function toml(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(toml).join(", ")}]`;
  return JSON.stringify(value);
}

if (import.meta.main) {
  for (const [path, content] of generated()) {
    writeFileSync(fileURLToPath(new URL(`../${path}`, import.meta.url)), content);
    console.log(path);
  }
}
