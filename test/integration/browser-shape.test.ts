// Shaped answers of the browser function: whatever a page and its servers do, size and duration are one of K pairs. With
// the plain mode as the control: there they tell the same pages apart.

import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { answer } from "../../functions/browser/answer.ts";
import { serve } from "../../functions/browser/browse.ts";
import { receivePage } from "../../src/client/digest/receive-page.ts";
import {
  type BrowseRequest,
  type BrowseSettings,
  CELL_BYTES,
  decodeSettings,
  encodeRequest,
  type Shape,
} from "../../src/wire/browse.ts";
import { noise, stripes } from "../sites/png.ts";
import { type Route, type Routes, WebServer } from "../sites/web-server.ts";
import { LocalAnswers } from "../support/local-answers.ts";

const PICTURE: Route = { type: "image/png", body: stripes(8, 8, 1, 2) };
const html = (body: string): Route => ({ type: "text/html; charset=utf-8", body: `<!DOCTYPE html>${body}` });

/** 0.5, 1.5 and 4 s. */
const SIZES = [32, 96, 256].map((cells) => cells * CELL_BYTES);
const RATE = 262_144;
const BUCKETS: Shape = { kind: "bucket", bytes: SIZES, rate: RATE };

interface Sent {
  readonly messages: readonly Uint8Array[];
  readonly tookMs: number;
}

function settingsOf(shape: Shape, more: Partial<BrowseSettings> = {}): BrowseSettings {
  return decodeSettings({ ...more, shape });
}

function request(url: string, more: Partial<BrowseRequest> = {}): Uint8Array {
  return encodeRequest({
    id: 1,
    url,
    method: "GET",
    body: undefined,
    referrer: undefined,
    stop: false,
    ...more,
  });
}

/** One session with these requests; what was sent, until the end. */
async function session(
  messages: readonly Uint8Array[],
  settings: BrowseSettings,
  send?: (bytes: Uint8Array) => Promise<void>,
): Promise<Sent> {
  const sent: Uint8Array[] = [];
  const startMs = performance.now();
  let lastMs = startMs;
  const box = new LocalAnswers(async (bytes) => {
    sent.push(Uint8Array.from(bytes));
    lastMs = performance.now();
    await send?.(bytes);
  });
  await serve(
    (async function* () {
      for (const message of messages) {
        box.ask();
        yield message;
      }
    })(),
    settings,
    { fetch, signal: new AbortController().signal, send: box.send, shape: box.shape },
  );
  return { messages: sent, tookMs: lastMs - startMs };
}

async function pageOf({ messages }: Sent): ReturnType<typeof receivePage> {
  return receivePage(
    (async function* () {
      yield* messages;
    })(),
  );
}

const bytesOf = ({ messages }: Sent) => messages.reduce((sum, one) => sum + one.length, 0);

const dripping: Route = (_request, response) => {
  response.writeHead(200, { "content-type": "text/html" });
  const timer = setInterval(() => response.write("<p>drip"), 20);
  response.once("close", () => {
    clearInterval(timer);
  });
};
const slow =
  (delayMs: number, route: Exclude<Route, (...args: never[]) => void>): Route =>
  (_request, response) => {
    setTimeout(() => {
      response.writeHead(200, { "content-type": route.type }).end(route.body);
    }, delayMs);
  };
const big = noise(300, 200, 3);

/** Text that does not compress, 1.5 MB. */
const NOISE = Buffer.from(noise(600, 600, 5))
  .toString("base64")
  .replaceAll(/.{100}/g, "<p>$&");

const SITE: Routes = {
  "/small": html("<p>small"),
  "/middle": html(`<img src=big.png>`),
  "/large": html(Array.from({ length: 24 }, (_, at) => `<img src="big.png?${at}">`).join("")),
  "/text": html(`<p>${"long text ".repeat(200_000)}`),
  "/noise": { type: "text/html", body: NOISE },
  "/slow": slow(700, { type: "text/html", body: "<p>slow" }),
  "/slower": slow(1000, { type: "text/html", body: "<p>slower<img src=big.png>" }),
  "/slow-part": html("<p>part<img src=never.png><img src=a.png>"),
  "/never.png": () => undefined,
  "/silent": () => undefined,
  "/dripping": dripping,
  "/reset": (request) => {
    request.socket.destroy();
  },
  "/loop": (_request, response) => {
    response.writeHead(302, { location: "/loop" }).end();
  },
  "/a.png": PICTURE,
  "/big.png": { type: "image/png", body: big },
  "/big.png?": { type: "image/png", body: big },
};
const PATHS = [...Object.keys(SITE).filter((path) => !path.includes(".png")), "/404"];

