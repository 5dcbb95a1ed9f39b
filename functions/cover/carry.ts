// Between the tunnel and the covered function: session frames of the client become calls of `env.bento`, its messages become
// session frames, as a box's own (docs/spec/wire.md 4). The client is not trusted, nor is the function.

import type { Bento, FarSession } from "bento/function";
import { concat, utf8 } from "../../src/base/bytes.ts";
import type { Begin } from "../../src/wire/cover.ts";
import type { CoverTunnel } from "../../src/wire/cover-tunnel.ts";
import { Limits } from "../../src/wire/limits.ts";
import { offsetBytes, SESSION_TYPE, tagged } from "../../src/wire/session-frame-type.ts";

/** Runs what the client begins with, to its end. Never throws: what goes wrong is told through the tunnel. */
export async function carry(tunnel: CoverTunnel, bento: Bento): Promise<void> {
  try {
    const far = await start(bento, await tunnel.begun);
    const attached = {
      instance: far.instance,
      offset: 0,
      ...(far.deployment ? { stored: far.deployment } : {}),
    };
    await tunnel.send(tagged(SESSION_TYPE.attached, json(attached)));
    void carryInput(tunnel, far);
    await carryOutput(tunnel, far);
    await tunnel.send(tagged(SESSION_TYPE.ended, json(await far.ended)));
  } catch (error) {
    await tunnel.send(tagged(SESSION_TYPE.problem, json(problemOf(error)))).catch(() => {
      // The tunnel is over: nobody is there to be told.
    });
  }
}

function start(bento: Bento, { token, start: { package: pack, invocation } }: Begin): Promise<FarSession> {
  const what = token === undefined ? (pack as Parameters<Bento["run"]>[1]) : { token };
  // What was covered ends with its cover: nobody else knows of it.
  return bento.run("self", what, { ...invocation, linked: pack !== undefined });
}

async function carryOutput(tunnel: CoverTunnel, far: FarSession): Promise<void> {
  let offset = 0;
  for await (const message of far) {
    for (let at = 0; at === 0 || at < message.length; at += Limits.fragmentBytesMax) {
      const bytes = message.subarray(at, at + Limits.fragmentBytesMax);
      const isLast = at + bytes.length === message.length;
      const type = isLast ? SESSION_TYPE.output : SESSION_TYPE.outputMore;
      await tunnel.send(tagged(type, offsetBytes(offset), bytes));
      offset += bytes.length;
    }
  }
}

async function carryInput(tunnel: CoverTunnel, far: FarSession): Promise<void> {
  let parts: Uint8Array[] = [];
  let length = 0;
  try {
    for (;;) {
      const frame = await tunnel.receive();
      if (!frame) return;
      switch (frame[0]) {
        case SESSION_TYPE.input:
        case SESSION_TYPE.inputMore:
          parts.push(frame.subarray(1));
          length += frame.length - 1;
          if (length > Limits.inputMessageBytesMax) throw new Error("a message that is too long");
          if (frame[0] === SESSION_TYPE.inputMore) break;
          await far.send(concat(parts));
          parts = [];
          length = 0;
          break;
        case SESSION_TYPE.inputEnd:
          await far.endInput();
          break;
        case SESSION_TYPE.ack:
          // The tunnel's own credit says what was taken.
          break;
        default:
          throw new Error("a frame of unknown kind");
      }
    }
  } catch (error) {
    // Of a function that has ended, the end tells more than the input that was left.
    if ((error as { code?: string }).code !== "already-ended") tunnel.fail(error);
  }
}

function problemOf(error: unknown): object {
  const { code, message, refusals } = error as { code?: unknown; message?: unknown; refusals?: unknown };
  const text = String(message ?? error).slice(0, 2000);
  return {
    code: typeof code === "string" ? code.slice(0, 64) : "internal",
    title: text.slice(0, 200),
    detail: text,
    ...(Array.isArray(refusals) ? { refusals } : {}),
  };
}

function json(value: object): Uint8Array {
  return utf8(JSON.stringify(value));
}
