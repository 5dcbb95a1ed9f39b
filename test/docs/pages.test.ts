// What the pages say against what is there: links, anchors, sections that comments cite, lists of files, and the numbers
// and names that specifications quote from the code.

import assert from "node:assert/strict";
import { glob, readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { LEGACY_LIMITS } from "../../src/box/legacy2021/legacy-listener.ts";
import { SERVE_LIMITS } from "../../src/box/serve/serve-limits.ts";
import { EXIT, EXIT_BY_CODE, exitCodeOf } from "../../src/client/cli/exit-code.ts";
import { DigestLimits } from "../../src/wire/digest.ts";
import { ERROR_CODES } from "../../src/wire/error-code.ts";
import { Limits } from "../../src/wire/limits.ts";
import { MAY_IMPORT } from "../../tools/import-rules.ts";
import { anchorsOf, headingsOf, linksOf } from "./markdown.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const read = (file: string) => readFile(path.join(ROOT, file), "utf8");

async function filesOf(...patterns: string[]): Promise<string[]> {
  const exclude = ["**/node_modules/**"];
  const files = await Array.fromAsync(glob(patterns, { cwd: ROOT, exclude }));
  return files.map((file) => file.split(path.sep).join("/")).sort();
}

const pages = await filesOf("*.md", "docs/**/*.md", "functions/**/*.md");

test("links: each relative one, in each page, names a file or folder, and its anchor a heading", async () => {
  const broken: string[] = [];
  let count = 0;
  for (const page of pages) {
    for (const target of linksOf(await read(page))) {
      if (/^[a-z]+:/.test(target)) continue;
      count++;
      const [file = "", anchor] = target.split("#");
      const to = file === "" ? page : path.posix.join(path.posix.dirname(page), file);
      const found = (await filesOf(to, `${to.replace(/\/$/, "")}/*`)).length > 0;
      if (!found) broken.push(`${page}: ${target}: no such file`);
      else if (anchor !== undefined && !anchorsOf(await read(to)).includes(anchor))
        broken.push(`${page}: ${target}: no such heading`);
    }
  }
  assert.deepEqual(broken, []);
  assert.ok(count >= 40, `${count} links were looked at`);
});

test("comments: each section of a specification that is cited exists", async () => {
  const sources = await filesOf("src/**/*.{ts,py}", "functions/**/*.ts", "test/**/*.ts", "tools/*.ts");
  const specs = new Map<string, string[]>();
  for (const file of await filesOf("docs/spec/*.md"))
    specs.set(path.basename(file, ".md"), headingsOf(await read(file)));
  const broken: string[] = [];
  let count = 0;
  for (const source of sources) {
    if (source === "test/docs/pages.test.ts") continue;
    // `spec/wire 4.2`, `docs/spec/policy.md 5`, `spec/digest 2, 3`
    for (const [cited, name = "", sections = ""] of (await read(source)).matchAll(
      /\bspec\/([a-z0-9-]+)(?:\.md)?((?:,? \d+(?:\.\d+)*(?![\w-]))*)/g,
    )) {
      count++;
      const headings = specs.get(name);
      if (!headings) broken.push(`${source}: ${cited}: no such specification`);
      for (const [section] of headings ? sections.matchAll(/\d+(?:\.\d+)*/g) : []) {
        if (
          !headings?.some(
            (heading) => heading.startsWith(`${section} `) || heading.startsWith(`${section}. `),
          )
        )
          broken.push(`${source}: ${cited}: no section ${section}`);
      }
    }
  }
  assert.deepEqual(broken, []);
  assert.ok(count >= 50, `${count} citations were looked at`);
});

test("lists: README names every specification, docs/adr every decision, ARCHITECTURE every room", async () => {
  const readme = linksOf(await read("README.md"));
  assert.deepEqual(
    readme.filter((target) => target.startsWith("docs/spec/")).sort(),
    await filesOf("docs/spec/*.md"),
  );
  const decisions = linksOf(await read("docs/adr/README.md")).map((target) => `docs/adr/${target}`);
  assert.deepEqual([...decisions, "docs/adr/README.md"].sort(), await filesOf("docs/adr/*.md"));
  const rooms = (await architectureTable()).map(({ room }) => room).sort();
  const folders = (await readdir(path.join(ROOT, "src"))).map((name) => `src/${name}/`);
  assert.deepEqual(rooms, [...folders, "functions/"].sort());
});

test("ARCHITECTURE: the table of rooms says what the import rules say", async () => {
  for (const { room, mayImport } of await architectureTable()) {
    const wanted =
      mayImport === "nothing of ours"
        ? []
        : mayImport === "all"
          ? ["src/"]
          : mayImport.split(", ").map((name) => {
              const path = name.replace(/^not /, "");
              return `${path === name ? "" : "!"}src/${path}${path.endsWith(".ts") ? "" : "/"}`;
            });
    assert.deepEqual([...(MAY_IMPORT[room] ?? ["no rule"])].sort(), wanted.sort(), room);
  }
});

async function architectureTable(): Promise<{ room: string; mayImport: string }[]> {
  const rows = (await read("ARCHITECTURE.md")).matchAll(/^\| `(\w+\/)` +\|[^|]*\| ([^|]*?) *\|$/gm);
  return Array.from(rows, ([, room = "", mayImport = ""]) => ({
    room: room === "functions/" ? room : `src/${room}`,
    mayImport,
  }));
}

test("ARCHITECTURE: only the rooms it names open sockets or start processes", async () => {
  const text = (await read("ARCHITECTURE.md")).replaceAll("\n", " ");
  const sentence = /Only (.*?) open sockets or start processes, and (.*?),/.exec(text);
  const named = `${sentence?.[1]} ${sentence?.[2]}`;
  const places = Array.from(named.matchAll(/`([\w/.-]+)`/g), ([, name]) => `src/${name}`);
  assert.ok(places.length >= 8);
  const sources = (await filesOf("src/**/*.ts", "functions/**/*.ts")).filter(
    (file) => !file.endsWith(".test.ts"),
  );
  for (const source of sources) {
    const opens = (await read(source))
      .split("\n")
      .some(
        (line) =>
          /^import (?!type)(?!\{ isIP(v[46])? \}).* from "node:(net|http|https|tls|dgram|dns|child_process)/.test(
            line,
          ) && !/\{( type \w+,?)+ \}/.test(line),
      );
    if (opens)
      assert.ok(
        places.some((place) => source.startsWith(place)),
        source,
      );
  }
});

