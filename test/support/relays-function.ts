// A function that speaks Tor's protocol through links of its box (`env.relays`), for tests: what it does is its first
// argument. Bundled and run in a real sandbox.

import { defineFunction, type Env, type Json, type Session } from "#bento/function";
import { CircuitBuilder } from "../../src/onion/circuit-builder.ts";
import { authoritiesOf } from "../../src/onion/directory/authorities.ts";
import { fetchNetwork } from "../../src/onion/directory/directory-client.ts";
import type { Network, Relay } from "../../src/onion/directory/network.ts";
import { fromHex } from "../../src/onion/fields.ts";
import { openGrantedLink } from "../../src/onion/link/stream-link.ts";
import { Paths } from "../../src/onion/paths.ts";

type Relays = NonNullable<Env["relays"]>;
const signal = () => AbortSignal.timeout(60_000);
const CELL_BYTES = 514;
const rules = { distinctSubnets: false };

export default defineFunction({
  async invoke(session: Session, env: Env, ...args: Json[]) {
    const [what = "", ...rest] = args.map((arg) => (typeof arg === "string" ? arg : JSON.stringify(arg)));
    const say = (value: Json) => session.send(JSON.stringify(value));
    if (!env.relays) return say("no relays");
    switch (what) {
      case "fetch":
        return fetchThrough(env.relays, say, rest);
      case "cells":
        return sendCells(env.relays, say, rest);
      case "open":
        return openAll(session, env.relays, say, rest);
      default:
        throw new Error(`unknown: ${what}`);
    }
  },
});

async function bootstrap(relays: Relays): Promise<{ network: Network; builder: CircuitBuilder; own: Relay }> {
  const { own, directories, authorities } = await relays.network();
  const first = own ?? directories[0];
  if (!first) throw new Error("no directory");
  const builder = new CircuitBuilder((relay, options) => openGrantedLink(relays, relay, options.signal));
  const directory = await builder.buildToDirectory(
    {
      host: first.host,
      port: first.port,
      identity: { rsa: fromHex(first.fingerprint), ed25519: fromHex(first.ed25519) },
    },
    signal(),
  );
  const network = await fetchNetwork(directory, {
    authorities: authoritiesOf(authorities),
    nowMs: Date.now(),
    signal: signal(),
  });
  const relay = network.relay(first.fingerprint);
  if (!relay) throw new Error("the own relay is not in the network");
  return { network, builder, own: relay };
}

/** The network, then what a web server says through three relays, `times` over; how many bytes, and in what time. */
async function fetchThrough(
  relays: Relays,
  say: (value: Json) => Promise<void>,
  [host = "", port = "0", times = "1"]: readonly string[],
): Promise<void> {
  const { network, builder, own } = await bootstrap(relays);
  using open = builder;
  const paths = new Paths({ network, rules, firstHop: own });
  const circuit = await open.build(paths.toExit(Number(port)), { signal: signal() });
  await say({ relays: network.relays.length, first: own.fingerprint });
  for (let time = 0; time < Number(times); time++) {
    const startedMs = performance.now();
    const stream = circuit.openStream(host, Number(port));
    await stream.write(new TextEncoder().encode(`GET / HTTP/1.0\r\nHost: ${host}\r\n\r\n`));
    let bytes = 0;
    let tail = "";
    for await (const part of stream) {
      bytes += part.length;
      tail = new TextDecoder("latin1").decode(part.slice(-100));
    }
    await say({ bytes, tail, ms: performance.now() - startedMs });
  }
}

/** Writes these bytes (hex) on a new link, each as one chunk, and says whether `wanted` cells came back or how the link ended. */
async function sendCells(
  relays: Relays,
  say: (value: Json) => Promise<void>,
  [fingerprint = "", wanted = "1", ...chunks]: readonly string[],
): Promise<void> {
  const link = await relays.link(fingerprint);
  const writer = link.writable.getWriter();
  const reader = link.readable.getReader();
  for (const chunk of chunks) await writer.write(fromHex(chunk)).catch(() => undefined);
  let received = 0;
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      received += part.value.length;
      if (received >= Number(wanted) * CELL_BYTES) break;
    }
    await say({ ended: "nothing", received });
  } catch (error) {
    await say({ ended: codeOf(error), received });
  }
}

/** Opens links to these one after the other and keeps them, until the input ends. */
async function openAll(
  session: Session,
  relays: Relays,
  say: (value: Json) => Promise<void>,
  fingerprints: readonly string[],
): Promise<void> {
  for (const fingerprint of fingerprints) {
    try {
      const { version, ed25519 } = await relays.link(fingerprint);
      await say({ version, ed25519 });
    } catch (error) {
      await say(codeOf(error));
    }
  }
  await say("all");
  for await (const _ of session) continue;
}

function codeOf(error: unknown): string {
  return error instanceof Error ? String(Reflect.get(error, "code") ?? error.message) : String(error);
}
