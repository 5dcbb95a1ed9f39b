import assert from "node:assert/strict";
import { once } from "node:events";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { after, before, test } from "node:test";
import { utf8 } from "../../base/bytes.ts";
import type { Page } from "../digest/receive-page.ts";
import { FORM_BYTES_MAX, type LinkTo, LocalPage } from "./local-page-server.ts";
import type { VisitRequest } from "./visits.ts";

/** What the visitor was asked for, and how the next visit goes on. */
const asked: VisitRequest[] = [];
let linkTo: LinkTo = () => "";
let hold: Promise<void> | undefined;

function pageOf(url: string): Page {
  const html = utf8(`<a href="${linkTo(`${url}next`, "GET", url)}">next</a>`);
  const body = utf8("<p>as it came</p>");
  return {
    url,
    status: 200,
    html,
    resources: [{ kind: "page", url, finalUrl: url, status: 200, type: "text/html", body }],
    failures: [],
    verified: true,
    contentBytes: 100,
    paddingBytes: 900,
  };
}

let page: LocalPage;
before(async () => {
  page = await LocalPage.start({
    port: 0,
    box: "box0",
    software: "bento test",
    visitor: (to) => {
      linkTo = to;
      return {
        async visit(request, { onProgress, onShowable, signal }) {
          asked.push(request);
          const result = pageOf(request.url);
          onShowable(result.html, "complete");
          await hold;
          onProgress({
            contentBytes: 100,
            paddingBytes: 900,
            paddingTotal: 900,
            isComplete: true,
            resources: 1,
            resourcesExpected: 1,
          });
          signal.throwIfAborted();
          return result;
        },
      };
    },
  });
});
after(async () => {
  await page[Symbol.asyncDispose]();
});

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly text: string;
}

async function ask(
  path: string,
  options: {
    method?: string;
    host?: string;
    cookie?: string;
    body?: string;
    headers?: Record<string, string>;
  } = {},
): Promise<Answer> {
  const { method = "GET", host = `127.0.0.1:${page.port}`, cookie, body, headers } = options;
  const sent = httpRequest({
    host: "127.0.0.1",
    port: page.port,
    path,
    method,
    headers: { host, ...(cookie === undefined ? {} : { cookie }), ...headers },
  });
  sent.end(body);
  const [response] = (await once(sent, "response")) as [IncomingMessage];
  const parts: Buffer[] = [];
  for await (const part of response as AsyncIterable<Buffer>) parts.push(part);
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    text: Buffer.concat(parts).toString(),
  };
}

async function enter(): Promise<string> {
  const { pathname, search } = new URL(page.address());
  const welcome = await ask(pathname + search);
  assert.equal(welcome.status, 303);
  return String(welcome.headers["set-cookie"]).split(";")[0] ?? "";
}

const OWN = () => ({ origin: page.origin, "content-type": "application/x-www-form-urlencoded" });

async function visit(cookie: string, url: string): Promise<string> {
  const body = `url=${encodeURIComponent(url)}`;
  const started = await ask("/visits", { method: "POST", cookie, body, headers: OWN() });
  assert.equal(started.status, 303, started.text);
  return String(started.headers.location);
}

const frameOf = (html: string) => new URL(/data-source="([^"]+)"/.exec(html)?.[1] ?? "");

test("LocalPage: what was typed is fetched, and shown in a frame on the site's own origin", async () => {
  const cookie = await enter();
  const path = await visit(cookie, "example.test/a?b=1&c=2");
  assert.equal(asked.at(-1)?.url, "https://example.test/a?b=1&c=2");
  const shell = await ask(path, { cookie });
  assert.match(shell.text, /value="https:\/\/example.test\/a\?b=1&amp;c=2"/);
  const frame = frameOf(shell.text);
  assert.match(frame.hostname, /^s[0-9a-f]{24}\.localhost$/);
  const shown = await ask(frame.pathname, { host: frame.host });
  assert.equal(shown.status, 200);
  assert.match(
    String(shown.headers["content-security-policy"]),
    /^sandbox allow-forms [a-z-]+; default-src 'none'/,
  );
  const other = frameOf((await ask(await visit(cookie, "http://other.test/"), { cookie })).text);
  assert.notEqual(other.hostname, frame.hostname);
  assert.equal(
    (await ask(frame.pathname, { host: other.host })).status,
    421,
    "a page on another site's origin",
  );
});

test("LocalPage: nobody gets in without the cookie, and no other name is answered", async () => {
  const cookie = await enter();
  assert.equal((await ask("/", { cookie })).status, 200);
  assert.equal((await ask("/")).status, 403);
  assert.equal((await ask("/?key=wrong")).status, 403);
  assert.equal((await ask("/", { cookie: "bento=wrong" })).status, 403);
  for (const host of ["evil.test", `localhost:${page.port}`, `sabc.localhost:${page.port}`, "127.0.0.1:1"]) {
    assert.equal((await ask("/", { cookie, host })).status, 421, host);
  }
});

