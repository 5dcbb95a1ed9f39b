// Runs one function in one Deno process inside the sandbox: announces itself, gets its source and grant over the
// channel, invokes it, reports how it ended (spec/guest 3). Bundled into one file by ../build.ts.

import { GUEST_FRAME, type GuestFrame, type GuestStart } from "../../wire/guest-frame.ts";
import { bridgesSockets } from "../images.ts";
import { HostChannel, jsonOf } from "./channel.ts";
import { replaceConsole } from "./console.ts";
import { envOf, logOf } from "./env.ts";
import { failureOf } from "./failure.ts";
import { type FunctionModule, loadReady } from "./ready.ts";
import { SessionState } from "./session.ts";
import { bridgeSockets } from "./socks.ts";

// Taken before a function runs, which may replace what stands on the globals.
const { exit, stdin, stdout } = Deno;
const channel = new HostChannel({
  read: (into) => stdin.read(into),
  readSync: (into) => stdin.readSync(into),
  write: (bytes) => stdout.write(bytes),
  writeSync: (bytes) => stdout.writeSync(bytes),
});
const state = new SessionState(channel);
const log = logOf(channel);
/** Characters of source. Above this the address would weigh more than the time it saves. */
const DATA_URL_CHARS_MAX = 8 * 1024;
let ending = false;

replaceConsole(log);
globalThis.addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  event.stopImmediatePropagation();
  void fail(event.reason);
});
globalThis.addEventListener("error", (event) => {
  event.preventDefault();
  event.stopImmediatePropagation();
  void fail(event.error);
});
// The first import of a process loads what later ones need: an instance that waits ahead of need has paid for that.
await load(
  'import { defineFunction } from "bento/function";\nexport default defineFunction({ async invoke() {} });',
);
const ready = await loadReady();
channel.send(GUEST_FRAME.ready, 0);
await channel.flush();
channel.run(onFrame).then(
  () => exit(0),
  (error: unknown) => fail(error),
);

function onFrame(frame: GuestFrame): void {
  if (frame.type !== GUEST_FRAME.start) {
    const session = frame.type === GUEST_FRAME.session ? (jsonOf(frame) as { attached: boolean }) : undefined;
    state.onFrame(frame, session?.attached);
    return;
  }
  void start(jsonOf(frame) as GuestStart);
}

async function start({ source, invocation, grant }: GuestStart): Promise<void> {
  try {
    if (!("args" in invocation))
      throw new TypeError("Cannot start: call expressions are for the python image");
    const bridge = bridgesSockets(grant) ? (ready?.bridge ?? bridgeSockets) : undefined;
    const env = envOf(channel, grant, bridge, log, (queue) => state.inOrder(queue));
    const module = source === undefined ? (ready?.module ?? {}) : await load(source);
    const definition = module.default as { invoke?: unknown } | undefined;
    if (typeof definition?.invoke !== "function") {
      throw new TypeError("Cannot start: the function has no `export default defineFunction({ invoke })`");
    }
    await definition.invoke(state.session, env, ...invocation.args);
    await state.sent();
    await finish(GUEST_FRAME.done);
  } catch (error) {
    await fail(error);
  }
}

/**
 * As JavaScript, which is what clients bundle to; as TypeScript where that cannot be parsed. Not TypeScript at once:
 * its compiler asks the C library for the stack's bounds, which needs /proc, and a large module makes it panic.
 */
async function load(source: string): Promise<FunctionModule> {
  try {
    return await importAs(source, "text/javascript");
  } catch (error) {
    // How Deno says that it could not parse a module: nothing of it has run.
    if (!(error instanceof TypeError && error.message.startsWith("SyntaxError: "))) throw error;
    return await importAs(source, "application/typescript");
  }
}

/** A small source is its own address, which the runtime loads in half the time; its stack traces repeat the address. */
async function importAs(source: string, type: string): Promise<FunctionModule> {
  const url =
    source.length <= DATA_URL_CHARS_MAX
      ? `data:${type},${encodeURIComponent(source.toWellFormed()).replace(/['()]/g, escapeCharacter)}`
      : URL.createObjectURL(new Blob([source], { type }));
  return (await import(url)) as FunctionModule;
}

/** What would end an address in a stack trace (failure.ts). */
function escapeCharacter(character: string): string {
  return `%${character.charCodeAt(0).toString(16)}`;
}

async function fail(error: unknown): Promise<void> {
  let failure = { name: "Error", message: "", traceback: "" };
  try {
    failure = failureOf(error);
  } finally {
    await finish(GUEST_FRAME.failed, failure);
  }
}

/** The first end counts. What was queued before it leaves before it. */
async function finish(type: number, failure?: unknown): Promise<void> {
  if (ending) return;
  ending = true;
  try {
    if (failure === undefined) channel.send(type, 0);
    else channel.sendJson(type, 0, failure);
    await channel.flush();
  } finally {
    // Also when the function broke what this needs: the box sees a guest that ended without a result.
    exit(0);
  }
}
