// The Browser function as it is shipped: bundled, in a real Deno guest, its fetch through the guest channel.

import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { build } from "esbuild";
import { receivePage } from "../../src/client/digest/receive-page.ts";
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
