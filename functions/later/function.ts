// Runs a function for a client that goes away: its output, and how it ended, go sealed into a Dropbox on another box.
// This function sees what the other one says, as the box does; the Dropbox's box sees sizes alone. Protocol: docs/spec/later.md.

import { Buffer } from "node:buffer";
import { type Bento, defineFunction, type FarSession, type Json, type Package } from "bento/function";
import {
  type AnswerEnd,
  encodeAnswerEnd,
  LaterLimits,
  type LaterRequest,
  type LaterStarted,
} from "../../src/wire/later.ts";
import { SEAL_KEY_BYTES, sealFile } from "../../src/wire/sealed-file.ts";
import { DropboxWriter } from "./dropbox-writer.ts";

export default defineFunction({
  async invoke(session, env, given: Json = null) {
    const { bento } = env;
    if (!bento) throw new Error("Cannot run anything: no use of other functions was granted");
    const { request, key } = checked(given);
    const input = session[Symbol.asyncIterator]();
    const pack = await readPackage(input, request.packageBytes);
    const dropbox = new DropboxWriter(bento, request.dropbox);
    const inner = await start(bento, pack, request);
    const onStop = () => void inner.close().catch(() => undefined);
    session.signal.addEventListener("abort", onStop, { once: true });
    // Read from the first byte on: a function may say something before it listens.
    const delivered = deliver(inner, dropbox, request, key);
    delivered.catch(() => undefined);
    try {
      await Promise.race([Promise.all([dropbox.opened, passInput(input, inner)]), delivered]);
      await session.send(JSON.stringify({ started: true } satisfies LaterStarted));
      await delivered;
    } catch (error) {
      await inner.close().catch(() => undefined);
      env.log.error(`Cannot deliver: ${error instanceof Error ? error.message : String(error)}`);
      throw error;
    }
    // All is in the Dropbox: nothing is left to ask for here. What was not delivered stays, to be asked why.
    await env.self.remove();
  },
});

async function start(bento: Bento, pack: Package, request: LaterRequest): Promise<FarSession> {
  const { args, call } = request;
  return bento.run("self", pack, {
    linked: true,
    ...(call === undefined ? { args: args ?? [] } : { call }),
  });
}

async function deliver(
  inner: FarSession,
  dropbox: DropboxWriter,
  request: LaterRequest,
  key: Uint8Array,
): Promise<void> {
  for await (const segment of sealFile(answerOf(inner, request.outputBytesMax), key, request))
    await dropbox.write(segment);
  await dropbox.seal();
}

/** What the function says, and how it ended. Never throws: what goes wrong is the answer. */
async function* answerOf(inner: FarSession, bytesMax: number): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  let end: AnswerEnd;
  try {
    for await (const message of inner) {
      bytes += message.length;
      if (bytes > bytesMax)
        throw new Error(`the output is longer than the ${bytesMax} bytes there is room for`);
      yield message;
    }
    end = await inner.ended;
  } catch (error) {
    await inner.close().catch(() => undefined);
    const message = error instanceof Error ? error.message : String(error);
    end = { kind: "failed", name: "Broken", message, traceback: "" };
  }
  yield encodeAnswerEnd(end);
}

async function passInput(input: AsyncIterator<Uint8Array>, inner: FarSession): Promise<void> {
  try {
    for (;;) {
      const { value, done } = await input.next();
      if (done) break;
      await inner.send(value);
    }
    await inner.endInput();
  } catch {
    // It ended without having read everything: its answer says how.
  }
}

async function readPackage(input: AsyncIterator<Uint8Array>, bytes: number): Promise<Package> {
  const whole = new Uint8Array(bytes);
  for (let at = 0; at < bytes; ) {
    const { value, done } = await input.next();
    if (done || value.length === 0 || value.length > bytes - at)
      throw new Error("Cannot run: the package did not come whole");
    whole.set(value, at);
    at += value.length;
  }
  return JSON.parse(new TextDecoder().decode(whole)) as Package;
}

const PACKAGE_BYTES_MAX = 8 * 1024 * 1024;

/** The request, as far as this function relies on it: boxes and the Dropbox check what is for them. */
function checked(given: Json): { request: LaterRequest; key: Uint8Array } {
  const request = (given ?? {}) as Partial<LaterRequest>;
  const { packageBytes, outputBytesMax, dropbox, padding } = request;
  const isCount = (value: unknown, max: number) =>
    typeof value === "number" && Number.isSafeInteger(value) && value > 0 && value <= max;
  const isWhole =
    isCount(packageBytes, PACKAGE_BYTES_MAX) &&
    isCount(outputBytesMax, LaterLimits.outputBytesMax) &&
    typeof dropbox?.box === "string" &&
    typeof dropbox.token === "string" &&
    isCount(dropbox.put?.partBytes, 2 ** 24) &&
    typeof padding?.kind === "string" &&
    typeof request.key === "string";
  const key = isWhole ? Buffer.from(request.key ?? "", "base64url") : undefined;
  if (key?.length !== SEAL_KEY_BYTES) throw new Error("Cannot run: the request is malformed");
  return { request: request as LaterRequest, key };
}
