// The command line as users call it, against a small real box on loopback: every command, its wrong uses, its exit
// codes. Each test has a state folder of its own.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { TEST_POLICY, TestBox, type TestScript } from "../../src/client/test-box.ts";
import type { Outcome } from "../../src/wire/api.ts";
import { CELL_BYTES, decodeRequest } from "../../src/wire/browse.ts";
import type { BoxChoice } from "../../src/wire/choose-boxes.ts";
import { endInput, type Finished, finished, startBento } from "../support/bento-command.ts";
import { failedAnswer, shapedAnswer } from "../support/shaped-answer.ts";

class User {
  readonly dir: string;

  constructor(dir: string) {
    this.dir = dir;
  }

  start(args: readonly string[]) {
    return startBento(this.dir, args, { XDG_STATE_HOME: path.join(this.dir, "state") });
  }

  async bento(args: readonly string[], input = ""): Promise<Finished> {
    const child = this.start(args);
    endInput(child, input);
    return shown(child);
  }
}

async function shown(child: ReturnType<User["start"]>): Promise<Finished> {
  const all = await finished(child);
  assert.doesNotMatch(all.err, /\n\s+at /, "no stack trace reaches a user");
  return all;
}

async function newUser(t: TestContext): Promise<User> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-cli-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return new User(dir);
}

const greet: TestScript = async (call) => {
  call.output(Buffer.from("hello world"));
  return { kind: "returned" };
};

const echo: TestScript = async (call) => {
  for await (const message of call.input) call.output(message);
  return { kind: "returned" };
};

const ending =
  (outcome: Outcome): TestScript =>
  async () =>
    outcome;

test("bento --version: prints the version alone", async (t) => {
  const user = await newUser(t);
  const { code, out } = await user.bento(["--version"]);
  assert.equal(code, 0);
  assert.match(out, /^\d+\.\d+\.\d+\n$/);
});

