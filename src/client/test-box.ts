// A small box for the client's tests: real HTTP and WebSocket on loopback, written from wire alone. Its functions
// are scripts of the test. It counts connections and can break them, so that resuming can be shown.

import http from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { type WebSocket, WebSocketServer } from "ws";
import { Channel } from "../base/channel.ts";
import { type Info, type Listing, MEDIA, type Outcome, PATHS, type Stored } from "../wire/api.ts";
import { BoxError, problemOf } from "../wire/error-code.ts";
import { grant } from "../wire/grant.ts";
import { parseSentPackage, sourceHash } from "../wire/package.ts";
import type { Policy } from "../wire/policy.ts";
import {
  type BoxFrame,
  type ClientFrame,
  decodeClientFrame,
  encodeBoxFrame,
  FrameSplitter,
  prefixLength,
  type Start,
} from "../wire/session-frame.ts";
import {
  type InstanceId,
  newInstanceId,
  newInvocationToken,
  newShutdownToken,
  parseInstanceId,
} from "../wire/token.ts";

const MIB = 2 ** 20;

export const TEST_POLICY: Policy = {
  version: 1,
  store: true,
  images: ["deno", "python"],
  isolation: "process",
  syscalls: ["fork", "files", "loopback"],
  net: { exit: ["accept *:*"], connections: 16, bytes: 64 * MIB },
  bento: null,
  tor: null,
  relays: null,
  storage: { bytes: 16 * MIB },
  box: ["load"],
  packageBytes: 4 * MIB,
  function: {
    memoryBytes: 256 * MIB,
    cpuPercent: 100,
    pids: 64,
    tmpBytes: 16 * MIB,
    instances: 64,
    lifetimeMs: 86_400_000,
    runtimeMs: 3_600_000,
    backlogBytes: 4 * MIB,
  },
  total: {
    functions: 100,
    instances: 10,
    memoryBytes: 1024 * MIB,
    cpuPercent: 200,
    storageBytes: 1024 * MIB,
  },
};

/** What a scripted function sees. */
export interface TestCall {
  readonly start: Start;
  readonly input: AsyncIterable<Uint8Array>;
  output(bytes: Uint8Array, last?: boolean): void;
  /** Breaks the connection of the attached client, as a dying circuit does. */
  breakConnection(): void;
  /** Resolves when the client has acknowledged `offset`. */
  acknowledged(offset: number): Promise<void>;
}

export type TestScript = (call: TestCall) => Promise<Outcome>;

export interface TestBoxOptions {
  readonly script?: TestScript;
  readonly policy?: Policy;
  /** Sources that it comes with, by hash. */
  readonly bundled?: Readonly<Record<string, string>>;
  /** Takes over a request completely: for hostile answers. Returns true when it did. */
  readonly intercept?: (request: http.IncomingMessage, response: http.ServerResponse) => boolean;
}

const echoScript: TestScript = async (call) => {
  const { invocation } = call.start;
  const text = "call" in invocation ? invocation.call : JSON.stringify(invocation.args);
  call.output(Buffer.from(text));
  return { kind: "returned" };
};

class TestInstance {
  readonly id = newInstanceId();
  readonly input = new Channel<Uint8Array>(100);
  history: BoxFrame[] = [];
  bytes = 0;
  acked = 0;
  outcome: Outcome | undefined;
  send: ((frame: BoxFrame) => void) | undefined;
  drop: (() => void) | undefined;
  wake = new Set<() => void>();

  output(bytes: Uint8Array, last: boolean): void {
    const frame: BoxFrame = { kind: "output", offset: this.bytes, bytes, last };
    this.bytes += bytes.length;
    this.history.push(frame);
    this.send?.(frame);
  }

  attach(
    offset: number,
    stored: Stored | undefined,
    send: (frame: BoxFrame) => void,
    drop: () => void,
  ): void {
    // spec/wire 6: whoever attaches takes over.
    const takenOver = new BoxError("taken-over", "Another client attached to this instance");
    this.send?.({ kind: "problem", problem: problemOf(takenOver) });
    this.send = send;
    this.drop = drop;
    send({ kind: "attached", attached: { instance: this.id, offset, ...(stored ? { stored } : {}) } });
    for (const frame of this.history) {
      if (frame.kind !== "output" || frame.offset + frame.bytes.length <= offset) continue;
      const skip = Math.max(0, offset - frame.offset);
      send({ ...frame, offset: frame.offset + skip, bytes: frame.bytes.subarray(skip) });
    }
    if (this.outcome) send({ kind: "ended", outcome: this.outcome });
  }

  /** The connection of whoever was given `send` is gone. */
  left(send: (frame: BoxFrame) => void): void {
    if (this.send === send) this.send = undefined;
  }

