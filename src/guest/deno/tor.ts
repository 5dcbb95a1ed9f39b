// `env.tor` (function.ts): the calls of spec/tor-firewall 2 as objects. Built from the grant alone: a routine that was not
// granted has no property. Not a boundary: the box checks every call again.

import type { TorGrant } from "../../wire/grant.ts";
import type {
  Tor,
  TorCircuit,
  TorCircuitState,
  TorConnection,
  TorEvent,
  TorEventKind,
  TorHop,
  TorIncoming,
  TorOnion,
  TorRelay,
} from "../function.ts";
import type { HostChannel } from "./channel.ts";
import type { HostStream } from "./stream.ts";

const EVENT_KINDS: readonly TorEventKind[] = ["circuit", "stream", "onion", "bandwidth"];
const HOPS = 3;
const decoderOptions = { stream: true } as const;

export function torOf(channel: HostChannel, grant: TorGrant): Tor {
  const has = (routine: string) => grant.routines.some((granted) => granted === routine);
  return Object.freeze({
    ...(has("circuits") ? { circuits: circuitsOf(channel) } : {}),
    ...(has("streams") ? { streams: streamsOf(channel) } : {}),
    ...(has("onions") ? { onions: onionsOf(channel) } : {}),
    ...(has("events") ? { events: eventsOf(channel) } : {}),
    ...(has("directory") ? { directory: directoryOf(channel) } : {}),
  });
}

function circuitsOf(channel: HostChannel): NonNullable<Tor["circuits"]> {
  return Object.freeze({
    async build(hops: number | readonly TorHop[] = HOPS): Promise<TorCircuit> {
      const wished: readonly TorHop[] =
        typeof hops === "number"
          ? Array.from({ length: hops }, (_, index) => (index === 0 ? null : {}))
          : hops;
      const { circuit } = (await channel.call("tor.launch", { hops: wished })) as { circuit: number };
      const state = (await channel.call("tor.built", { circuit })) as TorCircuitState;
      return circuitOf(channel, state);
    },
    async list() {
      return await Array.fromAsync(linesOf<TorCircuitState>(channel, "tor.circuits", {}));
    },
  });
}

function circuitOf(channel: HostChannel, { circuit, ...built }: TorCircuitState): TorCircuit {
  let { path } = built;
  const close = async () => {
    await channel.call("tor.close", { circuit });
  };
  return Object.freeze({
    id: circuit,
    get path() {
      return path;
    },
    async extend(hops: readonly TorHop[]) {
      await channel.call("tor.extend", { circuit, hops });
      ({ path } = (await channel.call("tor.built", { circuit })) as TorCircuitState);
    },
    close,
    async [Symbol.asyncDispose]() {
      // It may have ended by itself.
      await close().catch(() => undefined);
    },
  });
}

function streamsOf(channel: HostChannel): NonNullable<Tor["streams"]> {
  return Object.freeze({
    async connect(target: { host: string; port: number; circuit?: TorCircuit; isolation?: string }) {
      const { host, port } = target;
      const { answer, stream } = channel.open("tor.connect", { host, port, ...placeOf(target) }, "both");
      const { stream: id } = (await answer) as { stream: number };
      return connectionOf(stream, { id });
    },
    async resolve(host: string, options: { circuit?: TorCircuit; isolation?: string } = {}) {
      const answer = await channel.call("tor.resolve", { host, ...placeOf(options) });
      return (answer as { address: string }).address;
    },
  });
}

function placeOf({ circuit, isolation }: { circuit?: TorCircuit; isolation?: string }): object {
  return {
    ...(circuit === undefined ? {} : { circuit: circuit.id }),
    ...(isolation === undefined ? {} : { isolation }),
  };
}

function connectionOf<Extra extends object>(
  stream: HostStream,
  extra: Extra,
): Extra & Omit<TorConnection, "id"> {
  return Object.freeze({
    ...extra,
    readable: stream.readable,
    writable: stream.writable,
    closed: stream.closed,
    async close() {
      stream.close();
    },
  });
}

function onionsOf(channel: HostChannel): NonNullable<Tor["onions"]> {
  return Object.freeze({
    async open(options: object): Promise<TorOnion> {
      const opened = await channel.call("tor.onion.open", options);
      const { onion, address, key } = opened as { onion: number; address: string; key: string | null };
      let isClosed = false;
      const close = async () => {
        isClosed = true;
        await channel.call("tor.onion.close", { onion });
      };
      return Object.freeze({
        id: onion,
        address,
        key,
        async published() {
          await channel.call("tor.onion.published", { onion });
        },
        close,
        async [Symbol.asyncDispose]() {
          await close().catch(() => undefined);
        },
        async *[Symbol.asyncIterator](): AsyncGenerator<TorIncoming> {
          for (;;) {
            const { answer, stream } = channel.open("tor.onion.accept", { onion }, "both");
            let incoming: { stream: number; port: number };
            try {
              incoming = (await answer) as typeof incoming;
            } catch (error) {
              if (isClosed) return;
              throw error;
            }
            yield connectionOf(stream, { id: incoming.stream, port: incoming.port });
          }
        },
      });
    },
  });
}

function eventsOf(channel: HostChannel): NonNullable<Tor["events"]> {
  return Object.freeze({
    watch(kinds: readonly TorEventKind[] = EVENT_KINDS): AsyncIterable<TorEvent> {
      // At once: what happens after this call is told, whenever the loop begins.
      return linesOf<TorEvent>(channel, "tor.watch", { kinds });
    },
  });
}

function directoryOf(channel: HostChannel): NonNullable<Tor["directory"]> {
  return Object.freeze({
    relays(filter: object = {}): AsyncIterable<TorRelay> {
      return linesOf<TorRelay>(channel, "tor.relays", filter);
    },
    async descriptor(fingerprint: string) {
      return ((await channel.call("tor.descriptor", { fingerprint })) as { text: string | null }).text;
    },
  });
}

/** The objects that a call sends, one a line. Leaving the loop drops the call. */
function linesOf<T>(channel: HostChannel, method: string, params: object): AsyncIterable<T> {
  const { answer, stream } = channel.open(method, params, "in");
  answer.catch(() => {
    // The loop gets it.
  });
  return {
    async *[Symbol.asyncIterator]() {
      const decoder = new TextDecoder();
      let text = "";
      try {
        await answer;
        for await (const chunk of stream.readable) {
          const lines = (text + decoder.decode(chunk, decoderOptions)).split("\n");
          text = lines.pop() ?? "";
          for (const line of lines) yield JSON.parse(line) as T;
        }
      } finally {
        stream.close();
      }
    },
  };
}