const RELAY = "AB".repeat(20);
const WRONG: readonly [string, readonly string[], number, RegExp][] = [
  ["an unknown command", ["rnu"], 2, /Did you mean run\?/],
  ["an unknown option", ["run", "hello", "--bxo", "x"], 2, /--box/],
  ["no function", ["run"], 2, /missing required argument 'fn'/],
  ["an unknown function", ["run", "helo"], 2, /Did you mean hello\?/],
  ["no box and no network", ["run", "hello"], 2, /bento net up/],
  ["a malformed address", ["run", "hello", "--box", "nowhere"], 2, /host:port/],
  ["a malformed SOCKS address", ["policy", "--box", "127.0.0.1:1", "--socks", "x"], 2, /SOCKS/],
  ["an onion address with --direct", ["policy", `${"a".repeat(56)}.onion`, "--direct"], 2, /needs Tor/],
  [
    "--direct with --socks",
    ["policy", "127.0.0.1:1", "--direct", "--socks", "127.0.0.1:9"],
    2,
    /cannot be used with/,
  ],
  ["--relay without a control port", ["policy", "127.0.0.1:1", "--relay", RELAY], 2, /--tor-control/],
  ["--relay that is none", ["policy", "127.0.0.1:1", "--relay", "abc"], 2, /40 hexadecimal/],
  ["--relay with a host name", ["policy", "box.test:1", "--relay", RELAY], 2, /own IP address/],
  ["--relay with an onion address", ["policy", `${"a".repeat(56)}.onion`, "--relay", RELAY], 2, /no --relay/],
  [
    "--relay with --direct",
    ["policy", "127.0.0.1:1", "--relay", RELAY, "--direct"],
    2,
    /cannot be used with/,
  ],
  ["--tor-control alone", ["policy", "127.0.0.1:1", "--tor-control", "127.0.0.1:1"], 2, /--relay/],
  [
    "no control port there",
    ["policy", "127.0.0.1:1", "--relay", RELAY, "--tor-control", "127.0.0.1:1"],
    5,
    /control port at 127\.0\.0\.1:1/,
  ],
  ["arguments and a call", ["run", "hello", "a", "--call", "f()", "--box", "127.0.0.1:1"], 2, /not several/],
  [
    "arguments that are not JSON",
    ["run", "hello", "--args-json", "{", "--box", "127.0.0.1:1"],
    2,
    /not JSON/,
  ],
  [
    "arguments that are no array",
    ["run", "hello", "--args-json", "{}", "--box", "127.0.0.1:1"],
    2,
    /not an array/,
  ],
  ["no tor", ["policy", "127.0.0.1:1", "--socks", "127.0.0.1:1"], 5, /SOCKS port/],
  ["no box there", ["policy", "127.0.0.1:1", "--direct"], 6, /connection refused/],
  ["an unknown saved function", ["exec", "nothing"], 2, /no saved name/],
  ["an unknown saved instance", ["open", "nothing"], 2, /no saved name/],
  [
    "a malformed token",
    ["exec", "11111111-1111-1111-1111-111111111111", "--box", "127.0.0.1:1"],
    7,
    /UUIDv4/,
  ],
  ["a token file that is missing", ["shutdown", "@missing"], 2, /ENOENT/],
  ["no message", ["send", "x"], 2, /missing required argument/],
  ["an unknown shell", ["completions", "tcsh"], 2, /bash, zsh or fish/],
  ["a number out of range", ["recv", "x", "--wait", "0"], 2, /Wanted/],
  [
    "boxes told apart by nothing known",
    ["boxes", "127.0.0.1:1", "--distinct", "colour"],
    2,
    /relay or family/,
  ],
  ["a region that is none", ["boxes", "127.0.0.1:1", "--region", "Mars"], 2, /two letters/],
  ["an unknown benchmark", ["bench", "nothing"], 2, /no benchmark/],
  ["a filter that matches no test", ["test", "no-such-file-anywhere"], 2, /no test file/],
  ["close without an instance", ["close"], 2, /missing required argument/],
  ["store of a missing folder", ["store", "./missing"], 2, /Cannot find function/],
  ["check of a missing function", ["check", "./missing"], 2, /Cannot find function/],
  ["shell without a box", ["shell"], 2, /Cannot choose a box/],
  ["put without a file", ["put"], 2, /no file is named/],
  ["put of a missing file", ["put", "./missing"], 2, /ENOENT/],
  ["put of a folder", ["put", "."], 2, /no regular file/],
  ["put with an unknown padding", ["put", "/etc/hosts", "--pad", "some"], 2, /padme, none/],
  ["put --continue of nothing", ["put", "--continue", "x"], 2, /no put is saved/],
  ["get of what is nothing", ["get", "nonsense"], 2, /no saved name, no link/],
  ["get of half a link", ["get", "bento:dropbox?box=127.0.0.1:1&token=x"], 7, /UUIDv4/],
  ["get of a link with more in it", ["get", "bento:dropbox?box=127.0.0.1:1&a=b"], 7, /whole line/],
  ["shard put, k above n", ["shard", "put", "f", "-k", "3", "-n", "2", "-o", "r"], 2, /1 <= k <= n/],
  ["shard put without k", ["shard", "put", "f", "-n", "2", "-o", "r"], 2, /-k/],
  ["shard get without a receipt", ["shard", "get", "./missing"], 2, /ENOENT/],
  ["shard get of no receipt", ["shard", "get", "/etc/hosts"], 3, /no receipt/],
  ["an empty token file", ["ls", "@/dev/null", "--box", "127.0.0.1:1"], 7, /shutdown token/],
];
for (const [name, args, wanted, message] of WRONG) {
  test(`bento ${args[0]}: wrong use, ${name}`, async (t) => {
    const user = await newUser(t);
    const { code, err, out } = await user.bento(args);
    assert.equal(code, wanted, err);
    assert.match(err, message);
    assert.equal(out, "");
    assert.ok(err.trimEnd().split("\n").length <= 4, `a few lines: ${err}`);
  });
}

test("bento run: output bytes and nothing else on stdout; what was installed is removed", async (t) => {
  const user = await newUser(t);
  await using box = await TestBox.start({ script: greet });
  const { code, out, err } = await user.bento(["run", "hello", "--box", box.address, "--direct"]);
  assert.equal(code, 0, err);
  assert.equal(out, "hello world");
  assert.deepEqual(box.requests, ["POST /v1/run", "POST /v1/shutdown"]);
  assert.equal((await user.bento(["ls"])).out, "");
});

test("bento run -i -: standard input is the function's input, -o writes the file", async (t) => {
  const user = await newUser(t);
  await using box = await TestBox.start({ script: echo });
  const file = path.join(user.dir, "out.bin");
  const args = ["run", "echo", "--box", box.address, "--direct", "-i", "-", "-o", file];
  const { code, out, err } = await user.bento(args, "one\ntwo\n");
  assert.equal(code, 0, err);
  assert.equal(out, "");
  assert.equal(await readFile(file, "utf8"), "one\ntwo\n");
});