  handle(frame: ClientFrame): void {
    if (frame.kind === "input") this.input.push(frame.bytes);
    if (frame.kind === "input-end") this.input.close();
    if (frame.kind === "ack") {
      this.acked = frame.offset;
      for (const wake of this.wake) wake();
    }
  }

  async acknowledged(offset: number): Promise<void> {
    while (this.acked < offset) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.wake.add(resolve);
      await promise;
      this.wake.delete(resolve);
    }
  }
}

export class TestBox implements AsyncDisposable {
  connections = 0;
  readonly requests: string[] = [];
  readonly instances = new Map<InstanceId, TestInstance>();
  readonly #options: TestBoxOptions;
  readonly #functions = new Map<string, Start["package"]>();
  /** Shutdown token -> invocation token, and the instances that `run` started with them. */
  readonly #owned = new Map<string, { readonly token: string; readonly instances: TestInstance[] }>();
  readonly #sockets = new Set<Socket>();
  readonly #server: http.Server;
  readonly #upgrades = new WebSocketServer({ noServer: true });

  private constructor(options: TestBoxOptions) {
    this.#options = options;
    this.#server = http.createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => {
        if (response.headersSent) response.destroy();
        else this.#problem(response, error);
      });
    });
    this.#server.on("connection", (socket: Socket) => {
      this.connections++;
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
    });
    this.#server.on("upgrade", (request: http.IncomingMessage, socket: Socket, head) => {
      this.requests.push(`GET ${request.url ?? ""}`);
      const instance = this.instances.get(bearer(request) as InstanceId);
      if (!instance) {
        const body = JSON.stringify(problemOf(new BoxError("bad-token", "Cannot attach: unknown instance")));
        socket.end(
          `HTTP/1.1 403 Forbidden\r\ncontent-type: ${MEDIA.problem}\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
        );
        return;
      }
      this.#upgrades.handleUpgrade(request, socket, head, (ws) => {
        this.#open(ws, request, instance);
      });
    });
  }

  static async start(options: TestBoxOptions = {}): Promise<TestBox> {
    const box = new TestBox(options);
    await new Promise<void>((resolve) => box.#server.listen(0, "127.0.0.1", resolve));
    return box;
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const instance of this.instances.values()) instance.input.close();
    for (const socket of this.#sockets) socket.destroy();
    this.#upgrades.close();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    this.requests.push(`${request.method ?? ""} ${request.url ?? ""}`);
    if (this.#options.intercept?.(request, response)) return;
    switch (request.url) {
      case PATHS.info: {
        const info: Info = {
          software: "test",
          protocol: 1,
          name: "test box",
          relay: null,
          contact: null,
          onion: null,
          region: null,
          family: [],
          accepting: true,
          functions: Object.keys(this.#options.bundled ?? {}).map((hash) => ({
            name: "bundled",
            sourceHash: hash,
          })),
        };
        return answer(response, 200, info);
      }
      case PATHS.policy:
        return answer(response, 200, this.#options.policy ?? TEST_POLICY);
      case PATHS.store:
        return answer(response, 201, this.#store(await readJson(request)));
      case PATHS.exec: {
        const pack = this.#functions.get(bearer(request));
        if (!pack) throw new BoxError("bad-token", "Cannot start instance: unknown token");
        const invocation = (await readJson(request)) as Start["invocation"];
        const instance = this.#start({ invocation }, bearer(request));
        return answer(response, 201, { instance: instance.id });
      }
      case PATHS.run:
        return this.#run(request, response);
      case PATHS.close: {
        const instance = this.instances.get(parseInstanceId(bearer(request)));
        if (!instance) throw new BoxError("bad-token", "Cannot close: unknown instance");
        const { kill } = (await readJson(request)) as { kill: boolean };
        if (kill) instance.input.close();
        return answer(response, 200, { killed: kill });
      }
      case PATHS.shutdown: {
        await readJson(request);
        const owned = this.#owned.get(bearer(request));
        if (!owned) throw new BoxError("bad-token", "Cannot shut down: unknown token");
        this.#owned.delete(bearer(request));
        this.#functions.delete(owned.token);
        for (const instance of owned.instances) instance.input.close();
        return answer(response, 200, { instancesEnded: owned.instances.length });
      }
      case PATHS.list:
        return answer(response, 200, this.#list(bearer(request)));
      default:
        throw new BoxError("not-found", "Cannot answer: no such path");
    }
  }

  /** As a function that removes itself. */
  remove(shutdownToken: string): void {
    this.#owned.delete(shutdownToken);
  }

  /** Shutdown tokens of what is installed. */
  get installed(): string[] {
    return [...this.#owned.keys()];
  }

  #list(token: string): Listing {
    const owned = this.#owned.get(token);
    if (!owned) throw new BoxError("bad-token", "Cannot list: unknown token");
    return {
      name: "test",
      image: "deno",
      sourceHash: "",
      storedAt: 0,
      expiresAt: 0,
      storageBytes: 0,
      instances: owned.instances.map((instance, index) => ({
        number: index + 1,
        startedAt: 0,
        attached: instance.send !== undefined,
        outputBytes: instance.bytes,
        waitingBytes: 0,
        ...(instance.outcome ? { outcome: instance.outcome } : {}),
      })),
    };
  }

  #store(input: unknown): Stored {
    const pack = parseSentPackage(input, (hash) => this.#options.bundled?.[hash]);
    const result = grant(pack.manifest, this.#options.policy ?? TEST_POLICY);
    if (result.kind === "refused") {
      throw new BoxError("policy-refused", "Cannot store function: policy refuses it", {
        refusals: result.refusals,
      });
    }
    const invocationToken = newInvocationToken();
    const shutdownToken = newShutdownToken();
    this.#functions.set(invocationToken, input as Start["package"]);
    this.#owned.set(shutdownToken, { token: invocationToken, instances: [] });
    return {
      invocationToken,
      shutdownToken,
      name: pack.manifest.name,
      sourceHash: sourceHash(pack),
      grant: JSON.parse(JSON.stringify(result.grant)) as Stored["grant"],
      expiresAt: Date.now() + 86_400_000,
    };
  }

  #start(start: Start, token: string | undefined): TestInstance {
    const instance = new TestInstance();
    this.instances.set(instance.id, instance);
    for (const owned of this.#owned.values()) {
      if (owned.token === token) owned.instances.push(instance);
    }
    const script = this.#options.script ?? echoScript;
    script({
      start,
      input: instance.input,
      output: (bytes, last = true) => {
        instance.output(bytes, last);
      },
      breakConnection: () => {
        instance.send = undefined;
        instance.drop?.();
      },
      acknowledged: (offset) => instance.acknowledged(offset),
    })
      .then((outcome) => {
        instance.outcome = outcome;
        return instance.send?.({ kind: "ended", outcome });
      })
      .catch(() => instance.drop?.());
    return instance;
  }

  async #run(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const splitter = new FrameSplitter();
    let instance: TestInstance | undefined;
    for await (const chunk of request as AsyncIterable<Uint8Array>) {
      for (const bytes of splitter.push(chunk)) {
        const frame = decodeClientFrame(bytes);
        if (frame.kind !== "start") {
          instance?.handle(frame);
          continue;
        }
        const token = bearer(request);
        if (!frame.start.package && !this.#functions.has(token))
          throw new BoxError("bad-token", "Cannot run: no token");
        const stored = frame.start.package ? this.#store(frame.start.package) : undefined;
        instance = this.#start(frame.start, stored?.invocationToken ?? token);
        response.writeHead(200, { "content-type": MEDIA.session });
        const started = instance;
        const send = (out: BoxFrame) => {
          response.write(prefixLength(encodeBoxFrame(out)));
          if (out.kind === "ended" || out.kind === "problem") response.end();
        };
        response.once("close", () => started.left(send));
        started.attach(0, stored, send, () => request.socket.destroy());
      }
    }
  }

  #open(ws: WebSocket, request: http.IncomingMessage, instance: TestInstance): void {
    ws.on("message", (data: Buffer) => {
      instance.handle(decodeClientFrame(data));
    });
    ws.on("error", () => undefined);
    const offset = new URL(request.url ?? "", "http://box").searchParams.get("offset");
    const send = (frame: BoxFrame) => {
      ws.send(encodeBoxFrame(frame));
      if (frame.kind === "ended" || frame.kind === "problem") ws.close(1000);
    };
    ws.once("close", () => instance.left(send));
    const from = offset === null ? instance.acked : Number(offset);
    instance.attach(from, undefined, send, () => ws.terminate());
  }

  #problem(response: http.ServerResponse, error: unknown): void {
    answer(response, error instanceof BoxError ? error.status : 500, problemOf(error), MEDIA.problem);
  }
}

function bearer(request: http.IncomingMessage): string {
  return (request.headers.authorization ?? "").replace(/^Bearer /, "");
}

async function readJson(request: http.IncomingMessage): Promise<unknown> {
  const parts: Uint8Array[] = [];
  for await (const chunk of request as AsyncIterable<Uint8Array>) parts.push(chunk);
  return JSON.parse(Buffer.concat(parts).toString());
}

function answer(
  response: http.ServerResponse,
  status: number,
  value: unknown,
  type: string = MEDIA.json,
): void {
  const body = Buffer.from(JSON.stringify(value));
  response.writeHead(status, { "content-type": type, "content-length": body.length });
  response.end(body);
}