suite("browser: shape", { concurrency: 4, timeout: 120_000 }, () => {
  test("every page, error and malformed request ends after one of K sizes, in cells", async () => {
    await using site = await WebServer.start(SITE);
    const asked = [
      ...PATHS.map((path) => request(site.origin + path)),
      request("http://127.3.0.9:1/"),
      request("http://no-such-host.invalid/"),
      new Uint8Array(2048),
      new Uint8Array(7),
    ];
    const seen = new Set<number>();
    const answers = await Promise.all(asked.map((message) => session([message], settingsOf(BUCKETS))));
    for (const sent of answers) {
      for (const cell of sent.messages) assert.equal(cell.length, CELL_BYTES);
      seen.add(bytesOf(sent));
      const page = await pageOf(sent);
      assert.ok(page.verified, `not whole: ${page.url} ${JSON.stringify(page.failures)}`);
      assert.ok(page.url !== undefined || page.failures.length > 0);
    }
    assert.deepEqual(
      [...seen].sort((a, b) => a - b),
      SIZES,
    );
    // The control: without a shape the same pages have a size each.
    const plain = new Set<number>();
    for (const path of ["/small", "/middle", "/large", "/slow", "/404"]) {
      plain.add(bytesOf(await session([request(site.origin + path)], settingsOf({ kind: "none", pad: 0 }))));
    }
    assert.equal(plain.size, 5);
  });

  test("cells begin before there is content, and never stop", async () => {
    await using site = await WebServer.start(SITE);
    const timesMs: number[] = [];
    const startMs = performance.now();
    const sent = await session([request(`${site.origin}/slower`)], settingsOf(BUCKETS), async () => {
      timesMs.push(performance.now() - startMs);
    });
    assert.match(new TextDecoder().decode((await pageOf(sent)).html), /slower<img src="data:image/);
    // The server answers after a second, when 64 cells are due.
    assert.ok((timesMs[0] ?? 1e9) < 500, `first cell after ${timesMs[0]} ms`);
    assert.ok(timesMs.filter((time) => time < 1000).length > 20);
    // Never ahead of the schedule: the last cell leaves when its size is due.
    for (const [at, time] of timesMs.entries()) assert.ok(time >= (1000 * CELL_BYTES * at) / RATE - 2);
  });

  test("what has no room in the last size is named, the rest is there", async () => {
    await using site = await WebServer.start(SITE);
    const page = await pageOf(await session([request(`${site.origin}/large`)], settingsOf(BUCKETS)));
    assert.ok(page.verified);
    assert.ok(page.resources.length >= 2 && page.resources.length < 25, `${page.resources.length} resources`);
    assert.equal(page.resources.length + page.failures.length, 25);
    assert.deepEqual(new Set(page.failures.map((one) => one.reason)), new Set(["too-large"]));
  });

  test("a document is cut to what fits; text counts as it compresses", async () => {
    await using site = await WebServer.start(SITE);
    const text = await pageOf(await session([request(`${site.origin}/text`)], settingsOf(BUCKETS)));
    assert.equal(text.resources[0]?.body.length, 2_000_018);
    const cut = await pageOf(await session([request(`${site.origin}/noise`)], settingsOf(BUCKETS)));
    const body = cut.resources[0]?.body.length ?? 0;
    assert.ok(body > 64_000 && body < 2_500_000, `${body} bytes`);
    assert.deepEqual(new Set(cut.failures.map((one) => one.reason)), new Set(["truncated"]));
    assert.ok(cut.verified);
  });

  test("an engine that throws, lies or never returns is an answer of the same sizes", async () => {
    const never = new Promise<void>(() => undefined);
    const settings = settingsOf({ kind: "bucket", bytes: SIZES.slice(0, 2), rate: RATE });
    const loads: Record<string, Parameters<typeof answer>[0]["load"]> = {
      throws: async () => {
        throw new Error("broken");
      },
      late: async ({ signal }) => {
        await new Promise((resolve) => {
          signal.addEventListener("abort", resolve, { once: true });
        });
      },
      floods: async ({ sink, signal }) => {
        for (let at = 0; !signal.aborted; at++) {
          await sink.record({ kind: "failure", url: `http://a.test/${at}`, reason: "other", detail: "x" });
        }
      },
      stuck: () => never,
    };
    for (const [name, load] of Object.entries(loads)) {
      const messages: Uint8Array[] = [];
      const box = new LocalAnswers(async (bytes) => {
        messages.push(bytes);
      });
      const done = answer({
        settings,
        url: "http://a.test/",
        load,
        signal: new AbortController().signal,
        send: box.send,
        answers: await box.shape({ bytes: SIZES.slice(0, 2), rate: RATE, begins: "now" }),
      });
      // Who does not stop at all takes the instance with it, after the last cell.
      if (name === "stuck") await assert.rejects(done, /does not stop/);
      else await done;
      const bytes = bytesOf({ messages, tookMs: 0 });
      // Engines that heed the deadline end where the cells are by then, which a busy machine decides.
      const sizes = { throws: SIZES.slice(0, 1), stuck: SIZES.slice(1, 2) }[name] ?? SIZES.slice(0, 2);
      assert.ok(sizes.includes(bytes), `${name}: ${bytes} bytes`);
    }
  });

  test("a slow reader moves the schedule and changes no size", async () => {
    await using site = await WebServer.start(SITE);
    let held = 0;
    const sent = await session([request(`${site.origin}/middle`)], settingsOf(BUCKETS), async () => {
      if (++held === 5) await new Promise((resolve) => setTimeout(resolve, 300));
    });
    assert.ok(SIZES.includes(bytesOf(sent)));
    assert.ok((await pageOf(sent)).verified);
    assert.ok(sent.tookMs > 300);
  });

  test("a request that stops the others ends them at their next size", async () => {
    await using site = await WebServer.start(SITE);
    const sent = await session(
      [
        request(`${site.origin}/silent`),
        request(`${site.origin}/silent`),
        request(`${site.origin}/small`, { stop: true }),
      ],
      settingsOf(BUCKETS),
    );
    assert.equal(bytesOf(sent), 3 * (SIZES[0] ?? 0));
    const cells = (SIZES[0] ?? 0) / CELL_BYTES;
    const pages = await Promise.all(
      [0, 1, 2].map((at) =>
        pageOf({ messages: sent.messages.slice(at * cells, (at + 1) * cells), tookMs: 0 }),
      ),
    );
    assert.deepEqual(
      pages.map((page) => page.failures[0]?.reason),
      ["stopped", "stopped", undefined],
    );
  });
});