const kib = (bytes: number) => `${bytes / 1024} KiB`;
const mib = (bytes: number) => `${bytes / 1024 ** 2} MiB`;
const s = (ms: number) => `${ms / 1000} s`;

/** What a page must say, word for word, from the numbers that the code has. */
const QUOTED: Readonly<Record<string, readonly string[]>> = {
  "docs/spec/wire.md": [
    `| header of a request | ${kib(SERVE_LIMITS.headerBytes)}, ${SERVE_LIMITS.headers} fields, ${s(SERVE_LIMITS.headerMs)} |`,
    `| package | ${mib(Limits.packageBytesMax)} and what the policy says |`,
    `| other bodies | ${kib(Limits.requestBytesMax)} |`,
    `| ${s(SERVE_LIMITS.bodyGraceMs)} and one second more for each ${kib(SERVE_LIMITS.bodyBytesPerSecond).replace("1 ", "")} received |`,
    `| idle connection | ${s(SERVE_LIMITS.keepAliveMs)} |`,
    `| connections, sessions | ${SERVE_LIMITS.connections}, ${SERVE_LIMITS.sessions} for the box |`,
    `As JSON it has at most ${kib(Limits.argumentBytesMax)}.`,
    `A fragment has at most ${kib(Limits.fragmentBytesMax)}, an input message at most ${mib(Limits.inputMessageBytesMax)}.`,
    `together are limited to ${mib(SERVE_LIMITS.inputBytes)}.`,
    `never less than the ${kib(Limits.streamWindowBytes)} of the guest channel's window`,
    `the box stops sending after ${kib(SERVE_LIMITS.sendBufferBytes)}`,
    `status ${ERROR_CODES["bad-token"].status}`,
  ],
  "docs/spec/guest.md": [
    `A payload is at most ${kib(Limits.fragmentBytesMax)}`,
    `have a window of ${kib(Limits.streamWindowBytes)} per direction`,
    `has at most ${Limits.guestStreamsMax} calls and streams open`,
    `Log lines are cut at ${kib(Limits.logTextBytesMax)}`,
    `\`host\` 1 to ${Limits.hostNameBytesMax} bytes`,
    `\`key\` 1 to ${Limits.storageKeyBytesMax} bytes`,
    `\`limit\` 1 to ${Limits.storageListMax}`,
    `traceback: ${kib(Limits.errorTextBytesMax)} of UTF-8 each`,
  ],
  "docs/spec/digest.md": [
    `| a URL | ${DigestLimits.urlBytesMax} bytes |`,
    `| a body | ${mib(DigestLimits.bodyBytesMax)} |`,
    `| all records, decompressed | ${mib(DigestLimits.contentBytesMax)} |`,
    `| records | ${DigestLimits.recordsMax} |`,
    `Padding above ${mib(DigestLimits.paddingBytesMax)} in one frame`,
  ],
  "docs/spec/protocol-2021.md": [
    `| connections | ${LEGACY_LIMITS.connections} |`,
    `| executions open over one connection | ${LEGACY_LIMITS.sessions} |`,
    `| connection without an open execution | ${LEGACY_LIMITS.idleMs / 60_000} min |`,
  ],
  "docs/spec/storage.md": [`1 to ${Limits.storageKeyBytesMax} bytes`],
  "docs/guide/author.md": [`at most ${mib(Limits.packageBytesMax)}`],
};

