// What a ready instance begins with: a function that the box comes with, loaded and prepared before anybody asks for it
// (spec/guest 1.1). Its process is as single use as any other; what was loaded is the same for everybody.

import type { Connection, FunctionDefinition, Net } from "../function.ts";
import { READY_GLOBAL } from "../images.ts";
import { type Bridge, bridgeSockets } from "./socks.ts";
import { HostError } from "./window.ts";

export type FunctionModule = { readonly default?: unknown };

/** As build.ts writes it. */
interface ReadyStart {
  readonly load: () => Promise<FunctionModule>;
  /** Whether the function will have `fetch`. */
  readonly bridges: boolean;
}

export interface Ready {
  readonly module: FunctionModule;
  /** bridgeSockets, with the listening and the first request done. */
  readonly bridge: ((net: Net) => Bridge) | undefined;
}

/** Loads and prepares the function of a ready instance; undefined in all others. */
export async function loadReady(): Promise<Ready | undefined> {
  const start = Reflect.get(globalThis, READY_GLOBAL) as ReadyStart | undefined;
  Reflect.deleteProperty(globalThis, READY_GLOBAL);
  if (!start) return undefined;
  const module = await start.load();
  const definition = module.default as Partial<FunctionDefinition> | undefined;
  await definition?.prepare?.();
  return { module, bridge: start.bridges ? await readyBridge() : undefined };
}

const ANSWER = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

/** Until it is led somewhere nothing can be reached through it. */
async function readyBridge(): Promise<(net: Net) => Bridge> {
  const nowhere = () =>
    Promise.reject(new HostError("net-refused", "Cannot connect: no connections were granted"));
  let connect: Net["connect"] = async () => rehearsedConnection();
  const bridge = bridgeSockets({ connect: (target) => connect(target) });
  try {
    await (await bridge.fetch("http://page.invalid/")).bytes();
  } finally {
    connect = nowhere;
  }
  return (net) => {
    connect = (target) => net.connect(target);
    return bridge;
  };
}

/** Takes what is written and answers as a web server does. */
function rehearsedConnection(): Connection {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>({
    start(controller) {
      controller.enqueue(new TextEncoder().encode(ANSWER));
    },
    transform() {
      // The request: whatever it says, there is one answer.
    },
  });
  return { readable, writable, closed: Promise.resolve(), close: async () => undefined };
}
