// `bento/testing`: tests of a function invoke it in a box as any client does (testing-api.d.ts). `bento fn test` starts
// the box and says where it is; Python's harness comes here through bin/test-bridge.ts.

import nodeAssert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import { test as nodeTest } from "node:test";
import { BentoError } from "../../base/errors.ts";
import { BoxClient, directDial, type Session } from "../client.ts";
import { loadPackage } from "../package-loader.ts";
import type * as api from "./testing-api.d.ts";

/** Where the box is, and which function is under test: set by `bento fn test`. */
export const TEST_BOX_VARIABLE = "BENTO_TEST_BOX";
export const TEST_FN_VARIABLE = "BENTO_TEST_FN";
/** Loopback address that the box lets functions reach: for `serve`. */
export const TEST_SITE_VARIABLE = "BENTO_TEST_SITE";
/** Ports of sites, in order of use: what manifests ask for that are tried on private networks. */
const SITE_PORT_FIRST = 8000;
const SITE_PORT_LAST = 8099;

export const assert: typeof api.assert = nodeAssert;

/** Node's own, so that a failed test is named by its place in the author's file. */
export const test = nodeTest as typeof api.test;

export async function install(fn?: string): Promise<api.Installed> {
  const address = process.env[TEST_BOX_VARIABLE];
  if (address === undefined) {
    throw new BentoError("usage", "Cannot test: there is no box", { advice: "Run `bento fn test`." });
  }
  const loaded = await loadPackage(fn ?? process.env[TEST_FN_VARIABLE] ?? ".");
  const client = new BoxClient({ address, dial: directDial });
  const { invocationToken, shutdownToken } = await client.store(loaded.package);
  const start = async (call: api.Call = {}): Promise<api.Running> => {
    const invocation = call.call === undefined ? { args: [...(call.args ?? [])] } : { call: call.call };
    // JSON values are the caller's, and checked where they are sent.
    return runningOf(client, await client.run({ token: invocationToken }, invocation));
  };
  return {
    start,
    run: async (call = {}) => {
      await using running = await start(call);
      return await collect(running, call.input ?? []);
    },
    logs: async () => {
      const lines: api.LogLine[] = [];
      for (let after = 0, more = true; more; ) {
        const page = await client.logs(shutdownToken, { after });
        lines.push(...page.lines.map(({ level, text }) => ({ level, text })));
        more = page.more && page.lines.length > 0;
        after = page.next;
      }
      return lines;
    },
    [Symbol.asyncDispose]: async () => {
      await client.shutdown(shutdownToken);
      client[Symbol.dispose]();
    },
  };
}

export async function run(call: Parameters<typeof api.run>[0] = {}): Promise<api.Result> {
  await using installed = await install();
  return await installed.run(call);
}

export async function serve(pages: Readonly<Record<string, string | Uint8Array>>): Promise<api.Site> {
  const host = process.env[TEST_SITE_VARIABLE] ?? "127.0.0.1";
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const path = request.url ?? "/";
    requests.push(path);
    const page = Object.hasOwn(pages, path) ? pages[path] : undefined;
    response.writeHead(page === undefined ? 404 : 200, { "content-type": "text/html; charset=utf-8" });
    response.end(page ?? "not found");
  });
  const port = await listen(server, host);
  return {
    url: `http://${host}:${port}`,
    requests,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function listen(server: Server, host: string): Promise<number> {
  for (let port = SITE_PORT_FIRST; port <= SITE_PORT_LAST; port++) {
    const isFree = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false)).listen(port, host, () => resolve(true));
    });
    if (isFree) return port;
  }
  throw new BentoError("cannot-listen", `Cannot serve pages: no free port at ${host}`);
}

function runningOf(client: BoxClient, session: Session): api.Running {
  const messages = session[Symbol.asyncIterator]();
  let hasEnded = false;
  const receiveBytes = async () => {
    const next = await messages.next();
    return next.done ? undefined : next.value;
  };
  void session.ended.then(
    () => (hasEnded = true),
    () => (hasEnded = true),
  );
  return {
    send: (message) => session.send(message),
    receiveBytes,
    receive: async () => {
      const bytes = await receiveBytes();
      return bytes === undefined ? undefined : Buffer.from(bytes).toString();
    },
    endInput: () => session.endInput(),
    ended: session.ended,
    [Symbol.asyncDispose]: async () => {
      if (!hasEnded) await client.close(session.instance, { kill: true });
      await session.detach();
    },
  };
}

/** Input goes and output comes at the same time: a function may answer each message before it takes the next. */
async function collect(running: api.Running, input: readonly (string | Uint8Array)[]): Promise<api.Result> {
  const messages: Uint8Array[] = [];
  const sending = sendAll(running, input);
  for (;;) {
    const message = await running.receiveBytes();
    if (message === undefined) break;
    messages.push(message);
  }
  const outcome = await running.ended;
  await sending;
  if (outcome.kind !== "returned") throw failureOf(outcome);
  return { messages, text: Buffer.concat(messages).toString() };
}

async function sendAll(running: api.Running, input: readonly (string | Uint8Array)[]): Promise<void> {
  try {
    for (const message of input) await running.send(message);
    await running.endInput();
  } catch (error) {
    // A function may return before it has taken all of its input.
    if (!(error instanceof BentoError)) throw error;
  }
}

/** An Error like the function's own, with its traceback in place of ours. */
function failureOf(outcome: Exclude<api.Outcome, { kind: "returned" }>): Error {
  const error =
    outcome.kind === "failed"
      ? Object.assign(new Error(outcome.message), { name: outcome.name, stack: outcome.traceback })
      : new Error(
          `the box ended the function: ${outcome.reason}${outcome.detail ? ` (${outcome.detail})` : ""}`,
        );
  return Object.assign(error, { outcome });
}
