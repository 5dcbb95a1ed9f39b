import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { test } from "node:test";
import { asyncProperty, assert as holds, nat } from "fast-check";
import { BentoError } from "../../base/errors.ts";
import { readElfNeeds } from "./elf.ts";

test("readElfNeeds: direct needs are among what the dynamic linker loads", async () => {
  for (const program of ["/bin/ls", "/usr/bin/python3", process.execPath]) {
    const needs = await readElfNeeds(program);
    assert.ok(needs?.interpreter !== undefined && needs.libraries.includes("libc.so.6"), program);
    const loaded = execFileSync(needs.interpreter, ["--list", program], { encoding: "utf8" });
    const names = new Set(loaded.match(/\S+\.so[.\d]*/g)?.map((path) => basename(path)));
    for (const library of needs.libraries) assert.ok(names.has(library), `${program} ${library}`);
  }
});

test("readElfNeeds: a text is no ELF file, a damaged one is an error and never a crash", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bento-elf-"));
  const path = join(dir, "program");
  await writeFile(path, "#!/bin/sh\n");
  assert.equal(await readElfNeeds(path), undefined);
  const whole = readFileSync("/bin/ls");
  await holds(
    asyncProperty(nat({ max: 1023 }), nat({ max: 255 }), nat({ max: 20_000 }), async (at, value, length) => {
      const bytes = Buffer.from(whole.subarray(0, length));
      if (at < bytes.length) bytes[at] = value;
      await writeFile(path, bytes);
      await readElfNeeds(path).catch((error: unknown) => {
        assert.ok(error instanceof BentoError, String(error));
      });
    }),
    { numRuns: 200 },
  );
  await rm(dir, { recursive: true });
});
