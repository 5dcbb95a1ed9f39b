// The function's env (function.ts), built from the grant alone: what was not granted has no property.

import type { Grant } from "../../wire/grant.ts";
import { GUEST_FRAME } from "../../wire/guest-frame.ts";
import { Limits } from "../../wire/limits.ts";
import type { Box, Connection, Env, FunctionLog, Json, Net, Storage, StoredValue } from "../function.ts";
import { bentoOf } from "./bento.ts";
import type { HostChannel } from "./channel.ts";
import { chromiumOf } from "./chromium.ts";
import { relaysOf } from "./relays.ts";
import type { Bridge } from "./socks.ts";
import { torOf } from "./tor.ts";

const encoder = new TextEncoder();

/** As SessionState's. */
type InOrder = <T>(queue: () => Promise<T>) => Promise<T>;

/** @param bridge gives fetch and WebSocket a way out, if they get one: needs sockets on the sandbox's loopback. */
export function envOf(
  channel: HostChannel,
  grant: Grant,
  bridge: ((net: Net) => Bridge) | undefined,
  log: FunctionLog,
  inOrder: InOrder,
): Env {
  const net = grant.net ? netOf(channel) : undefined;
  const way = net && bridge ? bridge(net) : undefined;
  return Object.freeze({
    log,
    ...(net ? { net } : {}),
    ...(way ? { fetch: way.fetch } : {}),
    ...(grant.image === "chromium" ? { chromium: chromiumOf(way?.port) } : {}),
    ...(grant.storage ? { storage: storageOf(channel, inOrder) } : {}),
    ...(grant.tor ? { tor: torOf(channel, grant.tor) } : {}),
    ...(grant.relays ? { relays: relaysOf(channel) } : {}),
    ...(grant.bento ? { bento: bentoOf(channel) } : {}),
    ...(grant.box.length > 0 ? { box: boxOf(channel) } : {}),
    self: Object.freeze({
      async remove() {
        await channel.call("self.remove", {});
      },
    }),
  });
}

function netOf(channel: HostChannel): Net {
  return Object.freeze({
    async connect({ host, port }: { host: string; port: number }): Promise<Connection> {
      const { answer, stream } = channel.open("net.connect", { host, port }, "both");
      await answer;
      return Object.freeze({
        readable: stream.readable,
        writable: stream.writable,
        closed: stream.closed,
        async close() {
          stream.close();
        },
      });
    },
  });
}

function storageOf(channel: HostChannel, inOrder: InOrder): Storage {
  return Object.freeze({
    async put(
      key: string,
      value: string | Uint8Array | AsyncIterable<Uint8Array>,
      options: { create?: boolean } = {},
    ) {
      const { answer, stream } = channel.open("storage.put", { key, create: options.create ?? false }, "out");
      // Refusals arrive while the value is still on its way: the box's reason counts, not the broken stream.
      const sent = (async () => {
        if (typeof value === "string") await stream.write(encoder.encode(value));
        else if (value instanceof Uint8Array) await stream.write(value);
        else for await (const part of value) await stream.write(part);
        stream.end();
      })();
      sent.catch(() => stream.close());
      const stored = answer as Promise<{ bytes: number }>;
      await Promise.race([stored, sent]);
      return await stored;
    },
    async get(key: string, options: { offset?: number } = {}): Promise<StoredValue | undefined> {
      const { answer, stream } = channel.open("storage.get", { key, offset: options.offset ?? 0 }, "in");
      const found = (await answer) as { bytes: number } | null;
      if (!found) {
        stream.close();
        return undefined;
      }
      const bytes = () => new Response(stream.readable).bytes();
      return Object.freeze({
        size: found.bytes,
        readable: stream.readable,
        bytes,
        text: () => new Response(stream.readable).text(),
      });
    },
    async send(key: string, range: { offset?: number; bytes?: number } = {}) {
      const { offset = 0, bytes } = range;
      const params = { key, offset, ...(bytes === undefined ? {} : { bytes }) };
      const sent = (await inOrder(() => channel.call("storage.send", params))) as { bytes: number } | null;
      return sent?.bytes;
    },
    async delete(key: string) {
      return (await channel.call("storage.delete", { key })) === true;
    },
    async *list(options: { prefix?: string } = {}) {
      const prefix = options.prefix ?? "";
      let after: string | undefined;
      for (;;) {
        const params = { prefix, limit: Limits.storageListMax, ...(after === undefined ? {} : { after }) };
        const page = (await channel.call("storage.list", params)) as {
          keys: { key: string; bytes: number }[];
          more: boolean;
        };
        yield* page.keys;
        after = page.keys.at(-1)?.key;
        if (!page.more || after === undefined) return;
      }
    },
  });
}

function boxOf(channel: HostChannel): Box {
  return Object.freeze({
    facts: async () => (await channel.call("box.facts", {})) as { [name: string]: Json },
  });
}

/** Lines leave at once; when the box does not keep up they are dropped, never queued without bound. */
export function logOf(channel: HostChannel): FunctionLog {
  const line = (level: string) => (text: unknown) => {
    if (channel.queuedBytes > Limits.streamWindowBytes) return;
    const cut = String(text).slice(0, Limits.logTextBytesMax);
    channel.sendJson(GUEST_FRAME.log, 0, { level, text: cut });
  };
  return Object.freeze({
    debug: line("debug"),
    info: line("info"),
    warn: line("warn"),
    error: line("error"),
  });
}
