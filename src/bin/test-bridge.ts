// The harness of function tests for Python: requests on standard input, answers on standard output, one JSON value a
// line, in order. Started by client/author/bento_testing.py below `bento fn test`; both ends are the author's.
//
//   {"do":"install"}                                -> {"function":1}
//   {"do":"start","function":1,"call":"hello()"}    -> {"session":1}
//   {"do":"send","session":1,"base64":"aGk="}       -> {}
//   {"do":"receive","session":1}                    -> {"base64":"..."} or {"ended":{"kind":"returned"}}
//   {"do":"logs","function":1}                      -> {"lines":[{"level":"info","text":"hi"}]}
//   {"do":"serve","pages":{"/":"hi"}}               -> {"site":1,"url":"http://..."}; {"do":"close-site","site":1}
//   {"do":"end-input"|"stop","session":1}, {"do":"remove","function":1}  -> {}
//   whatever fails                                  -> {"error":"..."}

import { createInterface } from "node:readline";
import { z } from "zod";
import { messageOf } from "../base/errors.ts";
import { install, serve } from "../client/author/testing.ts";
import type { Call, Installed, Running, Site } from "../client/author/testing-api.d.ts";

const id = z.int().positive();
const request = z.discriminatedUnion("do", [
  z.strictObject({ do: z.literal("install"), fn: z.string().optional() }),
  z.strictObject({
    do: z.literal("start"),
    function: id,
    args: z.array(z.json()).optional(),
    call: z.string().optional(),
  }),
  z.strictObject({ do: z.literal("send"), session: id, base64: z.string() }),
  z.strictObject({ do: z.enum(["receive", "end-input", "stop"]), session: id }),
  z.strictObject({ do: z.enum(["logs", "remove"]), function: id }),
  z.strictObject({ do: z.literal("serve"), pages: z.record(z.string(), z.string()) }),
  z.strictObject({ do: z.literal("close-site"), site: id }),
]);

const functions = new Map<number, Installed>();
const sites = new Map<number, Site>();
const sessions = new Map<number, Running>();

async function perform(line: string): Promise<Readonly<Record<string, unknown>>> {
  const asked = request.parse(JSON.parse(line));
  switch (asked.do) {
    case "install":
      return { function: keep(functions, await install(asked.fn)) };
    case "start": {
      const call = { args: asked.args, call: asked.call } as Call;
      return { session: keep(sessions, await known(functions, asked.function).start(call)) };
    }
    case "send":
      await known(sessions, asked.session).send(Buffer.from(asked.base64, "base64"));
      return {};
    case "receive": {
      const running = known(sessions, asked.session);
      const bytes = await running.receiveBytes();
      if (bytes === undefined) return { ended: await running.ended };
      return { base64: Buffer.from(bytes).toString("base64") };
    }
    case "end-input":
      await known(sessions, asked.session).endInput();
      return {};
    case "stop":
      await take(sessions, asked.session)[Symbol.asyncDispose]();
      return {};
    case "logs":
      return { lines: await known(functions, asked.function).logs() };
    case "serve": {
      const site = await serve(asked.pages);
      return { site: keep(sites, site), url: site.url };
    }
    case "close-site":
      await take(sites, asked.site)[Symbol.asyncDispose]();
      return {};
    case "remove":
      await take(functions, asked.function)[Symbol.asyncDispose]();
      return {};
  }
}

let last = 0;
function keep<T>(into: Map<number, T>, value: T): number {
  into.set(++last, value);
  return last;
}

function known<T>(among: ReadonlyMap<number, T>, key: number): T {
  const value = among.get(key);
  if (value === undefined) throw new Error(`there is no ${key}, or no more`);
  return value;
}

function take<T>(among: Map<number, T>, key: number): T {
  const value = known(among, key);
  among.delete(key);
  return value;
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await perform(line).catch((error: unknown) => ({ error: messageOf(error) }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await Promise.allSettled([...functions.values()].map((each) => each[Symbol.asyncDispose]()));
