import assert from "node:assert/strict";
import { request } from "node:http";
import { after, before, test } from "node:test";
import { TestClock } from "../../base/clock.ts";
import { niceTop } from "../../web/loadbalancer-page.ts";
import { parseAnswer } from "./answers.ts";
import { History } from "./history.ts";
import { LivePage } from "./live-page.ts";

const clock = new TestClock();
const history = new History(clock);
let page: LivePage;
before(async () => {
  page = await LivePage.start({ port: 0, name: "we<b>", history });
});
after(() => page[Symbol.asyncDispose]());

const EVIL = '"><script>alert(1)</script>';

function addReport(box = "self"): void {
  const client = (id: number) => ({ id, bytesPerSecond: 2 ** 20 * id, bytesTotal: 1, ageMs: 1 });
  const replica = {
    id: 1,
    box,
    state: "serving",
    connections: 2,
    bytesPerSecond: 3 * 2 ** 20,
    bytesTotal: 100,
    cpuPercent: 1,
    given: 1,
    met: 1,
    failed: 0,
    startedAtMs: 1,
    clients: [client(1), client(2)],
  };
  const answer = parseAnswer(
    Buffer.from(
      JSON.stringify({
        report: {
          nowMs: 1,
          address: `${"a".repeat(56)}.onion`,
          role: "primary",
          introductionPoints: [],
          introductions: { total: 1, perSecond: 0.1, waiting: 0, dropped: 3, refused: 0 },
          scale: { replicasMin: 1, replicasMax: 4, high: {}, low: {}, choice: "random" },
          replicas: [replica],
          standby: null,
        },
      }),
    ),
  );
  assert.ok("report" in answer);
  history.addReport(answer.report);
}

interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
}

function get(path: string, headers: Readonly<Record<string, string>> = {}, method = "GET"): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const { port } = new URL(page.address);
  request({ host: "127.0.0.1", port, path, headers, method }, (response) => {
    let text = "";
    response.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }));
  })
    .on("error", reject)
    .end();
  return promise;
}

async function cookie(): Promise<string> {
  const { pathname, search } = new URL(page.address);
  const { status, headers } = await get(pathname + search);
  assert.equal(status, 303);
  const [set = ""] = headers["set-cookie"] ?? [];
  assert.match(set, /HttpOnly; SameSite=Strict/);
  return set.split(";")[0] ?? "";
}

test("only whoever has the printed address may look, under this name, and only look", async () => {
  const own = await cookie();
  assert.equal((await get("/", { cookie: own })).status, 200);
  assert.equal((await get("/")).status, 403);
  assert.equal((await get("/events")).status, 403);
  assert.equal((await get("/?key=wrong")).status, 403);
  assert.equal((await get("/", { cookie: own.replace(/=.*/, "=wrong") })).status, 403);
  for (const host of ["evil.example", "localhost", "127.0.0.1", "127.0.0.1:1"])
    assert.equal((await get("/", { cookie: own, host })).status, 421, host);
  for (const method of ["POST", "PUT", "DELETE"])
    assert.equal((await get("/", { cookie: own }, method)).status, 405, method);
  assert.equal((await get("/favicon.ico", { cookie: own })).status, 404);
  assert.equal((await get("//", { cookie: own })).status, 404);
});

test("nothing but its own script runs, nothing comes from elsewhere, and it works without scripts", async () => {
  const own = await cookie();
  assert.match((await get("/", { cookie: own })).text, /Waiting for the first report/);
  addReport();
  const { text, headers } = await get("/", { cookie: own });
  const policy = String(headers["content-security-policy"]);
  const [, nonce = ""] = /script-src 'nonce-([^']+)'/.exec(policy) ?? [];
  assert.match(policy, /^default-src 'none';/);
  assert.doesNotMatch(policy, /unsafe|\*|http/);
  assert.equal(text.split(`<script nonce="${nonce}">`).length, 2);
  assert.equal(text.split("<script").length, 2);
  assert.doesNotMatch(text, /(?:src|href)=|style="/);
  assert.match(text, /<noscript><meta http-equiv="refresh"/);
  assert.match(text, /client 2 of replica 1: 2 MiB\/s/);
  assert.match(text, /3 dropped/);
  assert.notEqual((await get("/", { cookie: own })).headers["content-security-policy"], policy);
});

test("what boxes write is text", async () => {
  const own = await cookie();
  addReport(EVIL);
  history.addEvent({ kind: "replica-lost", id: 1, box: EVIL, reason: EVIL, atMs: 1 });
  page.tell(EVIL);
  const { text } = await get("/", { cookie: own });
  assert.doesNotMatch(text, /<script>alert|we<b>/);
  assert.match(text, /&lt;script&gt;alert/);
  page.tell("");
});

test("whoever stays gets what changes", async () => {
  const own = await cookie();
  const { port } = new URL(page.address);
  const seen = Promise.withResolvers<string>();
  const asked = request(
    { host: "127.0.0.1", port, path: "/events", headers: { cookie: own } },
    (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => {
        text += chunk.toString();
        if (text.includes("trying again")) seen.resolve(text);
        else page.tell("lost; trying again");
      });
      response.on("error", () => undefined);
    },
  );
  asked.on("error", () => undefined);
  asked.end();
  const text = await seen.promise;
  asked.destroy();
  for (const event of text.trim().split("\n\n")) {
    const html: unknown = JSON.parse(event.replace(/^data: /, ""));
    assert.equal(typeof html, "string");
  }
});

test("niceTop: ticks at round numbers", () => {
  const KIB = 1024;
  assert.equal(niceTop(0, true), KIB);
  assert.equal(niceTop(0, false), 1);
  assert.equal(niceTop(0.8, false), 1);
  assert.equal(niceTop(4.1, false), 8);
  assert.equal(niceTop(11.5 * KIB * KIB, true), 12 * KIB * KIB);
  assert.equal(niceTop(300 * KIB, true), 320 * KIB);
  assert.equal(niceTop(1000 * KIB, true), KIB * KIB);
  assert.equal(niceTop(1e15, true) >= 1e15, true);
});
