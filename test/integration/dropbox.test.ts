// Dropbox on a real box: put, get, resume, and what a Dropbox must refuse. Needs root.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { BoxClient, type Dial, directDial, type StoredFunction } from "../../src/client/client.ts";
import { Download, dropboxStatus, type GetOptions } from "../../src/client/dropbox/get.ts";
import {
  dropboxPackage,
  newWriter,
  type PutOptions,
  putContent,
  putRequest,
} from "../../src/client/dropbox/put.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import { parseInvocationToken } from "../../src/wire/token.ts";
import { endInput, type Finished, finished, startBento } from "../support/bento-command.ts";
import { contentOf } from "../support/content.ts";
import { ownUids } from "../support/own-uids.ts";
import { processesOf, SpawnedBox } from "../support/spawned-box.ts";

const UIDS = ownUids(100);
const MIB = 2 ** 20;

let dataDir: string;
let box: SpawnedBox;
let pack: PackageInput;
before(async () => {
  dataDir = await mkdtemp(join(tmpdir(), "bento-dropbox-"));
  box = await SpawnedBox.start(dataDir, { uids: UIDS });
  pack = (await loadPackage("dropbox")).package;
});
after(async () => {
  await box[Symbol.asyncDispose]();
  assert.deepEqual(await processesOf(UIDS), []);
  await rm(dataDir, { recursive: true });
});

const signal = () => AbortSignal.timeout(60_000);
const newClient = (dial: Dial = directDial) =>
  new BoxClient({ address: `127.0.0.1:${box.client.port}`, dial });

async function deposit(
  bytes: Uint8Array,
  options: { gets?: number; bytes?: number; client?: BoxClient; writer?: string } & Partial<PutOptions> = {},
): Promise<{ stored: StoredFunction; writer: string }> {
  const { client = newClient(), writer = newWriter(), gets = 1, bytes: bytesMax, ...rest } = options;
  const request = putRequest(writer, bytes.length, { gets, bytes: bytesMax });
  const packed = dropboxPackage(pack, request, { size: bytes.length });
  let stored: StoredFunction | undefined;
  const size = await putContent(client, { package: packed }, request, contentOf(bytes), {
    signal: signal(),
    onStored: (given) => {
      stored = given;
    },
    ...rest,
  });
  assert.equal(size, bytes.length);
  assert.ok(stored);
  return { stored, writer };
}

async function collect(stored: StoredFunction, options: Partial<GetOptions> & { client?: BoxClient } = {}) {
  const { client = newClient(), ...rest } = options;
  await using download = new Download(client, stored.invocationToken, { signal: signal(), ...rest });
  const parts: Uint8Array[] = [];
  for await (const part of download.content()) parts.push(part);
  await download.confirm();
  return Buffer.concat(parts);
}

/** What is on the wire, but for the date. */
async function answerTo(token: string): Promise<object> {
  const { status, headers, text } = await box.client.call("POST", "/v1/exec", {
    token,
    body: { args: ["get"] },
  });
  const kept = [...headers].filter(([name]) => name !== "date");
  return { status, kept, text };
}

test("dropbox: what was put comes back once; then the token is worth no more than a made-up one", async () => {
  const bytes = randomBytes(2 * MIB + 12_345);
  const { stored } = await deposit(bytes);
  assert.ok((await collect(stored)).equals(bytes));
  const madeUp = await answerTo(parseInvocationToken(crypto.randomUUID()));
  assert.deepEqual(await answerTo(stored.invocationToken), madeUp);
  assert.equal(Reflect.get(madeUp, "status"), 403);
  // Its owner cannot end it any more either: nothing of it is left.
  await assert.rejects(newClient().shutdown(stored.shutdownToken), hasCode("bad-token"));
});

test("dropbox: control: a token with downloads left is answered otherwise", async () => {
  const { stored } = await deposit(randomBytes(10));
  assert.equal(Reflect.get(await answerTo(stored.invocationToken), "status"), 201);
});

for (const size of [0, 1, MIB - 1, MIB, MIB + 1]) {
  test(`dropbox: ${size} bytes, twice`, async () => {
    const bytes = randomBytes(size);
    const { stored } = await deposit(bytes, { gets: 2 });
    assert.ok((await collect(stored)).equals(bytes));
    assert.ok((await collect(stored)).equals(bytes));
    await assert.rejects(collect(stored), hasCode("bad-token"));
  });
}

