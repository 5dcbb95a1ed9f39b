import assert from "node:assert/strict";
import { test } from "node:test";
import { BentoError } from "../base/errors.ts";
import { choosePath, type PathSource } from "./exit-path.ts";

const ids = { guard: "A1".repeat(20), other: "B2".repeat(20), middle: "C3".repeat(20), box: "D4".repeat(20) };

function entry(name: keyof typeof ids, address: string, extra = ""): string {
  const identity = Buffer.from(ids[name], "hex").toString("base64").replace("=", "");
  return `r ${name} ${identity} ${"x".repeat(27)} 2026-11-20 19:25:40 ${address} 9001 0\n${extra}s Fast Running Valid\nw Bandwidth=10\n`;
}

interface Network {
  readonly relays?: readonly string[];
  readonly guards?: string;
  readonly descriptors?: Partial<Record<keyof typeof ids, string>>;
  readonly conf?: Record<string, string[]>;
}

function source({ relays, guards, descriptors = {}, conf = {} }: Network): PathSource {
  const all = relays ?? [
    entry("guard", "10.1.0.1"),
    entry("other", "10.2.0.1"),
    entry("middle", "10.3.0.1"),
    entry("box", "10.4.0.1"),
  ];
  const info: Record<string, string> = {
    "ns/all": all.join(""),
    "entry-guards": guards ?? `$${ids.guard}~guard up\n$${ids.other}~other up`,
  };
  for (const [name, text] of Object.entries(descriptors))
    info[`md/id/${ids[name as keyof typeof ids]}`] = `onion-key\n${text}\nid ed25519 x\n`;
  return {
    getInfo: async (keys: readonly string[]) =>
      Object.fromEntries(
        keys.map((key) => {
          const value = info[key];
          if (value === undefined) throw new BentoError("tor-refused", `no ${key}`);
          return [key, value];
        }),
      ) as never,
    getConf: async (keys: readonly string[]) =>
      Object.fromEntries(keys.map((key) => [key, conf[key] ?? []])) as never,
  };
}

/** All paths that come up in many draws. */
async function paths(network: Network): Promise<Set<string>> {
  const found = new Set<string>();
  for (let draw = 0; draw < 60; draw++) {
    const path = await choosePath(source(network), ids.box);
    found.add(
      path.map((id) => Object.entries(ids).find(([, one]) => one === id)?.[0] ?? "unknown").join(" "),
    );
  }
  return found;
}

test("choosePath: tor's first usable guard, any other relay, the target", async () => {
  assert.deepEqual(await paths({}), new Set(["guard other box", "guard middle box"]));
  const down = `$${ids.guard}~guard down 2026-11-20\n$${ids.other}~other never-connected`;
  assert.deepEqual(await paths({ guards: down }), new Set(["other guard box", "other middle box"]));
});

test("choosePath: relays of one family do not share a path, when both say so", async () => {
  const mutual = { guard: `family $${ids.box} x`, box: `family $${ids.guard}=guard` };
  assert.deepEqual(await paths({ descriptors: mutual }), new Set(["other middle box"]));
  const byName = { middle: "family GUARD", guard: "family middle" };
  assert.deepEqual(await paths({ descriptors: byName }), new Set(["guard other box"]));
  const oneSided = { box: `family $${ids.guard} $${ids.other} $${ids.middle}` };
  assert.equal((await paths({ descriptors: oneSided })).size, 2, "nobody pushes others out by naming them");
});

test("choosePath: relays with a family key in common, and those that the user's NodeFamily joins, stay apart", async () => {
  const keys = { middle: "family-ids ed25519:AA ed25519:BB", box: "family-ids ed25519:BB" };
  assert.deepEqual(await paths({ descriptors: keys }), new Set(["guard other box"]));
  const distinct = { middle: "family-ids ed25519:AA", box: "family-ids ed25519:BB" };
  assert.equal((await paths({ descriptors: distinct })).size, 2);
  const conf = { NodeFamily: [`$${ids.middle},$${ids.guard}`] };
  assert.deepEqual(await paths({ conf }), new Set(["guard other box"]));
});

test("choosePath: no two relays of one /16 or IPv6 /32, unless tor is configured to do without that rule", async () => {
  const relays = [
    entry("guard", "10.1.0.1"),
    entry("other", "10.1.255.1"),
    entry("middle", "10.3.0.1", "a [2001:db8:1::1]:9001\n"),
    entry("box", "10.4.0.1"),
  ];
  assert.deepEqual(await paths({ relays }), new Set(["guard middle box"]));
  assert.equal((await paths({ relays, conf: { EnforceDistinctSubnets: ["0"] } })).size, 2);
  const sixes = relays.with(3, entry("box", "10.4.0.1", "a [2001:db8:2::1]:9001\n"));
  await assert.rejects(paths({ relays: sixes }), { code: "tor-circuit-failed" });
});
