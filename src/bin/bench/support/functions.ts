// Functions that benchmarks run, and how their output is read.

import { BentoError } from "../../../base/errors.ts";
import type { PackageInput } from "../../../wire/package.ts";

/** Echoes messages until its input ends. */
export const ECHO: Readonly<Record<"deno" | "python", PackageInput>> = {
  deno: {
    manifest: { name: "echo", image: "deno", memory: "64MiB", instances: 64 },
    source: `export default { async invoke(session) {
      for await (const message of session) await session.send(message);
    } };`,
  },
  python: {
    manifest: { name: "echo", image: "python", memory: "32MiB", instances: 64 },
    source: `def echo():
    while True:
        message = api.recv()
        if message is None:
            return
        api.send(message)
`,
  },
};

/** Sends `bytes` bytes that cannot be compressed, in messages of 64 KiB. */
export const BULK: PackageInput = {
  manifest: { name: "bulk", image: "deno", memory: "96MiB" },
  source: `export default { async invoke(session, _env, bytes) {
    const block = crypto.getRandomValues(new Uint8Array(65536));
    for (let sent = 0; sent < bytes; sent += block.length) await session.send(block);
  } };`,
};

export function invocationOf(image: "deno" | "python", name: string): { args: [] } | { call: string } {
  return image === "deno" ? { args: [] } : { call: `${name}()` };
}

export async function firstMessage(messages: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  for await (const message of messages) return message;
  throw new BentoError("benchmark-failed", "Cannot measure: the function said nothing");
}