test("bento run -o, -i, browse -o: a file that cannot be used is told before anything is started", async (t) => {
  const user = await newUser(t);
  await using box = await TestBox.start({ script: greet });
  const reach = ["--box", box.address, "--direct"];
  const cases = [
    [["run", "hello", "-o", "missing/out"], 3, /Cannot write missing\/out: ENOENT/],
    [["run", "hello", "-o", "."], 3, /Cannot write \.: EISDIR/],
    [["run", "hello", "-i", "missing"], 2, /Cannot read input from missing: ENOENT/],
    [["run", "hello", "-i", "."], 2, /it is a folder/],
    [["browse", "http://a.test/", "-o", "missing/out"], 3, /Cannot write missing\/out: ENOENT/],
  ] as const;
  for (const [args, wanted, message] of cases) {
    const { code, err } = await user.bento([...args, ...reach]);
    assert.equal(code, wanted, err);
    assert.match(err, message);
  }
  assert.deepEqual(box.requests, [], "the box was never asked");
  assert.equal((await user.bento(["ls"])).out, "");
});

test("bento run -o: a box that refuses leaves a file as it was; one that does not, replaces it", async (t) => {
  const user = await newUser(t);
  await using closed = await TestBox.start({ policy: { ...TEST_POLICY, images: ["python"] } });
  await using open = await TestBox.start({ script: greet });
  const file = path.join(user.dir, "out");
  const run = (box: TestBox) => user.bento(["run", "hello", "--box", box.address, "--direct", "-o", file]);
  assert.equal((await run(closed)).code, 4);
  await assert.rejects(stat(file), { code: "ENOENT" });
  await writeFile(file, "what was there before, longer than the output");
  assert.equal((await run(closed)).code, 4);
  assert.match(await readFile(file, "utf8"), /before/);
  assert.equal((await run(open)).code, 0);
  assert.equal(await readFile(file, "utf8"), "hello world");
  const device = ["run", "hello", "--box", open.address, "--direct", "-o", "/dev/null"];
  assert.equal((await user.bento(device)).code, 0, "what cannot be emptied is written to");
});

test("bento run --json: one JSON value a line, ending with the outcome", async (t) => {
  const user = await newUser(t);
  await using box = await TestBox.start({ script: greet });
  const { code, out } = await user.bento(["run", "hello", "--box", box.address, "--direct", "--json"]);
  assert.equal(code, 0);
  const events = out
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { event: string; text?: string });
  assert.deepEqual(
    events.map(({ event }) => event),
    ["attached", "output", "ended"],
  );
  assert.equal(events[1]?.text, "hello world");
});

const OUTCOMES: readonly [Outcome, number, RegExp][] = [
  [
    { kind: "failed", name: "Error", message: "no \u001b[31mway", traceback: "function.ts:3" },
    1,
    /no way\nfunction\.ts:3/,
  ],
  [{ kind: "killed", reason: "runtime-limit" }, 124, /ran longer/],
  [{ kind: "killed", reason: "out-of-memory" }, 10, /memory/],
  [{ kind: "killed", reason: "crashed" }, 1, /crashed/],
];
for (const [outcome, wanted, message] of OUTCOMES) {
  const name = outcome.kind === "killed" ? outcome.reason : outcome.kind;
  test(`bento run: the outcome "${name}" is exit code ${wanted}`, async (t) => {
    const user = await newUser(t);
    await using box = await TestBox.start({ script: ending(outcome) });
    const { code, err } = await user.bento(["run", "hello", "--box", box.address, "--direct"]);
    assert.equal(code, wanted);
    assert.match(err, message);
  });
}

