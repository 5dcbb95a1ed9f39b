// The way to Deno's inspector of a function that runs on a box of `bento fn dev`: a port of this machine, forwarded into
// the network namespace that the function has for itself. The function stays in its sandbox and gains nothing; whoever
// reaches the port can do what the function could. Host names other than this machine's are refused, so that no web page
// gets there by pointing its own name here.

import { type ChildProcess, spawn } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import path from "node:path";
import { BentoError, systemCode } from "../base/errors.ts";

/** Where the inspector listens inside each sandbox: one function each, so always the same. */
export const INSPECTOR_PORT = 9229;
const HOST = "127.0.0.1";
const CONNECTIONS_MAX = 16;
/** Of the first request, until it has said for which host it is. */
const HEAD_BYTES_MAX = 16 * 1024;
const LOCAL_HOST = /\r\nhost: *(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?\r\n/i;

const RELAY = `const socket = require("node:net").connect(${INSPECTOR_PORT}, "${HOST}");
process.stdin.pipe(socket).pipe(process.stdout);
socket.on("error", () => process.exit(1)).on("close", () => process.exit(0));`;

export class InspectorBridge implements AsyncDisposable {
  readonly #boxPid: number;
  readonly #server: Server;
  readonly #relays = new Map<Socket, ChildProcess | undefined>();

  private constructor(boxPid: number) {
    this.#boxPid = boxPid;
    this.#server = createServer((socket) => this.#accept(socket));
    this.#server.maxConnections = CONNECTIONS_MAX;
  }

  /** Listens on this machine for the inspectors of the functions of the box with this process id. */
  static async open(boxPid: number, port: number): Promise<InspectorBridge> {
    const bridge = new InspectorBridge(boxPid);
    const listening = Promise.withResolvers<void>();
    bridge.#server.once("error", (cause) =>
      listening.reject(
        new BentoError(
          "cannot-listen",
          `Cannot listen at ${HOST}:${port}: ${systemCode(cause) ?? cause.message}`,
          {
            cause,
            advice: "Choose another port: --inspect 9230.",
          },
        ),
      ),
    );
    bridge.#server.listen(port, HOST, () => listening.resolve());
    await listening.promise;
    return bridge;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const [socket, relay] of this.#relays) {
      socket.destroy();
      relay?.kill("SIGKILL");
    }
    await closed;
  }

  #accept(socket: Socket): void {
    this.#relays.set(socket, undefined);
    socket.on("error", () => socket.destroy());
    socket.once("close", () => {
      this.#relays.get(socket)?.kill("SIGKILL");
      this.#relays.delete(socket);
    });
    let head = Buffer.alloc(0);
    const onData = (bytes: Buffer) => {
      head = Buffer.concat([head, bytes]);
      if (!head.includes("\r\n\r\n")) {
        if (head.length > HEAD_BYTES_MAX) socket.destroy();
        return;
      }
      socket.off("data", onData).pause();
      if (LOCAL_HOST.test(head.toString("latin1"))) void this.#forward(socket, head);
      else socket.end("HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    };
    socket.on("data", onData);
  }

  async #forward(socket: Socket, head: Buffer): Promise<void> {
    const pid = await inspectedBelow(this.#boxPid).catch(() => undefined);
    if (pid === undefined || socket.destroyed) {
      socket.destroy();
      return;
    }
    const enter = process.getuid?.() === 0 ? [] : ["--user", "--preserve-credentials"];
    const relay = spawn(
      "nsenter",
      ["--target", String(pid), ...enter, "--net", process.execPath, "-e", RELAY],
      {
        stdio: ["pipe", "pipe", "ignore"],
      },
    );
    this.#relays.set(socket, relay);
    relay.on("error", () => socket.destroy()).once("exit", () => socket.end());
    relay.stdin.on("error", () => socket.destroy());
    relay.stdin.write(head);
    socket.pipe(relay.stdin);
    relay.stdout.pipe(socket);
  }
}

/** The newest process with an inspector among those that a box started. */
async function inspectedBelow(boxPid: number): Promise<number | undefined> {
  const parents = new Map<number, number>();
  const inspected: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const pid = Number(name);
    // Sample: 4711 (deno) S 4700 ...
    const stat = await readFile(`/proc/${pid}/stat`, "latin1").catch(() => "");
    parents.set(pid, Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    const [program = "", ...args] = (await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "")).split(
      "\0",
    );
    if (path.basename(program) === "deno" && args.includes(inspectorFlag())) inspected.push(pid);
  }
  const isBelow = (pid: number): boolean => {
    for (let at = pid, steps = 0; at > 1 && steps < 64; at = parents.get(at) ?? 0, steps++) {
      if (at === boxPid) return true;
    }
    return false;
  };
  return inspected.filter(isBelow).sort((a, b) => b - a)[0];
}

/** What the box gives Deno. */
export function inspectorFlag(): string {
  return `--inspect=${HOST}:${INSPECTOR_PORT}`;
}
