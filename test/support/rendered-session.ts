// A session of the browser-rendered function in the sandbox that boxes use, its connections ending in web servers of the
// test. Names that no server has are refused, as a policy would.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import manifestInput from "../../functions/browser-rendered/manifest.json" with { type: "json" };
import { BentoError } from "../../src/base/errors.ts";
import { type Page, receivePage } from "../../src/client/digest/receive-page.ts";
import { type BrowseRequest, encodeRequest } from "../../src/wire/browse.ts";
import { parseManifest } from "../../src/wire/manifest.ts";
import { type GuestBench, grantOf, type RunningGuest } from "../integration/guest-harness.ts";
import type { WebServer } from "../sites/web-server.ts";

const SHELL = "/usr/lib/chromium/chromium-headless-shell";

/** Why tests of the image cannot run here, or false. */
export const skipRendered =
  process.getuid?.() !== 0
    ? "needs root"
    : // The headless shell is what is tested; the other one is what it is compared with.
      ([SHELL, "/usr/bin/chromium"]
        .filter((path) => !existsSync(path))
        .map((path) => `${path} is not installed`)[0] ?? false);

export class RenderedSession implements AsyncDisposable {
  readonly guest: RunningGuest;
  /** `host:port` of each connection that was asked for. */
  readonly asked: readonly string[];
  #lastId = 0;

  private constructor(guest: RunningGuest, asked: readonly string[]) {
    this.guest = guest;
    this.asked = asked;
  }

  static async start(
    bench: GuestBench,
    source: string,
    hosts: Readonly<Record<string, Pick<WebServer, "origin">>>,
    settings: object = {},
  ): Promise<RenderedSession> {
    const manifest = parseManifest(manifestInput);
    const { limits } = grantOf("chromium");
    const asked: string[] = [];
    const guest = await bench.run("chromium", source, {
      invocation: { args: [{ shape: { kind: "none", pad: 0 }, deadlineMs: 20_000, ...settings }] },
      grant: {
        net: { allow: ["*:80"], connections: 32, bytes: 1e9 },
        limits: {
          ...limits,
          memoryBytes: manifest.memory ?? 0,
          pids: manifest.pids ?? 0,
          tmpBytes: manifest.tmp ?? 0,
          cpuPercent: 200,
        },
      },
      services: {
        net: {
          async connect({ host, port }) {
            asked.push(`${host}:${port}`);
            const server = hosts[port === 80 ? host : `${host}:${port}`];
            if (!server) throw new BentoError("net-refused", `Cannot connect to ${host}: refused`);
            const { hostname, port: real } = new URL(server.origin);
            return connect(Number(real), hostname);
          },
          [Symbol.asyncDispose]: () => Promise.resolve(),
        },
      },
    });
    return new RenderedSession(guest, asked);
  }

  async page(url: string, request: Partial<BrowseRequest> = {}): Promise<Page> {
    const id = ++this.#lastId;
    const { guest } = this;
    await guest.link.sendInput(
      encodeRequest({
        id,
        method: "GET",
        body: undefined,
        referrer: undefined,
        stop: false,
        ...request,
        url,
      }),
      { last: true },
    );
    const output = async function* () {
      for (let message = await guest.next(); message; message = await guest.next()) {
        yield message;
        // The end frame of an answer without cells is a message of its own.
        if (message.length === 1 && message[0] === 3) return;
      }
      assert.fail(`the function has ended: ${JSON.stringify(await guest.ended)}`);
    };
    return await receivePage(output());
  }

  /** Sends requests, ends the input, and returns the messages that come until the function returns. */
  async messages(urls: readonly string[]): Promise<Uint8Array[]> {
    for (const url of urls) {
      const id = ++this.#lastId;
      const request = { id, method: "GET", body: undefined, referrer: undefined, stop: false, url } as const;
      await this.guest.link.sendInput(encodeRequest(request), { last: true });
    }
    this.guest.link.endInput();
    const messages: Uint8Array[] = [];
    for (let message = await this.guest.next(); message; message = await this.guest.next()) {
      messages.push(message);
    }
    assert.deepEqual(await this.guest.ended, { kind: "returned" });
    return messages;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.guest[Symbol.asyncDispose]();
  }
}

/** The page's file as text. */
export function textOf(page: Page): string {
  return Buffer.from(page.html).toString();
}
