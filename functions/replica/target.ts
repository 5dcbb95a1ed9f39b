// A client's stream joined to a TCP connection of the replica's box: each side as fast as the other takes, and both
// directions end by themselves where TCP does. Tor's streams end both ways at once: our end is theirs.

import type { Net } from "bento/function";
import type { ByteStream } from "./http-server.ts";

/** Resolves when both are over. Rejects with what `connect` says, or when either side broke. Closes both. */
export async function joinTarget(
  stream: ByteStream,
  net: Net,
  target: { readonly host: string; readonly port: number },
): Promise<void> {
  try {
    const connection = await net.connect(target);
    try {
      const up = sendUp(stream, connection.writable);
      up.catch(() => undefined);
      for await (const bytes of connection.readable) await stream.write(bytes);
      // The target is done: so is the stream, and whatever the client still says has nowhere to go.
    } finally {
      await connection.close();
    }
  } finally {
    stream.close();
  }
}

async function sendUp(stream: ByteStream, writable: WritableStream<Uint8Array>): Promise<void> {
  const writer = writable.getWriter();
  try {
    for (let bytes = await stream.read({}); bytes; bytes = await stream.read({})) await writer.write(bytes);
    await writer.close();
  } catch (error) {
    await writer.abort(error);
  }
}