test("bento boxes: which suit and why the others do not; exit code 4 when there are too few", async (t) => {
  const user = await newUser(t);
  await using small = await TestBox.start({ policy: { ...TEST_POLICY, images: ["python"] } });
  await using good = await TestBox.start();
  const names = [small.address, good.address, "127.0.0.1:1"];
  const all = await user.bento(["boxes", ...names, "--for", "hello", "--direct", "--json"]);
  assert.equal(all.code, 0, all.err);
  const choice = JSON.parse(all.out) as BoxChoice;
  assert.deepEqual(
    choice.chosen.map(({ box }) => box),
    [good.address],
  );
  const left = new Map(choice.left.map(({ box, reason }) => [box, reason]));
  assert.equal(left.get(small.address), "image: wanted deno, granted python");
  assert.match(left.get("127.0.0.1:1") ?? "", /connection refused/);
  const two = await user.bento(["boxes", ...names, "--for", "hello", "--count", "2", "--direct"]);
  assert.equal(two.code, 4);
  assert.match(two.out, /image: wanted deno, granted python/);
  const region = await user.bento(["boxes", good.address, "--region", "DE", "--direct"]);
  assert.equal(region.code, 4);
  assert.match(region.out, /does not say in which region/);
});

test("bento run: a policy's refusal names each rule and is exit code 4", async (t) => {
  const user = await newUser(t);
  await using box = await TestBox.start();
  const manifest = path.join(user.dir, "manifest.json");
  await writeFile(
    manifest,
    JSON.stringify({ name: "greedy", image: "deno", memory: "4GiB", storage: { bytes: "1TiB" } }),
  );
  const { code, err } = await user.bento([
    "run",
    "hello",
    "--manifest",
    manifest,
    "--box",
    box.address,
    "--direct",
  ]);
  assert.equal(code, 4);
  assert.match(err, /memory: wanted 4 GiB, granted at most 256 MiB\n {2}storage: wanted 1 TiB/);
  const check = await user.bento(["check", "hello", box.address, "--manifest", manifest, "--direct"]);
  assert.equal(check.code, 4);
  assert.match(check.out, /^memory +4 GiB +✗ at most 256 MiB$/m);
  assert.match(check.out, /refuses \(memory, storage\)/);
  assert.equal((await user.bento(["check", "hello", box.address, "--direct"])).code, 0);
});

test("bento check: a table of rules over boxes, each with what is wanted and what the policy says", async (t) => {
  const user = await newUser(t);
  const { net: _, ...rest } = TEST_POLICY;
  await using open = await TestBox.start();
  await using closed = await TestBox.start({ policy: { ...rest, net: null } });
  const manifest = path.join(user.dir, "manifest.json");
  await writeFile(
    manifest,
    JSON.stringify({ name: "fetching", image: "deno", net: { allow: ["*:443"] }, memory: "64MiB" }),
  );
  const args = ["check", "hello", open.address, closed.address, "--manifest", manifest, "--direct"];
  const { code, out } = await user.bento(args);
  assert.equal(code, 4);
  const row = (rule: string) => out.split("\n").find((line) => line.startsWith(`${rule} `)) ?? "";
  assert.match(
    row("net"),
    /\*:443 +✓ accepted by the relay's exit policy, or some of it +✗ no connections out$/,
  );
  assert.match(row("memory"), /64 MiB +✓ at most 256 MiB +✓ at most 256 MiB$/);
  assert.match(row("cpu"), /50% \(not asked for\) +✓ at most 100%/);
  assert.match(out, new RegExp(`✓ ${open.address}: grants\n✗ ${closed.address}: refuses \\(net\\)`));

  const json = await user.bento([...args, "--json"]);
  const [granted, refused] = json.out
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.equal(granted.kind, "granted");
  assert.equal(refused.kind, "refused");
  assert.deepEqual(
    refused.rules.filter((rule: { holds: boolean }) => !rule.holds),
    [{ rule: "net", wanted: "*:443", limit: "no connections out", holds: false, asked: true }],
  );

  const gone = await user.bento(["check", "hello", open.address, "127.0.0.1:1", "--direct"]);
  assert.equal(gone.code, 6, "a box that does not answer is no refusal");
  assert.match(gone.out, /\? 127\.0\.0\.1:1: /);
  assert.match(gone.out, /grants/);
});

test("bento run: a broken manifest or program is exit code 3 and sends nothing", async (t) => {
  const user = await newUser(t);
  await using box = await TestBox.start();
  const script = path.join(user.dir, "broken.ts");
  await writeFile(script, 'import "./missing.ts"; export default {');
  const broken = await user.bento(["run", script, "--box", box.address, "--direct"]);
  assert.equal(broken.code, 3);
  assert.match(broken.err, /broken\.ts:1/);
  const manifest = path.join(user.dir, "manifest.json");
  await writeFile(manifest, '{"name": "x", "image": "ruby"}');
  const wrong = await user.bento([
    "store",
    "hello",
    "--manifest",
    manifest,
    "--box",
    box.address,
    "--direct",
  ]);
  assert.equal(wrong.code, 3);
  assert.match(wrong.err, /image/);
  assert.equal(box.connections, 0);
});

