// The 2021 behaviour as a yardstick: starts the Python stand-in for that release's process model and makes the
// three requests of its client, one after the other (docs/spec/protocol-2021.md).

import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { ByteQueue } from "../../base/byte-queue.ts";
import { assert } from "../../base/errors.ts";

const [STORE, EXECUTE, OPEN] = [0, 1, 2];
const DATA = 4;

/** A running stand-in. It ends with its standard input, so it cannot outlive us. */
export class Reference2021 implements AsyncDisposable {
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly port: number;

  private constructor(process: ChildProcessByStdio<Writable, Readable, null>, port: number) {
    this.#process = process;
    this.port = port;
  }

  static async start(): Promise<Reference2021> {
    const script = fileURLToPath(new URL("reference_2021.py", import.meta.url));
    const process = spawn("/usr/bin/python3", [script], { stdio: ["pipe", "pipe", "inherit"] });
    const [line] = (await once(process.stdout, "data")) as [Buffer];
    return new Reference2021(process, Number(line.toString().trim()));
  }

  /** Stores `code`, executes `call`, opens the session and returns its first message. */
  async storeExecuteOpen(code: string, call: string): Promise<Buffer> {
    const socket = connect({ host: "127.0.0.1", port: this.port, noDelay: true });
    try {
      await once(socket, "connect");
      const read = reader(socket);
      const answer = async (type: number, body: string): Promise<string> => {
        socket.write(request(type, body));
        const header = await read(6);
        return (await read(header.readUInt32BE(2))).toString();
      };
      const token = await answer(STORE, JSON.stringify({ name: "hello", code }));
      const run = await answer(EXECUTE, JSON.stringify({ call, token }));
      socket.write(request(OPEN, run));
      const header = await read(5);
      assert(header[0] === DATA, "reference sent something else than data");
      return (await read(header.readUInt32BE(1))).subarray(36);
    } finally {
      socket.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const exited = this.#process.exitCode === null ? once(this.#process, "exit") : undefined;
    this.#process.stdin.end();
    await exited;
  }
}

function request(type: number, body: string): Buffer {
  const payload = Buffer.from(body);
  const header = Buffer.alloc(5);
  header.writeUInt8(type);
  header.writeUInt32BE(payload.length, 1);
  return Buffer.concat([header, payload]);
}

function reader(socket: Socket): (count: number) => Promise<Buffer> {
  const held = new ByteQueue();
  const chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer, undefined>;
  return async (count) => {
    for (;;) {
      const taken = held.take(count);
      if (taken) return Buffer.from(taken);
      const next = await chunks.next();
      assert(next.done !== true, "reference closed the connection");
      held.push(next.value);
    }
  };
}