for (const [page, sentences] of Object.entries(QUOTED)) {
  test(`${page}: quotes the code's limits`, async () => {
    const text = (await read(page)).replaceAll(/\s+/g, " ");
    assert.deepEqual(
      sentences.filter((sentence) => !text.includes(sentence)),
      [],
    );
  });
}

test("docs/spec/exit-codes.md: every exit code and every error code, with the numbers of the code", async () => {
  const rows = (await read("docs/spec/exit-codes.md")).matchAll(
    /^\| (\d+) \|[^|]*\| (.*) \|$|^\| (\d+) \|[^|]*\| \|$/gm,
  );
  const said = new Map<string, number>();
  const numbers: number[] = [];
  for (const [, number, codes = "", bare] of rows) {
    numbers.push(Number(number ?? bare));
    for (const [, code = ""] of codes.matchAll(/`([a-z-]+[a-z])`/g)) said.set(code, Number(number));
  }
  assert.deepEqual(numbers, Object.values(EXIT));
  assert.deepEqual(Object.fromEntries(said), EXIT_BY_CODE);
  assert.equal(exitCodeOf("tor-timeout"), EXIT.unreachable);
  assert.equal(exitCodeOf("some-code"), EXIT.functionFailed);
});

test("docs/guide/author.md: each name of Python's api exists in the runner", async () => {
  const runner = await read("src/guest/python/runner.py");
  const rows = [...(await read("docs/guide/author.md")).matchAll(/^\| `api\..*?\|/gm)].join(" ");
  const names = Array.from(rows.matchAll(/`(?:api)?\.(\w+)/g), ([, name = ""]) => name);
  assert.ok(names.length >= 10);
  for (const name of names) assert.match(runner, new RegExp(`\\b(?:self|api)\\.${name}\\b|"${name}"`), name);
});
