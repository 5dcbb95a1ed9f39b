// What stands around a browser that a page has taken over: attempts by pages, and by functions that drive the browser as
// they like, in the chromium image as boxes run it. The controls are the same attempts in a browser outside.

import assert from "node:assert/strict";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, it } from "node:test";
import { setTimeout } from "node:timers/promises";
import { type Browser, chromium } from "playwright-core";
import type { InstanceNet } from "../../src/box/host/services.ts";
import type { Grant } from "../../src/wire/grant.ts";
import { BENCH_UIDS, fakeNet, GuestBench, grantOf, type RunningGuest } from "../integration/guest-harness.ts";
import { skipRendered } from "../support/rendered-session.ts";

const MIB = 1024 * 1024;

/** Drives the browser: the argument is a list of `[url, expression]`, each answered with the value as JSON. */
const DRIVER = `export default { async invoke(session, env, steps, browsers = 1, file = "") {
  if (file !== "") await Deno.writeTextFile("/tmp/" + file, "x");
  const all = [];
  for (let at = 0; at < browsers; at++) all.push(await env.chromium.launch());
  const browser = all[0];
  const writer = browser.writable.getWriter();
  const waiting = new Map();
  let id = 0;
  const send = (method, params = {}, sessionId) => new Promise((resolve) => {
    waiting.set(++id, resolve);
    writer.write(new TextEncoder().encode(JSON.stringify({ id, method, params, sessionId }) + "\\0"));
  });
  (async () => {
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of browser.readable) {
      text += decoder.decode(chunk, { stream: true });
      for (let end = text.indexOf("\\0"); end >= 0; end = text.indexOf("\\0")) {
        const message = JSON.parse(text.slice(0, end));
        text = text.slice(end + 1);
        waiting.get(message.id)?.(message.result ?? message.error);
      }
    }
  })();
  // A browser that gets no more threads may end, or stand still.
  const patience = new Promise((resolve) => setTimeout(resolve, browsers > 1 ? 3000 : 60_000));
  await Promise.race([send("Browser.getVersion"), browser.closed, patience]);
  await session.send("ready");
  for (const [url, expression] of steps) {
    const { targetId } = await send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
    await send("Page.enable", {}, sessionId);
    const { errorText = "" } = await send("Page.navigate", { url }, sessionId);
    const answer = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true }, sessionId);
    await session.send(JSON.stringify({ errorText, value: answer.result?.value ?? null }));
    await send("Target.closeTarget", { targetId });
  }
  if (steps.length === 0) for await (const _ of session);
} };`;

/** The names in a directory, as Chromium lists it. */
const NAMES = `(async () => {
  while (document.readyState !== "complete") await new Promise((resolve) => setTimeout(resolve, 20));
  return [...document.scripts].map((script) => /^addRow\\("([^"]+)/.exec(script.textContent)?.[1] ?? "").join(" ");
})()`;

interface Seen {
  readonly errorText: string;
  readonly value: unknown;
}

