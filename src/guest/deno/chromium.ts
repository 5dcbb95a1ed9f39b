// Starts Chromium beside the function (spec/guest 5.3). It is given one way out, the proxy on the sandbox's own loopback,
// and is told to do without whatever else it knows; but these arguments are order, not walls: what holds a browser that
// a page has taken over is the sandbox, which has no route, no other socket and no device (docs/adr/0008-chromium.md).

import type { ChildProcess } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { BentoError } from "../../base/errors.ts";
import type { Chromium, ChromiumProcess } from "../function.ts";
import { CHROMIUM_PATH } from "../images.ts";

/** Nothing listens there: what a browser without a network is pointed to. */
const NO_PROXY_PORT = 1;

/** Heap of one page's scripts. One that wants more loses its process before the instance loses its memory. */
const SCRIPT_HEAP_MIB = 192;

/** https://peter.sh/experiments/chromium-command-line-switches/ and the sources named there. */
function argumentsFor(proxyPort: number): string[] {
  return [
    // Its sandbox needs user namespaces or a setuid program, neither of which exists in here.
    "--no-sandbox",
    "--no-zygote",
    "--remote-debugging-pipe",
    // Names go to the proxy as they are; nothing is looked up here, and the own loopback is no exception.
    `--proxy-server=socks5://127.0.0.1:${proxyPort}`,
    "--proxy-bypass-list=<-loopback>",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-quic",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--dns-prefetch-disable",
    "--no-pings",
    // Nothing of its own accord.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-features=AcceptCHFrame,AutofillServerCommunication,DialMediaRouteProvider,HttpsUpgrades,InterestFeedContentSuggestions,MediaRouter,OptimizationHints,Translate,WebUSB,WebBluetooth",
    "--disable-notifications",
    "--deny-permission-prompts",
    "--disable-file-system",
    "--block-new-web-contents",
    "--mute-audio",
    "--disable-speech-api",
    "--hide-scrollbars",
    "--lang=en-US",
    // There is no /dev/shm and no graphics device; drawing on the processor is what the page's own scripts can do as well.
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-3d-apis",
    // Few processes: each costs 30 to 60 MiB, and none is a wall here.
    "--in-process-gpu",
    "--enable-features=NetworkServiceInProcess2",
    "--renderer-process-limit=1",
    "--disable-site-isolation-trials",
    `--js-flags=--max-old-space-size=${SCRIPT_HEAP_MIB}`,
    // Pages turn away browsers that say that a program drives them.
    "--disable-blink-features=AutomationControlled",
  ];
}

/** @param proxyPort of the proxy that carries its connections; undefined for a browser that reaches nothing. */
export function chromiumOf(proxyPort: number | undefined): Chromium {
  return Object.freeze({
    async launch(): Promise<ChromiumProcess> {
      // Loaded only by who needs it: it takes longer than the rest of the runner.
      const { spawn } = await import("node:child_process");
      const child = spawn(CHROMIUM_PATH, argumentsFor(proxyPort ?? NO_PROXY_PORT), {
        // Descriptors 3 and 4 are the pipe. Standard output would be the channel to the box: it is never inherited.
        stdio: ["ignore", "pipe", "pipe", "pipe", "pipe"],
        env: { HOME: "/tmp", LANG: "C.UTF-8", TZ: "UTC" },
      });
      return await started(child);
    },
  });
}

async function started(child: ChildProcess): Promise<ChromiumProcess> {
  const [, stdout, stderr, commands, answers] = child.stdio as unknown as [
    null,
    Readable,
    Readable,
    Writable,
    Readable,
  ];
  const ended = Promise.withResolvers<void>();
  const running = Promise.withResolvers<void>();
  // It complains all the time, about what it is not given, and must never wait for a reader.
  stdout.resume();
  stderr.resume();
  child.once("error", (cause) => {
    running.reject(new BentoError("chromium", `Cannot launch Chromium: ${cause.message}`, { cause }));
    ended.resolve();
  });
  child.once("spawn", running.resolve);
  child.once("exit", () => {
    ended.resolve();
  });
  await running.promise;
  return Object.freeze({
    readable: readableOf(answers),
    writable: writableOf(commands),
    closed: ended.promise,
    async close() {
      child.kill("SIGKILL");
      await ended.promise;
    },
  });
}

/** Reads only as far as somebody takes it: a page cannot fill this process by talking. */
function readableOf(answers: Readable): ReadableStream<Uint8Array> {
  answers.pause();
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        answers.on("data", (bytes: Uint8Array) => {
          answers.pause();
          // The process's library gives out parts of a pool of its own.
          controller.enqueue(new Uint8Array(bytes));
        });
        const end = () => {
          // Cancelled by the reader: there is nothing to close.
          try {
            controller.close();
          } catch {}
        };
        // A pipe whose other end was killed breaks; `closed` tells that the process has ended.
        answers.on("error", end);
        answers.on("close", end);
        answers.on("end", end);
      },
      pull() {
        answers.resume();
      },
      cancel() {
        answers.destroy();
      },
    },
    { highWaterMark: 0 },
  );
}

function writableOf(commands: Writable): WritableStream<Uint8Array> {
  let broken: Error | undefined;
  commands.on("error", (error) => {
    broken = error;
  });
  return new WritableStream<Uint8Array>({
    async write(bytes) {
      await new Promise<void>((resolve, reject) => {
        commands.write(bytes, (error) => {
          const failure = error ?? broken;
          if (failure)
            reject(new BentoError("chromium", "Cannot write to Chromium: it has ended", { cause: failure }));
          else resolve();
        });
      });
    },
    close() {
      commands.end();
    },
    abort() {
      commands.destroy();
    },
  });
}