test("dropbox: the first put fixes owner and content", async () => {
  const bytes = Buffer.from("the content");
  const { stored, writer } = await deposit(bytes, { gets: 3 });
  const token = stored.invocationToken;
  const other = Buffer.from("another one");
  const attempt = (secret: string) =>
    putContent(newClient(), { token }, putRequest(secret, other.length, { gets: 3 }), contentOf(other), {
      signal: signal(),
    });
  await assert.rejects(attempt(newWriter()), /content is its owner's/);
  // Not even the owner replaces it: the answer is the size that is sealed.
  assert.equal(await attempt(writer), bytes.length);
  assert.ok((await collect(stored)).equals(bytes));
});

test("dropbox: a put that broke off is empty to others, and continued by its owner alone", async () => {
  const bytes = randomBytes(3 * MIB + 5);
  const writer = newWriter();
  const request = putRequest(writer, bytes.length, { gets: 1 });
  const stop = new AbortController();
  let stored: StoredFunction | undefined;
  const kept: number[] = [];
  await assert.rejects(
    putContent(
      newClient(),
      { package: dropboxPackage(pack, request, { size: bytes.length }) },
      request,
      {
        size: bytes.length,
        async *read(from) {
          yield bytes.subarray(from, from + MIB + 1000);
          await new Promise(() => undefined);
        },
      },
      {
        signal: stop.signal,
        onStored: (given) => {
          stored = given;
        },
        onKept: (at) => {
          kept.push(at);
          if (at > 0) stop.abort(new Error("the user went away"));
        },
      },
    ),
    /went away/,
  );
  assert.deepEqual(kept, [0, MIB]);
  assert.ok(stored);
  const token = stored.invocationToken;
  await assert.rejects(collect(stored), hasCode("dropbox-empty"));
  const thief = putRequest(newWriter(), 10, { gets: 1 });
  await assert.rejects(
    putContent(newClient(), { token }, thief, contentOf(randomBytes(10)), { signal: signal() }),
    /content is its owner's/,
  );
  const starts: number[] = [];
  const whole = contentOf(bytes);
  const read = (from: number) => {
    starts.push(from);
    return whole.read(from);
  };
  await putContent(newClient(), { token }, request, { ...whole, read }, { signal: signal() });
  assert.deepEqual(starts, [MIB], "went on where it was");
  assert.ok((await collect(stored)).equals(bytes));
});

/** Breaks each of its first connections after so many bytes from or to the box. */
function breakingDial(bytesEach: number, breaks: number): { dial: Dial; broken: () => number } {
  let left = breaks;
  const dial: Dial = async (target, options) => {
    const stream = await directDial(target, options);
    if (left <= 0) return stream;
    let seen = 0;
    const count = (bytes: number) => {
      seen += bytes;
      if (seen <= bytesEach || stream.destroyed) return;
      left--;
      stream.destroy();
    };
    stream.on("data", (chunk: Uint8Array) => count(chunk.length));
    const write = stream.write.bind(stream) as (...args: unknown[]) => boolean;
    Reflect.set(stream, "write", (chunk: Uint8Array, ...rest: unknown[]) => {
      const taken = write(chunk, ...rest);
      count(chunk.length);
      return taken;
    });
    return stream;
  };
  return { dial, broken: () => breaks - left };
}

test("dropbox: put and get go on after lost connections, and a resumed download counts once", async () => {
  const bytes = randomBytes(6 * MIB);
  const putting = breakingDial(2 * MIB + MIB / 2, 2);
  const { stored } = await deposit(bytes, { client: newClient(putting.dial) });
  assert.equal(putting.broken(), 2);
  const getting = breakingDial(2 * MIB, 2);
  assert.ok((await collect(stored, { client: newClient(getting.dial) })).equals(bytes));
  assert.equal(getting.broken(), 2);
  await assert.rejects(collect(stored), hasCode("bad-token"));
});

test("dropbox: a download is continued by its ticket in another process, and by nothing else", async () => {
  const bytes = randomBytes(2 * MIB);
  const { stored } = await deposit(bytes);
  let ticket: string | undefined;
  {
    await using download = new Download(newClient(), stored.invocationToken, {
      signal: signal(),
      onBegun: (begun) => {
        ticket = begun.ticket;
      },
    });
    for await (const _ of download.content()) break;
  }
  assert.ok(ticket);
  await assert.rejects(collect(stored), /as many downloads as allowed/);
  await assert.rejects(collect(stored, { ticket: newWriter() }), hasCode("bad-answer"));
  const rest = await collect(stored, { ticket, from: MIB });
  assert.ok(rest.equals(bytes.subarray(MIB)));
  await assert.rejects(collect(stored, { ticket }), hasCode("bad-token"));
});

test("dropbox: bytes are counted; the owner's downloads are not", async () => {
  const bytes = randomBytes(100_000);
  const { stored, writer } = await deposit(bytes, { gets: 100, bytes: 250_000 });
  assert.ok(
    (await collect(stored, { writer, from: 99_000, bytes: 500 })).equals(bytes.subarray(99_000, 99_500)),
  );
  assert.ok((await collect(stored)).equals(bytes));
  const status = await dropboxStatus(newClient(), stored.invocationToken, { writer, signal: signal() });
  assert.deepEqual(status, { stored: 100_000, isSealed: true, getsLeft: 99, bytesLeft: 150_000 });
  await assert.rejects(
    dropboxStatus(newClient(), stored.invocationToken, { writer: newWriter(), signal: signal() }),
    /content is its owner's/,
  );
  assert.ok((await collect(stored)).equals(bytes));
  // 50,000 bytes are left, less than one download: the Dropbox has removed itself.
  await assert.rejects(collect(stored), hasCode("bad-token"));
});

test("dropbox: downloads started at the same moment do not exceed what is allowed", async () => {
  const bytes = randomBytes(200_000);
  const { stored } = await deposit(bytes, { gets: 2, bytes: 10_000_000 });
  const results = await Promise.allSettled(
    Array.from({ length: 5 }, () => collect(stored, { client: newClient(), attemptsMax: 1 })),
  );
  const whole = results.filter((result) => result.status === "fulfilled" && result.value.equals(bytes));
  assert.equal(whole.length, 2, JSON.stringify(results.map(({ status }) => status)));
});

test("dropbox: content beyond the granted storage is refused, and control: what fits is kept", async () => {
  const bytes = randomBytes(2 * MIB);
  const request = putRequest(newWriter(), bytes.length, { gets: 1 });
  const put = (grantedSize: number) =>
    putContent(
      newClient(),
      { package: dropboxPackage(pack, request, { size: grantedSize }) },
      request,
      contentOf(bytes),
      { signal: signal() },
    );
  await assert.rejects(put(MIB / 2), hasCode("too-large"));
  assert.equal(await put(bytes.length), bytes.length);
});

test("dropbox: malformed requests are refused without a trace of the function's inside", async () => {
  const { stored } = await deposit(Buffer.from("x"), { gets: 50 });
  const requests: readonly (readonly [string, unknown])[] = [
    ["get", { from: -1 }],
    ["get", { from: 2 }],
    ["get", { ticket: "short" }],
    ["get", []],
    ["get", null],
    ["put", {}],
    ["put", { writer: newWriter(), gets: 1001, bytes: 1, partBytes: MIB }],
    ["steal", {}],
  ];
  for (const [operation, request] of requests) {
    const session = await box.client.run(
      { invocation: { args: [operation, request] } as never },
      stored.invocationToken,
    );
    await session.next("attached");
    assert.equal(await session.text(), '{"refused":"bad-request"}', operation);
    assert.deepEqual((await session.next("ended")).outcome, { kind: "returned" });
  }
});

test("dropbox: one that expires is gone, and an idle one costs no process", async () => {
  const request = putRequest(newWriter(), 1, { gets: 1 });
  let stored: StoredFunction | undefined;
  await putContent(
    newClient(),
    { package: dropboxPackage(pack, request, { size: 1, lifetimeMs: 3000 }) },
    request,
    contentOf(Buffer.from("x")),
    {
      signal: signal(),
      onStored: (given) => {
        stored = given;
      },
    },
  );
  assert.ok(stored);
  const listing = await newClient().list(stored.shutdownToken);
  assert.deepEqual(
    listing.instances.filter(({ outcome }) => !outcome),
    [],
  );
  const until = Date.now() + 20_000;
  while (Date.now() < until && Reflect.get(await answerTo(stored.invocationToken), "status") !== 403) {
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  await assert.rejects(collect(stored), hasCode("bad-token"));
});

test("dropbox: the function's package is small", async () => {
  assert.ok((await loadPackage("dropbox")).bytes < 20_000);
  assert.doesNotMatch(
    await readFile(new URL("../../functions/dropbox/manifest.json", import.meta.url), "utf8"),
    /net/,
  );
});

function hasCode(code: string) {
  return (error: unknown) => Reflect.get(error as object, "code") === code;
}

/** The command line with a state folder of its own, without Tor. */
class User implements AsyncDisposable {
  readonly dir: string;

  private constructor(dir: string) {
    this.dir = dir;
  }

  static async create(): Promise<User> {
    return new User(await mkdtemp(join(tmpdir(), "bento-dropbox-user-")));
  }

  start(...args: readonly string[]) {
    return startBento(this.dir, args, { XDG_STATE_HOME: join(this.dir, "state") });
  }

  async bento(args: readonly string[], input = ""): Promise<Finished> {
    const child = this.start(...args);
    endInput(child, input);
    return await finished(child, "latin1");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.dir, { recursive: true });
  }
}

test("bento put, get: a file, its link from standard input, once; the box never sees it in the clear", async () => {
  await using user = await User.create();
  const at = ["--box", `127.0.0.1:${box.client.port}`, "--direct"];
  const secret = Buffer.concat([Buffer.from("SECRET TEXT "), randomBytes(300_000)]);
  await writeFile(join(user.dir, "a"), secret);
  const put = await user.bento(["put", "a", "--as", "mine", ...at]);
  assert.equal(put.code, 0, put.err);
  assert.match(put.out, /^bento:dropbox\?box=127\.0\.0\.1:\d+&token=[0-9a-f-]{36}&key=[\w-]{43}\n$/);
  assert.match(put.err, /to be fetched once until/);
  const owner = JSON.parse(await readFile(join(user.dir, "state/bento/context.json"), "utf8")) as {
    functions: { mine: { invocationToken: string } };
    dropboxes: { mine: { writer: string } };
  };
  const kept = await collect({ invocationToken: owner.functions.mine.invocationToken } as StoredFunction, {
    writer: owner.dropboxes.mine.writer,
  });
  assert.ok(kept.length >= secret.length && !kept.includes("SECRET TEXT"));
  const wrong = await user.bento(
    ["get", "-", "--direct", "-o", "b"],
    put.out.replace(/key=..../, "key=AAAA"),
  );
  assert.equal(wrong.code, 8, wrong.err);
  // The ticket of that download was kept: the right key goes on with it.
  const got = await user.bento(["get", "-", "--direct", "-o", "b"], put.out);
  assert.equal(got.code, 0, got.err);
  assert.ok((await readFile(join(user.dir, "b"))).equals(secret));
  assert.equal((await user.bento(["get", "-", "--direct"], put.out)).code, 7, "it is used up");
});

test("bento put, get: interrupted by their users, both go on where they were", async () => {
  await using user = await User.create();
  const at = ["--box", `127.0.0.1:${box.client.port}`, "--direct"];
  const content = randomBytes(24 * MIB);
  await writeFile(join(user.dir, "a"), content);
  const putting = user.start("put", "a", "--as", "big", "--json", ...at);
  for await (const line of createInterface({ input: putting.stdout })) {
    if ((JSON.parse(line) as { bytes: number }).bytes > 0) break;
  }
  putting.kill("SIGKILL");
  await once(putting, "close");
  assert.equal((await user.bento(["get", "big"])).code, 9, "not all of it is there");
  await writeFile(join(user.dir, "other"), content.subarray(1));
  assert.equal((await user.bento(["put", "other", "--continue", "big"])).code, 2, "another file");
  const rest = await user.bento(["put", "--continue", "big", "--json"]);
  assert.equal(rest.code, 0, rest.err);
  const first = JSON.parse(rest.out.split("\n")[0] ?? "") as { bytes: number };
  assert.ok(first.bytes >= MIB, `went on at ${first.bytes}`);

  const getting = user.start("get", "big", "-o", "b");
  const part = join(user.dir, "b.part");
  while (getting.exitCode === null && ((await stat(part).catch(() => undefined))?.size ?? 0) < MIB)
    await new Promise((resolve) => setTimeout(resolve, 5));
  getting.kill("SIGKILL");
  await once(getting, "close");
  assert.ok((await stat(part)).size < content.length, "it was interrupted");
  const got = await user.bento(["get", "big", "-o", "b"]);
  assert.equal(got.code, 0, got.err);
  assert.ok((await readFile(join(user.dir, "b"))).equals(content));
  assert.deepEqual((await readdir(user.dir)).sort(), ["a", "b", "other", "state"]);
});