test("LocalPage: a form of another page starts nothing, even with the cookie", async () => {
  const cookie = await enter();
  const before = asked.length;
  const body = "url=http://evil.test/";
  for (const headers of [{}, { origin: "http://evil.test" }, { "sec-fetch-site": "cross-site" }] as const) {
    assert.equal((await ask("/visits", { method: "POST", cookie, body, headers })).status, 403);
  }
  assert.equal((await ask("/visits?url=http://evil.test/", { cookie })).status, 404);
  assert.equal(asked.length, before);
  await visit(cookie, "http://evil.test/");
  assert.equal(asked.length, before + 1, "the control: the own form does");
});

test("LocalPage: links that it wrote are followed with their referrer; others are not", async () => {
  const before = asked.length;
  const link = new URL(linkTo("http://a.test/x", "GET", "http://a.test/"));
  const followed = await ask(link.pathname);
  assert.equal(followed.status, 303);
  assert.deepEqual(asked.at(-1), { url: "http://a.test/x", method: "GET", referrer: "http://a.test/" });
  const [text = "", tag = ""] = link.pathname.slice("/go/".length).split(".");
  const forged = Buffer.from('["http://evil.test/","GET","http://a.test/"]').toString("base64url");
  for (const wrong of [`${forged}.${tag}`, text, `${text}.`, `${text}.${tag}.x`, `${text}.${tag}x`, ""]) {
    assert.equal((await ask(`/go/${wrong}`)).status, 403, wrong);
  }
  assert.equal(asked.length, before + 1);
});

test("LocalPage: forms go with their method, a GET form as a query", async () => {
  const get = new URL(linkTo("http://a.test/find?old=1", "GET", "http://a.test/"));
  await ask(`${get.pathname}?q=caf%C3%A9`);
  assert.equal(asked.at(-1)?.url, "http://a.test/find?q=caf%C3%A9");
  const post = new URL(linkTo("http://a.test/send", "POST", "http://a.test/"));
  assert.equal((await ask(post.pathname)).status, 405);
  await ask(post.pathname, { method: "POST", body: "name=value", headers: OWN() });
  const { method, body } = asked.at(-1) ?? {};
  assert.equal(method, "POST");
  assert.equal(body?.type, "application/x-www-form-urlencoded");
  assert.equal(Buffer.from(body?.bytes ?? []).toString(), "name=value");
  const long = await ask(post.pathname, {
    method: "POST",
    body: "x".repeat(FORM_BYTES_MAX + 1),
    headers: OWN(),
  }).catch(() => ({ status: 500 }));
  assert.equal(long.status, 500);
});

test("LocalPage: progress ends with the visit, and then the page can be saved both ways", async () => {
  const cookie = await enter();
  const held = Promise.withResolvers<void>();
  hold = held.promise;
  const path = await visit(cookie, "http://slow.test/");
  assert.equal((await ask(`${path}/page.html`, { cookie })).status, 404, "not complete");
  const news = ask(`${path}/events`, { cookie });
  held.resolve();
  hold = undefined;
  const lines = (await news).text
    .trim()
    .split("\n\n")
    .map((line) => JSON.parse(line.slice("data: ".length)));
  assert.equal(lines.at(-1).state, "done");
  assert.match(lines.at(-1).text, /100 B and 900 B of padding/);
  const html = await ask(`${path}/page.html`, { cookie });
  assert.equal(html.headers["content-disposition"], 'attachment; filename="slow.test.html"');
  const warc = await ask(`${path}/page.warc.gz`, { cookie });
  assert.equal(warc.headers["content-type"], "application/warc");
  assert.ok(warc.text.length > 200);
});

test("LocalPage: a stopped visit says so", async () => {
  const cookie = await enter();
  const held = Promise.withResolvers<void>();
  hold = held.promise;
  const path = await visit(cookie, "http://slow.test/");
  await ask(`${path}/stop`, { method: "POST", cookie, headers: OWN() });
  held.resolve();
  hold = undefined;
  const { text } = await ask(`${path}/events`, { cookie });
  assert.match(text, /"state":"failed","content":null.*"text":"Stopped."/);
});

test("LocalPage: addresses that are no web pages are refused", async () => {
  const cookie = await enter();
  for (const wrong of ["file:///etc/passwd", "javascript://x", "chrome://version", "", "http://"]) {
    const body = `url=${encodeURIComponent(wrong)}`;
    assert.equal((await ask("/visits", { method: "POST", cookie, body, headers: OWN() })).status, 400, wrong);
  }
});
