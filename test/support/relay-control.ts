// The control port of a relay that exists only on paper: says which exit policy, addresses and listeners it has, so
// that a box has a companion without a Tor network. control-spec 3.

import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";

export interface PaperRelay extends AsyncDisposable {
  /** `127.0.0.1:port`, for `relay.control`. */
  readonly control: string;
}

export async function startPaperRelay(facts: {
  readonly exit: readonly string[];
  /** Where it claims to take connections of other relays: `address:port`. */
  readonly orListeners: readonly string[];
}): Promise<PaperRelay> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    let text = "";
    socket.on("error", () => undefined); // the box may be killed
    socket.on("data", (bytes: Buffer) => {
      text += bytes.toString();
      for (let end = text.indexOf("\r\n"); end >= 0; end = text.indexOf("\r\n")) {
        socket.write(answerTo(text.slice(0, end)));
        text = text.slice(end + 2);
      }
    });
  });
  const values: Readonly<Record<string, string>> = {
    "net/listeners/or": facts.orListeners.map((each) => `"${each}"`).join(" "),
    fingerprint: "A".repeat(40),
  };
  const answerTo = (line: string): string => {
    const [command, key = ""] = line.split(" ");
    if (command === "PROTOCOLINFO")
      return '250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor="0.4.9.11"\r\n250 OK\r\n';
    if (command !== "GETINFO") return "250 OK\r\n";
    if (key === "exit-policy/full") return `250+${key}=\r\n${facts.exit.join("\r\n")}\r\n.\r\n250 OK\r\n`;
    const value = values[key];
    return value === undefined ? `552 Unrecognized key "${key}"\r\n` : `250-${key}=${value}\r\n250 OK\r\n`;
  };
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    control: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
