// The Browser function as it is shipped: bundled, in a real Deno guest, its fetch through the guest channel.

import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { build } from "esbuild";
import { renderInThread } from "../../src/client/digest/page-thread.ts";
import { PageReceiver, receivePage } from "../../src/client/digest/receive-page.ts";
import {
  BROWSE_DEFAULTS,
  type BrowseRequest,
  CELL_BYTES,
  encodeRequest,
  encodeSettings,
} from "../../src/wire/browse.ts";
import { SITES } from "../sites/sites.ts";
import { WebServer } from "../sites/web-server.ts";
import { GuestBench } from "./guest-harness.ts";

/** Parsing HTML costs its tables; what is above this has brought in something by mistake. */
const BUNDLE_BYTES_MAX = 256 * 1024;

async function bundle(): Promise<string> {
  const result = await build({
    entryPoints: [new URL("../../functions/browser/function.ts", import.meta.url).pathname],
    bundle: true,
    write: false,
    format: "esm",
    platform: "neutral",
    mainFields: ["module", "main"],
    external: ["bento/function", "node:*"],
    minify: true,
    legalComments: "none",
    logLevel: "silent",
  });
  return result.outputFiles[0]?.text ?? "";
}

test("browser: fetches a page in a Deno guest and pads it exactly", { timeout: 60_000 }, async (context) => {
  const source = await bundle();
  context.diagnostic(`bundle: ${source.length} bytes`);
  assert.ok(source.length > 0 && source.length <= BUNDLE_BYTES_MAX);
  await using site = await WebServer.start(SITES["magazine"] ?? {});
  const target = new URL(site.origin);
  await using bench = await GuestBench.open();
  const asked = new Set<string>();
  await using guest = await bench.run("deno", source, {
    invocation: { args: ["http://magazine.test/", { pad: 100_000 }] },
    grant: { net: { allow: ["*:80"], connections: 32, bytes: 1e9 }, syscalls: ["loopback"] } as never,
    services: {
      net: {
        async connect({ host, port }) {
          asked.add(`${host}:${port}`);
          return connect(Number(target.port), target.hostname);
        },
        [Symbol.asyncDispose]: () => Promise.resolve(),
      },
    },
  });
  let total = 0;
  const output = async function* () {
    for (let message = await guest.next(); message; message = await guest.next()) {
      total += message.length;
      yield message;
    }
  };
  const page = await receivePage(output());
  assert.deepEqual(await guest.ended, { kind: "returned" });
  assert.deepEqual([...asked], ["magazine.test:80"]);
  assert.ok(page.verified);
  assert.deepEqual(page.failures, []);
  assert.equal(page.resources.length, 12);
  assert.equal(total % 100_000, 0);
  assert.equal(page.contentBytes + page.paddingBytes, total);
});

test("browser: a session in a Deno guest keeps its jar, posts forms, and paces its cells", {
  timeout: 90_000,
}, async (context) => {
  const source = await bundle();
  const seen: string[] = [];
  const html = (body: string) => ({ type: "text/html", body: `<!DOCTYPE html>${body}` });
  await using site = await WebServer.start({
    "/": (_request, response) => {
      response.setHeader("set-cookie", "seen=1; Path=/").setHeader("content-type", "text/html");
      response.end("<form action=/login method=post><input name=user></form>");
    },
    "/login": (request, response) => {
      request.setEncoding("utf8").on("data", (body: string) => {
        seen.push(
          `${request.method} ${body} ${request.headers.cookie} ${request.headers.origin} ${request.headers.referer} ${request.headers["content-type"]}`,
        );
        response.writeHead(302, { location: "/in", "set-cookie": "sid=7; Path=/; HttpOnly" }).end();
      });
    },
    "/in": (request, response) => {
      seen.push(`${request.method} ${request.headers.cookie} ${request.headers["content-type"]}`);
      response.setHeader("content-type", "text/html").end("<p>welcome");
    },
    "/long": html(`<p>${"<b>long</b> text ".repeat(20_000)}`),
  });
  const target = new URL(site.origin);
  const sizes = [16, 48, 240].map((cells) => cells * CELL_BYTES);
  const settings = { ...BROWSE_DEFAULTS, shape: { kind: "bucket", bytes: sizes, rate: 262_144 } } as const;
  await using bench = await GuestBench.open();
  await using guest = await bench.run("deno", source, {
    invocation: { args: [encodeSettings(settings)] } as never,
    grant: { net: { allow: ["*:80"], connections: 32, bytes: 1e9 }, syscalls: ["loopback"] } as never,
    services: {
      net: {
        connect: async () => connect(Number(target.port), target.hostname),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      },
    },
  });
  let id = 0;
  const visit = async (request: Partial<BrowseRequest>) => {
    const receiver = new PageReceiver({ render: renderInThread() });
    const whole = {
      url: "http://a.test/",
      method: "GET" as const,
      body: undefined,
      referrer: undefined,
      stop: false,
    };
    await guest.send(encodeRequest({ ...whole, ...request, id: ++id }));
    const timesMs: number[] = [];
    while (!receiver.isEnded) {
      const cell = await guest.next();
      assert.equal(cell?.length, CELL_BYTES);
      timesMs.push(performance.now());
      await receiver.push(cell);
    }
    const gaps = timesMs.slice(1).map((time, at) => Math.round(time - (timesMs[at] ?? 0)));
    context.diagnostic(
      `${request.url}: ${timesMs.length} cells, ${Math.round((timesMs.at(-1) ?? 0) - (timesMs[0] ?? 0))} ms, longest gap ${Math.max(...gaps)} ms`,
    );
    assert.ok(sizes.includes(timesMs.length * CELL_BYTES));
    const page = await receiver.finish();
    assert.ok(page.verified);
    return page;
  };
  await visit({ url: "http://a.test/" });
  const body = { type: "application/x-www-form-urlencoded", bytes: new TextEncoder().encode("user=me") };
  const posted = await visit({
    url: "http://a.test/login",
    method: "POST",
    body,
    referrer: "http://a.test/?private",
  });
  assert.equal(posted.url, "http://a.test/in");
  assert.match(new TextDecoder().decode(posted.html), /welcome/);
  assert.deepEqual(seen, [
    "POST user=me seen=1 http://a.test http://a.test/?private application/x-www-form-urlencoded",
    "GET seen=1; sid=7 undefined",
  ]);
  const long = await visit({ url: "http://a.test/long" });
  assert.equal(long.resources[0]?.body.length, 340_018);
  const missing = await visit({ url: "http://a.test/nowhere" });
  assert.equal(missing.status, 404);
});
