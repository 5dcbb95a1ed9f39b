// A way out for libraries that open sockets themselves (fetch, WebSocket): a SOCKS5 proxy on the sandbox's own
// loopback that carries each connection over the channel. A tunnel, so TLS ends inside the sandbox and names are
// resolved by the box. Not a boundary: without it there is simply no network.

import { BentoError } from "../../base/errors.ts";
import type { Net } from "../function.ts";

/** RFC 1928: version, command CONNECT, "no authentication", and the address types. */
const VERSION = 5;
const CONNECT = 1;
const ADDRESS = { ipv4: 1, name: 3, ipv6: 4 } as const;
const REPLY = { succeeded: 0, failed: 1, notAllowed: 2, unreachable: 4, commandUnsupported: 7 } as const;
const decoder = new TextDecoder();

export interface Bridge {
  /** With the box's reason in the error where the box refused the connection. */
  readonly fetch: typeof globalThis.fetch;
  /** Of the proxy, on 127.0.0.1. */
  readonly port: number;
}

/** Starts the proxy and makes it the runtime's. */
export function bridgeSockets(net: Net): Bridge {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  /** Why a host was refused last. Bounded by starting over. */
  const refusals = new Map<string, unknown>();
  const refused = (host: string, reason: unknown) => {
    if (refusals.size >= 256) refusals.clear();
    refusals.set(host, reason);
  };
  void acceptAll(listener, net, refused);
  // The runtime reads it when it makes its first connection.
  Deno.env.set("ALL_PROXY", `socks5h://127.0.0.1:${listener.addr.port}`);
  const { fetch } = globalThis;
  const explained: typeof fetch = async (...request: Parameters<typeof fetch>) => {
    try {
      return await fetch(...request);
    } catch (error) {
      const host = hostOf(request[0] instanceof Request ? request[0].url : request[0]);
      const reason = refusals.get(host);
      refusals.delete(host);
      if (!(reason instanceof Error) || !(error instanceof TypeError)) throw error;
      throw new TypeError(`Cannot fetch from ${host}: ${reason.message}`, { cause: error });
    }
  };
  return { fetch: explained, port: listener.addr.port };
}

async function acceptAll(
  listener: Deno.TcpListener,
  net: Net,
  refused: (host: string, reason: unknown) => void,
): Promise<void> {
  for await (const socket of listener) {
    serve(socket, net, refused).catch(() => {
      // One broken connection: the library that opened it sees it close.
      try {
        socket.close();
      } catch {}
    });
  }
}

async function serve(
  socket: Deno.TcpConn,
  net: Net,
  refused: (host: string, reason: unknown) => void,
): Promise<void> {
  const target = await readRequest(socket);
  if (!target) {
    await reply(socket, REPLY.commandUnsupported);
    socket.close();
    return;
  }
  let connection: Awaited<ReturnType<Net["connect"]>>;
  try {
    connection = await net.connect(target);
  } catch (error) {
    refused(target.host, error);
    const code: unknown = error instanceof Error ? Reflect.get(error, "code") : undefined;
    await reply(socket, code === "net-refused" ? REPLY.notAllowed : REPLY.unreachable);
    socket.close();
    return;
  }
  await reply(socket, REPLY.succeeded);
  await Promise.all([
    socket.readable.pipeTo(connection.writable),
    connection.readable.pipeTo(socket.writable),
  ]);
}

/** 05 <n> <n methods> -> 05 00; 05 01 00 <type> <address> <port u16>. undefined for another command. */
async function readRequest(socket: Deno.TcpConn): Promise<{ host: string; port: number } | undefined> {
  const [version, methods] = await readExactly(socket, 2);
  if (version !== VERSION || methods === undefined) throw new BentoError("socks", "Cannot serve: not SOCKS5");
  await readExactly(socket, methods);
  await writeAll(socket, Uint8Array.of(VERSION, 0));
  const [, command, , type] = await readExactly(socket, 4);
  const host = await readHost(socket, type);
  const [high = 0, low = 0] = await readExactly(socket, 2);
  return command === CONNECT ? { host, port: high * 256 + low } : undefined;
}

async function readHost(socket: Deno.TcpConn, type: number | undefined): Promise<string> {
  switch (type) {
    case ADDRESS.ipv4:
      return (await readExactly(socket, 4)).join(".");
    case ADDRESS.ipv6: {
      const bytes = await readExactly(socket, 16);
      const groups = Array.from({ length: 8 }, (_, at) =>
        ((bytes[2 * at] ?? 0) * 256 + (bytes[2 * at + 1] ?? 0)).toString(16),
      );
      // In its short form, as it stands in the function's own URLs.
      return hostOf(`http://[${groups.join(":")}]/`);
    }
    case ADDRESS.name: {
      const [length = 0] = await readExactly(socket, 1);
      return decoder.decode(await readExactly(socket, length));
    }
    default:
      throw new BentoError("socks", "Cannot serve: unknown address type");
  }
}

function hostOf(url: string | URL): string {
  return new URL(url).hostname.replace(/^\[(.*)\]$/, "$1");
}

async function reply(socket: Deno.TcpConn, code: number): Promise<void> {
  await writeAll(socket, Uint8Array.of(VERSION, code, 0, ADDRESS.ipv4, 0, 0, 0, 0, 0, 0));
}

async function readExactly(socket: Deno.TcpConn, count: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(count);
  for (let at = 0; at < count; ) {
    const read = await socket.read(bytes.subarray(at));
    if (read === null) throw new BentoError("socks", "Cannot serve: connection ended in its request");
    at += read;
  }
  return bytes;
}

async function writeAll(socket: Deno.TcpConn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) at += await socket.write(bytes.subarray(at));
}