test("bento run --dry-run: shows names, size and sha256, sends nothing", async (t) => {
  const user = await newUser(t);
  const { code, out } = await user.bento(["run", "hello", "--dry-run", "--json"]);
  assert.equal(code, 0);
  const shown = JSON.parse(out) as { name: string; bytes: number; sourceHash: string; files: string[] };
  assert.equal(shown.name, "hello");
  assert.match(shown.sourceHash, /^[0-9a-f]{64}$/);
  assert.deepEqual(shown.files, ["function.ts"]);
});

test("bento store, exec, send, recv, close, open, ls, shutdown: by saved names, tokens never in an argument", async (t) => {
  const user = await newUser(t);
  await using box = await TestBox.start({ script: echo });
  const at = ["--box", box.address, "--direct"];
  const stored = await user.bento(["store", "echo", ...at]);
  assert.equal(stored.code, 0, stored.err);
  assert.match(stored.out, /^[0-9a-f-]{36}\n$/);
  assert.match(stored.err, /Stored as echo/);
  const file = path.join(user.dir, "state/bento/context.json");
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  assert.equal((await user.bento(["exec", "echo"])).out, "echo\n");
  for (const message of ["one", "two"]) assert.equal((await user.bento(["send", "echo", message])).code, 0);
  assert.equal((await user.bento(["recv", "echo"])).out, "one");
  assert.equal((await user.bento(["recv", "echo"])).out, "two");
  assert.match((await user.bento(["ls"])).out, /function {2}echo[^]*instance {2}echo/);
  const none = await user.bento(["recv", "echo", "--wait", "1"]);
  assert.equal(none.code, 6, none.err);
  assert.equal((await user.bento(["send", "echo", "-"], "three")).code, 0);
  assert.equal((await user.bento(["close", "echo"])).code, 0);
  const opened = await user.bento(["open", "echo"]);
  assert.equal(opened.code, 0, opened.err);
  assert.equal(opened.out, "three");
  const token = stored.out.trim();
  const tokenFile = path.join(user.dir, "token");
  await writeFile(tokenFile, `${token}\n`);
  assert.equal((await user.bento(["exec", `@${tokenFile}`, ...at])).code, 0);
  assert.equal((await user.bento(["exec", "-", ...at], token)).code, 0);
  const down = await user.bento(["shutdown", "echo"]);
  assert.equal(down.code, 0, down.err);
  assert.equal((await user.bento(["shutdown", "echo"])).code, 2);
});

test("bento run: Ctrl-C detaches, prints the command to attach again, exit code 130; open goes on there", async (t) => {
  const user = await newUser(t);
  const more = Promise.withResolvers<void>();
  const script: TestScript = async (call) => {
    call.output(Buffer.from("first "));
    await more.promise;
    call.output(Buffer.from("second"));
    return { kind: "returned" };
  };
  await using box = await TestBox.start({ script });
  const child = user.start(["run", "hello", "--box", box.address, "--direct"]);
  child.stdout.once("data", () => child.kill("SIGINT"));
  const { code, out, err } = await shown(child);
  assert.equal(code, 130, err);
  assert.equal(out, "first ");
  assert.match(err, /To attach again: bento open hello\n/);
  more.resolve();
  const again = await user.bento(["open", "hello"]);
  assert.equal(again.code, 0, again.err);
  assert.equal(again.out, "second");
  assert.equal(box.requests.at(-1), "POST /v1/shutdown", "the function goes with its only instance");
});

const BROWSE_POLICY = { ...TEST_POLICY, net: { exit: ["accept *:*"], connections: 32, bytes: 2 ** 26 } };
const BROWSE_SIZES = [2 * CELL_BYTES, 6 * CELL_BYTES];