describe("escape: chromium", { skip: skipRendered, timeout: 120_000 }, () => {
  let bench: GuestBench;
  let outside: Browser;
  let web: Server;
  let webConnections = 0;
  let udp: Socket;
  let udpMessages = 0;

  before(async () => {
    bench = await GuestBench.open("sandbox", ["chromium", "deno"]);
    outside = await chromium.launch({
      executablePath: "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu", "--disable-features=WebRtcHideLocalIpsWithMdns"],
    });
    web = createServer((_request, response) =>
      response.writeHead(200, { "access-control-allow-origin": "*" }).end("x"),
    );
    web.on("connection", () => webConnections++);
    web.listen(0, "127.0.0.1");
    udp = createSocket("udp4");
    udp.on("message", () => udpMessages++);
    udp.bind(0, "127.0.0.1");
    await Promise.all([once(web, "listening"), once(udp, "listening")]);
  });
  after(async () => {
    await outside.close();
    web.close();
    web.closeAllConnections();
    udp.close();
    await bench[Symbol.asyncDispose]();
  });

  const start = async (
    steps: readonly (readonly [string, string])[],
    options: { net?: InstanceNet; limits?: Partial<Grant["limits"]>; browsers?: number; file?: string } = {},
  ): Promise<RunningGuest> => {
    const { limits } = grantOf("chromium");
    return await bench.run("chromium", DRIVER, {
      invocation: { args: [steps, options.browsers ?? 1, options.file ?? ""] },
      grant: {
        ...(options.net ? { net: { allow: ["*:*"], connections: 16, bytes: 1e8 } } : {}),
        limits: {
          ...limits,
          memoryBytes: 384 * MIB,
          pids: 200,
          tmpBytes: 64 * MIB,
          cpuPercent: 200,
          ...options.limits,
        },
      },
      ...(options.net ? { services: { net: options.net } } : {}),
    });
  };
  const seen = async (...args: Parameters<typeof start>): Promise<Seen[]> => {
    await using guest = await start(...args);
    const [ready, ...answers] = await guest.all();
    assert.equal(ready, "ready", JSON.stringify(await guest.ended));
    return answers.map((answer) => JSON.parse(answer) as Seen);
  };
  const control = async (url: string, expression: string): Promise<unknown> => {
    const tab = await outside.newPage();
    try {
      await tab.goto(url);
      return await tab.evaluate(expression);
    } finally {
      await tab.close();
    }
  };

  /** Every way a page has to send something; the local ports count. */
  const contact = () => {
    const { port } = web.address() as AddressInfo;
    const local = `127.0.0.1:${port}`;
    return `(async () => {
      const done = [];
      const attempt = async (name, act) => { try { done.push(name + ":" + await act()); } catch (error) { done.push(name + " " + error.name); } };
      await attempt("fetch", async () => (await fetch("http://${local}/a")).status);
      await attempt("fetch", async () => (await fetch("http://localhost:${port}/b")).status);
      await attempt("image", () => new Promise((resolve, reject) => { const i = new Image(); i.onerror = reject; i.onload = resolve; i.src = "http://${local}/c"; }));
      await attempt("socket", () => new Promise((resolve, reject) => { const w = new WebSocket("ws://${local}/d"); w.onerror = reject; w.onopen = resolve; }));
      navigator.sendBeacon("http://${local}/e");
      for (const rel of ["dns-prefetch", "preconnect", "prefetch"]) document.head.append(Object.assign(document.createElement("link"), { rel, href: "http://${local}/f" }));
      await attempt("webtransport", async () => { const t = new WebTransport("https://${local}/g"); await t.ready; });
      return done;
    })()`;
  };

  it("a page's connections all come to the box, which refuses them", async () => {
    const net = fakeNet({});
    const before = webConnections;
    const [answer] = await seen([["data:text/html,<p>page", contact()]], { net });
    const { port } = web.address() as AddressInfo;
    assert.ok(Array.isArray(answer?.value) && answer.value.length === 5, JSON.stringify(answer));
    assert.ok(!answer.value.some((line: string) => line.includes(":")), answer.value.join());
    assert.equal(webConnections, before);
    assert.deepEqual([...new Set(net.asked)].sort(), [`127.0.0.1:${port}`, `localhost:${port}`]);
    await control("data:text/html,<p>page", contact());
    assert.ok(webConnections > before, "the control reaches the server");
  });

  it("a page without the grant of net reaches nothing", async () => {
    const before = webConnections;
    const [answer] = await seen([["data:text/html,<p>page", contact()]]);
    assert.ok(Array.isArray(answer?.value) && !answer.value.some((line: string) => line.includes(":")));
    assert.equal(webConnections, before);
  });

  it("WebRTC learns no address and sends nothing", async () => {
    const { port } = udp.address();
    const gather = `(async () => {
      const connection = new RTCPeerConnection({ iceServers: [{ urls: "stun:127.0.0.1:${port}" }] });
      connection.createDataChannel("x");
      const found = [];
      connection.onicecandidate = ({ candidate }) => candidate && found.push(candidate.candidate);
      await connection.setLocalDescription(await connection.createOffer());
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return found;
    })()`;
    const before = udpMessages;
    const net = fakeNet({});
    const [answer] = await seen([["data:text/html,<p>page", gather]], { net });
    assert.deepEqual(answer?.value, []);
    assert.deepEqual([udpMessages, net.asked], [before, []]);
    const found = await control("data:text/html,<p>page", gather);
    assert.ok(
      Array.isArray(found) && (found.length > 0 || udpMessages > before),
      "the control gathers addresses",
    );
  });

  it("nothing listens but the proxy, and nobody holds a socket of another kind", async () => {
    await using guest = await start([], { net: fakeNet({}) });
    assert.equal(Buffer.from((await guest.next()) ?? "").toString(), "ready");
    assert.equal(listening(guest.pid).length, 1);
    for (const table of ["udp", "udp6", "tcp6", "raw", "packet", "netlink"]) {
      // Netlink has the kernel's own, of process 0.
      const rows = socketsOf(guest.pid, table).filter((row) => table !== "netlink" || row[2] !== "0");
      assert.deepEqual(rows, [], table);
    }
    await using closed = await start([]);
    assert.equal(Buffer.from((await closed.next()) ?? "").toString(), "ready");
    assert.deepEqual(listening(closed.pid), []);
    const { port } = web.address() as AddressInfo;
    const own = listening(process.pid).map((row) => Number.parseInt(row[1]?.split(":")[1] ?? "", 16));
    assert.ok(own.includes(port), "the control is seen");
  });

  it("files of the machine are not there, whoever asks", async () => {
    const text = "document.body ? document.body.innerText : ''";
    const list = NAMES;
    const files = [
      "/etc/passwd",
      "/etc/shadow",
      "/proc/self/environ",
      "/proc/1/cmdline",
      "/proc/cpuinfo",
      "/sys/kernel",
    ];
    const answers = await seen([
      ...files.map((path) => [`file://${path}`, text] as const),
      ["file:///", list],
      ["file:///etc/", list],
      ["file:///proc/", list],
      ["file:///proc/self/", list],
      ["file:///dev/", list],
      ["file:///tmp/", list],
    ]);
    for (const [at, path] of files.entries())
      assert.match(answers[at]?.errorText ?? "", /ERR_FILE_NOT_FOUND/, path);
    const lists = answers.slice(files.length).map(({ value }) => String(value));
    const [top, etc, proc, self, dev] = lists;
    assert.match(top ?? "", /usr/);
    for (const name of ["home", "root", "var", "run", "work", "sys", "boot", "mnt"]) {
      assert.ok(!` ${top} `.includes(` ${name} `), `${name} in ${top}`);
    }
    assert.match(etc ?? "", /^(?!.*passwd).*fonts/);
    assert.match(proc ?? "", /self/);
    assert.ok(!/\d/.test(proc ?? ""), proc);
    assert.match(self ?? "", /exe/);
    assert.ok(!/environ|cmdline|maps|fd\b/.test(self ?? ""), self);
    assert.equal(dev?.trim(), "null urandom");
    assert.match(String(await control("file:///etc/passwd", text)), /root:/);
  });

  it("a page cannot go to the browser's own pages or to files", async () => {
    const away = (url: string) =>
      `new Promise((resolve) => { try { location = "${url}"; } catch {} setTimeout(() => resolve(location.href), 300); })`;
    const urls = ["file:///etc/hosts", "chrome://version/", "devtools://devtools/", "chrome://gpu/"];
    const net = fakeNet({});
    const answers = await seen(
      urls.map((url) => ["data:text/html,<p>page", away(url)] as const),
      { net },
    );
    for (const { value } of answers) assert.match(String(value), /^data:text\/html/);
    assert.deepEqual(net.asked, []);
  });

  it("processes and threads stop at their limit, and the box goes on", async () => {
    await using guest = await start([], { limits: { pids: 96 }, browsers: 12 });
    let most = 0;
    const looking = setInterval(() => (most = Math.max(most, threadsOf())), 20);
    try {
      // It goes on with fewer browsers, or dies of it.
      await Promise.race([guest.next(), guest.ended]);
    } finally {
      clearInterval(looking);
    }
    // 12 of them would have 350; threads that end at this moment are listed and do not count any more.
    assert.ok(most > 48 && most <= 96 + 16, `${most} threads`);
    const [answer] = await seen([["data:text/html,<p>next", "document.body.innerText"]]);
    assert.equal(answer?.value, "next");
  });

  it("an instance that is killed leaves no process", async () => {
    const guest = await start([["data:text/html,<script>for(;;);</script>", "1"]]);
    assert.equal(Buffer.from((await guest.next()) ?? "").toString(), "ready");
    assert.ok(benchProcesses().length >= 3, "runner, browser and page are there");
    await guest[Symbol.asyncDispose]();
    // Their group is empty; the kernel may still be taking the last one's memory down.
    const endMs = performance.now() + 10_000;
    while (benchProcesses().length > 0 && performance.now() < endMs) await setTimeout(20);
    assert.equal(benchProcesses().length, 0);
  });

  it("two instances see nothing of each other", async () => {
    await using first = await start([], { file: "of-the-first" });
    assert.equal(Buffer.from((await first.next()) ?? "").toString(), "ready");
    const [answer] = await seen([["file:///tmp/", NAMES]], { file: "of-the-second" });
    assert.match(String(answer?.value), /of-the-second/);
    assert.ok(!String(answer?.value).includes("of-the-first"), String(answer?.value));
  });

  it("functions of other images have no browser, and none of them a program but it", async () => {
    const source = `export default { async invoke(session, env) {
      await session.send(String(env.chromium !== undefined));
      for (const program of ["/usr/bin/chromium", "/bin/sh", "/usr/bin/deno"]) {
        try { await session.send(String((await new Deno.Command(program, { args: ["--version"] }).output()).success)); }
        catch (error) { await session.send(error.name); }
      }
    } };`;
    await using plain = await bench.run("deno", source, {
      grant: { syscalls: ["fork", "files", "loopback"] },
    });
    assert.deepEqual(await plain.all(), ["false", "NotCapable", "NotCapable", "NotCapable"]);
    const limits = { ...grantOf("chromium").limits, memoryBytes: 256 * MIB, pids: 100, tmpBytes: 32 * MIB };
    await using rendered = await bench.run("chromium", source, { grant: { limits } });
    assert.deepEqual(await rendered.all(), ["true", "true", "NotCapable", "NotCapable"]);
  });
});

