// The yardstick of transfers through Tor: plain HTTP, to and from a server behind the same relay.

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { BentoError } from "../../../base/errors.ts";
import type { Dial } from "../../../client/client.ts";

/** Answers GET with `bytes` that cannot be compressed, and POST with how many it received. */
export class PlainServer implements AsyncDisposable {
  readonly host: string;
  readonly port: number;
  readonly bytes: number;
  readonly #close: () => Promise<void>;

  private constructor(host: string, port: number, bytes: number, close: () => Promise<void>) {
    this.host = host;
    this.port = port;
    this.bytes = bytes;
    this.#close = close;
  }

  static async start(host: string, bytes: number): Promise<PlainServer> {
    const body = randomBytes(bytes);
    const server = createServer({ noDelay: true }, (request, response) => {
      if (request.method !== "POST") {
        response.end(body);
        return;
      }
      let received = 0;
      request.on("data", (chunk: Buffer) => {
        received += chunk.length;
      });
      request.on("end", () => response.end(`received ${received}`));
    });
    server.listen(0, host);
    await once(server, "listening");
    return new PlainServer(host, (server.address() as AddressInfo).port, bytes, async () => {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    });
  }

  async download(dial: Dial, isolation: string, signal: AbortSignal): Promise<void> {
    const request = Buffer.from(`GET / HTTP/1.1\r\nHost: ${this.host}\r\nConnection: close\r\n\r\n`);
    const stream = await dial(this, { isolation, firstBytes: request, signal });
    let received = 0;
    try {
      for await (const chunk of stream as AsyncIterable<Uint8Array>) received += chunk.length;
    } finally {
      stream.destroy();
    }
    checkTransfer(received, this.bytes);
  }

  async upload(dial: Dial, isolation: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    const head = Buffer.from(
      `POST / HTTP/1.1\r\nHost: ${this.host}\r\nContent-Length: ${bytes.length}\r\nConnection: close\r\n\r\n`,
    );
    const stream = await dial(this, { isolation, firstBytes: head, signal });
    let answer = "";
    try {
      stream.write(bytes);
      for await (const chunk of stream as AsyncIterable<Uint8Array>)
        answer += Buffer.from(chunk).toString("latin1");
    } finally {
      stream.destroy();
    }
    checkTransfer(Number(/received (\d+)/.exec(answer)?.[1] ?? 0), bytes.length);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }
}

/** Throws "benchmark-failed" when less came than was sent. */
export function checkTransfer(received: number, wanted: number): void {
  if (received >= wanted) return;
  throw new BentoError("benchmark-failed", `Cannot measure: ${received} of ${wanted} bytes came`);
}