test("bento browse: Ctrl-C stops waiting, and the answer is read to its end all the same", async (t) => {
  const user = await newUser(t);
  const started = Promise.withResolvers<void>();
  const stopped = Promise.withResolvers<void>();
  const acknowledged: number[] = [];
  const script: TestScript = async (call) => {
    for await (const message of call.input) {
      const [first, ...others] = shapedAnswer(decodeRequest(message), [40 * CELL_BYTES]);
      call.output(first ?? new Uint8Array());
      started.resolve();
      await stopped.promise;
      for (const cell of others) call.output(cell);
      await call.acknowledged(32 * CELL_BYTES);
      acknowledged.push(32 * CELL_BYTES);
    }
    return { kind: "returned" };
  };
  await using box = await TestBox.start({ script, policy: BROWSE_POLICY });
  const args = ["browse", "http://a.test/", "--box", box.address, "--direct", "--sizes", "160KiB"];
  const child = user.start([...args, "-o", "page.html"]);
  let said = "";
  child.stderr.on("data", (text: Buffer) => {
    said += text.toString();
    if (said.includes("Ctrl-C again")) stopped.resolve();
  });
  await started.promise;
  child.kill("SIGINT");
  const { code, err } = await shown(child);
  assert.equal(code, 130, err);
  assert.match(err, /Stopped\. The answer is still received/);
  assert.deepEqual(acknowledged, [32 * CELL_BYTES]);
  assert.equal(box.requests.at(-1), "POST /v1/shutdown");
});