/** The rows of a table of sockets in the network namespace of a process; [] where the kernel has no such sockets. */
function socketsOf(pid: number, table: string): string[][] {
  const text = existsSync(`/proc/${pid}/net/${table}`)
    ? readFileSync(`/proc/${pid}/net/${table}`, "utf8")
    : "";
  return text
    .split("\n")
    .slice(1)
    .filter((line) => line !== "")
    .map((line) => line.trim().split(/\s+/));
}

/** 0A is TCP_LISTEN. */
function listening(pid: number): string[][] {
  return socketsOf(pid, "tcp").filter((row) => row[3] === "0A");
}

function benchProcesses(): string[] {
  const { first, count } = BENCH_UIDS;
  return readdirSync("/proc").filter((name) => {
    try {
      if (!/^\d+$/.test(name)) return false;
      const status = readFileSync(`/proc/${name}/status`, "utf8");
      const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]);
      // What has ended and was not waited for is a name without a process.
      return uid >= first && uid < first + count && !/^State:\s+[ZX]/m.test(status);
    } catch {
      return false; // it has just ended
    }
  });
}

function threadsOf(): number {
  return benchProcesses().reduce((sum, id) => {
    try {
      return sum + readdirSync(`/proc/${id}/task`).length;
    } catch {
      return sum;
    }
  }, 0);
}
