// What answers the streams of an onion service of ours in tests and experiments: a TCP server, byte for byte both ways.

import { connect, type TcpNetConnectOpts } from "node:net";
import type { IncomingStream } from "../../src/onion/circuit/circuit.ts";

/** Takes the stream and joins it to a connection of its own to `target`. */
export function serveTcp(incoming: IncomingStream, target: TcpNetConnectOpts): void {
  const socket = connect(target);
  const stream = incoming.accept();
  socket.on("error", () => socket.destroy());
  void (async () => {
    for await (const bytes of stream) socket.write(bytes);
    socket.end();
  })().catch(() => socket.destroy());
  void (async () => {
    for await (const bytes of socket) await stream.write(bytes as Uint8Array);
    stream.close();
  })().catch(() => {
    stream.close();
  });
}
