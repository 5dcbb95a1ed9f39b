// The site that all columns serve: an HTTP server that answers every request with the same number of bytes. It is a
// process of its own, so that whoever measures is not slowed down by it.
// argv: host, and bytes for requests that name none ("/", "/N" for N bytes). Writes its port and "\n"; ends when stdin does.

import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

const [host = "127.0.0.1", normal = "0"] = process.argv.slice(2);
const CHUNK = randomBytes(65_536);

const server = createServer((request, response) => {
  const byteCount = Number(/^\/([0-9]+)$/u.exec(request.url ?? "")?.[1] ?? normal);
  response.writeHead(200, { "Content-Type": "application/octet-stream", "Content-Length": byteCount });
  let left = byteCount;
  const more = () => {
    while (left > 0) {
      const chunk = CHUNK.subarray(0, Math.min(left, CHUNK.length));
      left -= chunk.length;
      if (!response.write(chunk)) {
        response.once("drain", more);
        return;
      }
    }
    response.end();
  };
  more();
});
server.listen(0, host, () => {
  process.stdout.write(`${(server.address() as AddressInfo).port}\n`);
});
process.stdin.once("close", () => process.exit(0)).resume();