test("bento browse: no page is no output and no file; an answer of another size is told", async (t) => {
  const user = await newUser(t);
  const script: TestScript = async (call) => {
    for await (const message of call.input) {
      const request = decodeRequest(message);
      const sizes = request.url.endsWith("/other") ? [3 * CELL_BYTES] : BROWSE_SIZES;
      const cells = request.url.endsWith("/gone")
        ? failedAnswer(request, sizes)
        : shapedAnswer(request, sizes);
      for (const cell of cells) call.output(cell);
    }
    return { kind: "returned" };
  };
  await using box = await TestBox.start({ script, policy: BROWSE_POLICY });
  const settings = ["--box", box.address, "--direct", "--sizes", "8KiB,24KiB"];
  const browse = (path: string, ...more: string[]) =>
    user.bento(["browse", `http://a.test${path}`, ...settings, ...more]);
  for (const to of [[], ["-o", "gone.html"]]) {
    const gone = await browse("/gone", ...to);
    assert.deepEqual([gone.code, gone.out], [1, ""]);
    assert.match(gone.err, /There was no page/);
    assert.doesNotMatch(gone.err, /hash is right/);
  }
  await assert.rejects(stat(path.join(user.dir, "gone.html")));
  const other = await browse("/other");
  assert.equal(other.code, 8, other.err);
  assert.match(other.err, /none of the sizes/);
  const good = await browse("/", "-o", "good.html", "--explain");
  assert.equal(good.code, 0, good.err);
  assert.match(good.err, /2 sizes at 512 KiB\/s/);
  assert.match(await readFile(path.join(user.dir, "good.html"), "utf8"), /GET http:\/\/a\.test\//);
});

test("bento browse --explain: sizes, cost and bound", async (t) => {
  const user = await newUser(t);
  await writeFile(path.join(user.dir, "sizes"), '10\n300KiB\n{"event":"page","contentBytes":70000}\nnoise\n');
  const { out } = await user.bento(["browse", "--explain", "--population", "sizes", "--fit", "2", "--json"]);
  const explained = JSON.parse(out) as { shape: { bytes: number[] }; report: object; bound: number };
  assert.deepEqual(explained.shape.bytes, [131_072, 327_680]);
  assert.deepEqual(explained.report, {
    pages: 3,
    cut: 0,
    used: 2,
    bound: 2 / 3,
    overhead: (2 * 131_072 + 327_680) / (10 + 307_200 + 70_000) - 1,
  });
  assert.equal((await user.bento(["browse"])).code, 2);
});

test("bento run: Tor's SOCKS port is gone: exit code 5, whatever number of boxes is known", async (t) => {
  const user = await newUser(t);
  const socks = `unix:${path.join(user.dir, "socks")}`;
  const address = `${"a".repeat(56)}.onion`;
  const context = { version: 1, boxes: { box0: { address, socks }, box1: { address, socks } } };
  await mkdir(path.join(user.dir, "state/bento"), { recursive: true });
  await writeFile(path.join(user.dir, "state/bento/context.json"), JSON.stringify(context));
  for (const args of [["run", "hello"], ["policy"], ["browse", "http://a.test/"]]) {
    const { code, err } = await user.bento(args);
    assert.equal(code, 5, err);
    assert.match(err, /Cannot reach Tor's SOCKS port at .*\n {2}Start tor/);
  }
});

test("bento run: a reader that closes the pipe is no error", async (t) => {
  const user = await newUser(t);
  const script: TestScript = async (call) => {
    for (let index = 0; index < 200; index++) call.output(Buffer.alloc(60_000));
    return { kind: "returned" };
  };
  await using box = await TestBox.start({ script });
  const child = user.start(["run", "hello", "--box", box.address, "--direct"]);
  child.stdout.once("data", () => child.stdout.destroy());
  let err = "";
  child.stderr.on("data", (text: Buffer) => (err += text.toString()));
  const code = await new Promise<number | null>((resolve) => child.once("exit", resolve));
  assert.equal(code, 0);
  assert.equal(err, "");
});

test("bento shell: store, exec, open, send, recv, close, exit as in the papers' client", async (t) => {
  const user = await newUser(t);
  await using box = await TestBox.start({ script: echo });
  const typed = [
    "store",
    "add",
    "def add(x,y):",
    "    return x + y",
    "",
    "",
    "exec",
    "",
    "add(5,12)",
    "open",
    "",
    "send 17",
    "recv",
    "recv",
  ];
  const { code, out, err } = await user.bento(
    ["shell", "--box", box.address, "--direct"],
    `${[...typed, "close", "recv", "nonsense", "send x", "exit"].join("\n")}\n`,
  );
  assert.equal(code, 0, err);
  const lines = out
    .trimEnd()
    .split("\n")
    .map((line) => line.replace(/: .*/, ""));
  const wanted = [
    "token",
    "shutdown token",
    "instance",
    "open",
    "sent 2 B",
    "17",
    "no data",
    "input closed",
    "the function has returned",
  ];
  assert.deepEqual(lines, wanted);
  assert.match(err, /Unknown command "nonsense"/);
  assert.match(err, /No instance is open/);
});

test("bento policy: what the box grants, as text and as JSON", async (t) => {
  const user = await newUser(t);
  await using box = await TestBox.start();
  const shown = await user.bento(["policy", box.address, "--direct"]);
  assert.match(shown.out, /memory +at most 256 MiB/);
  const parsed = JSON.parse((await user.bento(["policy", box.address, "--direct", "--json"])).out) as {
    policy: unknown;
  };
  assert.ok(parsed.policy);
});

test("bento completions: bash completes commands, subcommands, options and functions", async (t) => {
  const user = await newUser(t);
  const { out: script } = await user.bento(["completions", "bash"]);
  const complete = async (...words: string[]) => {
    const probe = `${script}\nCOMP_WORDS=(${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length - 1}; _bento; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const child = spawn("bash", ["-c", probe], { cwd: user.dir });
    child.stdin.end();
    let out = "";
    child.stdout.on("data", (text: Buffer) => (out += text.toString()));
    await new Promise((resolve) => child.once("close", resolve));
    return out.trim().split("\n");
  };
  assert.deepEqual(await complete("bento", "completi"), ["completions"]);
  assert.deepEqual(await complete("bento", "shel"), ["shell"]);
  assert.deepEqual(await complete("bento", "net", ""), ["up", "status", "down"]);
  assert.deepEqual(await complete("bento", "net", "up", "--la"), ["--latency"]);
  assert.deepEqual(await complete("bento", "run", "hel"), ["hello"]);
  assert.deepEqual(await complete("bento", "run", "hello", "--b"), ["--box"]);
  await writeFile(path.join(user.dir, "a-file"), "");
  assert.deepEqual(await complete("bento", "completions", ""), ["bash", "zsh", "fish"]);
  assert.deepEqual(await complete("bento", "logs", ""), [""], "no file is a token");
  assert.deepEqual(await complete("bento", "run", "--box", ""), [""], "nor a box");
  assert.deepEqual(await complete("bento", "run", "a-"), ["a-file"]);
  assert.deepEqual(await complete("bento", "run", "hello", "-o", "a-"), ["a-file"]);
});

test("bento completions: the zsh and fish scripts name every command", async (t) => {
  const user = await newUser(t);
  for (const shell of ["zsh", "fish"]) {
    const { out } = await user.bento(["completions", shell]);
    for (const name of ["demo", "net", "run", "browse", "completions"])
      assert.ok(out.includes(`'${name}`), `${shell}: ${name}`);
  }
});
