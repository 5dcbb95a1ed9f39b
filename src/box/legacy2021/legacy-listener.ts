// Serves clients of the 2021 release over plain TCP (spec/protocol-2021). Every function stored here is a Python
// function under one manifest that the operator decides; tokens and execution ids are those of the box, which
// have the same 36 characters. Bounded where that release was not.

import { createServer, type ListenOptions, type Server, type Socket } from "node:net";
import type { Clock } from "../../base/clock.ts";
import { drained } from "../../base/drained.ts";
import { messageOf, ProtocolError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { BoxError, problemOf } from "../../wire/error-code.ts";
import { Limits } from "../../wire/limits.ts";
import type { ManifestInput } from "../../wire/manifest.ts";
import { parsePackage } from "../../wire/package.ts";
import { SlowBodyGuard } from "../serve/body.ts";
import type { Operations } from "../serve/operations.ts";
import type { Instance } from "../session/instance.ts";
import {
  encodeAnswer,
  encodeMessageHeader,
  LEGACY_TYPE,
  type LegacyRequest,
  LegacySplitter,
} from "./legacy-frame.ts";
import { LegacySession, type LegacyWriter } from "./legacy-session.ts";

export const LEGACY_LIMITS = {
  /** Connections at once: each may hold one request, a package at most. */
  connections: 64,
  /** Executions that one connection has open at once. */
  sessions: 16,
  /** A connection without an open execution that says nothing: milliseconds. */
  idleMs: 300_000,
} as const;

export interface LegacyOptions {
  readonly operations: Operations;
  /** What a function stored over this protocol asks for; its name is replaced by the client's. */
  readonly manifest: () => ManifestInput;
  readonly clock: Clock;
  readonly log: Log;
}

export class LegacyListener implements AsyncDisposable {
  readonly #options: LegacyOptions;
  readonly #server: Server;
  readonly #connections = new Map<Connection, Promise<void>>();

  private constructor(options: LegacyOptions, server: Server) {
    this.#options = options;
    this.#server = server;
  }

  static async listen(address: ListenOptions, options: LegacyOptions): Promise<LegacyListener> {
    const server = createServer({ noDelay: true, keepAlive: true });
    server.maxConnections = LEGACY_LIMITS.connections;
    const listener = new LegacyListener(options, server);
    server.on("connection", (socket) => {
      listener.#serve(socket);
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(address, resolve);
    });
    return listener;
  }

  /** 0 for a Unix socket. */
  get port(): number {
    const address = this.#server.address();
    return address !== null && typeof address === "object" ? address.port : 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    for (const connection of this.#connections.keys()) connection.destroy();
    await Promise.all([closed, ...this.#connections.values()]);
  }

  #serve(socket: Socket): void {
    const connection = new Connection(socket, this.#options);
    const life = connection.serve().finally(() => this.#connections.delete(connection));
    this.#connections.set(connection, life);
  }
}

class Connection implements LegacyWriter {
  readonly #socket: Socket;
  readonly #options: LegacyOptions;
  readonly #gone = new AbortController();
  readonly #sessions = new Map<Instance, { session: LegacySession; life: Promise<void> }>();
  readonly #splitter = new LegacySplitter();
  #writing: Promise<void> = Promise.resolve();
  #guard: SlowBodyGuard | undefined;

  constructor(socket: Socket, options: LegacyOptions) {
    this.#socket = socket;
    this.#options = options;
    socket.on("error", () => undefined);
    socket.once("close", () => {
      this.#gone.abort(new Error("the client has gone"));
    });
    socket.setTimeout(LEGACY_LIMITS.idleMs, () => {
      if (this.#sessions.size === 0) socket.destroy();
    });
  }

  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** Answers requests until the client leaves or breaks the protocol. Never throws. */
  async serve(): Promise<void> {
    try {
      for await (const chunk of this.#socket as AsyncIterable<Uint8Array>) {
        this.#guard?.count(chunk.length);
        for (const request of this.#splitter.push(chunk)) {
          this.#watch(false);
          await this.#handle(request);
        }
        this.#watch(this.#splitter.isInside);
      }
    } catch (error) {
      if (error instanceof ProtocolError && !this.signal.aborted) {
        await this.#answer(LEGACY_TYPE.error, true, error.message).catch(() => undefined);
      }
    } finally {
      this.#watch(false);
      this.#socket.destroy();
      this.#gone.abort(new Error("the client has gone"));
      await Promise.all([...this.#sessions.values()].map(({ life }) => life));
    }
  }

  async exclusively(task: () => Promise<void>): Promise<void> {
    const before = this.#writing;
    const mine = Promise.withResolvers<void>();
    this.#writing = mine.promise;
    try {
      await before;
      await task();
    } finally {
      mine.resolve();
    }
  }

  async begin(type: 4 | 5, id: string, length: number): Promise<void> {
    await this.write(encodeMessageHeader(type, id, length));
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.signal.throwIfAborted();
    if (this.#socket.write(bytes)) return;
    await drained(this.#socket);
    this.signal.throwIfAborted();
  }

  async #handle(request: LegacyRequest): Promise<void> {
    switch (request.kind) {
      case "store":
        await this.#answered(LEGACY_TYPE.store, async () => {
          const manifest = { ...this.#options.manifest(), name: functionName(request.name) };
          const pack = parsePackage({ manifest, source: request.code });
          return (await this.#options.operations.store(pack)).invocationToken;
        });
        break;
      case "execute":
        await this.#answered(LEGACY_TYPE.execute, async () => {
          if (request.call === "" || Buffer.byteLength(request.call) > Limits.argumentBytesMax) {
            throw new BoxError("bad-request", "call is empty or too long");
          }
          return (await this.#options.operations.exec(request.token, { call: request.call })).id;
        });
        break;
      case "open":
        await this.#open(request.id);
        break;
      case "close":
        this.#close(request.id);
        break;
      case "data":
        await this.#take(request.id, request.data);
        break;
    }
  }

  async #answered(type: number, task: () => Promise<string>): Promise<void> {
    let answer: { isError: boolean; text: string };
    try {
      answer = { isError: false, text: await task() };
    } catch (error) {
      if (!(error instanceof BoxError)) {
        this.#options.log.error("2021 request failed", { reason: messageOf(error) });
      }
      answer = { isError: true, text: errorText(error) };
    }
    await this.#answer(type, answer.isError, answer.text);
  }

  async #answer(type: number, isError: boolean, text: string): Promise<void> {
    await this.exclusively(() => this.write(encodeAnswer(type, isError, text)));
  }

  async #open(id: string): Promise<void> {
    const instance = this.#find(id);
    // That client waits for messages now, so an error has to be one.
    if (!instance) return await this.#complain(id, "no session exists with this id");
    const before = this.#sessions.get(instance);
    if (before && !before.session.isClosing) return await this.#complain(id, "session already open");
    await before?.life;
    if (this.#sessions.size >= LEGACY_LIMITS.sessions) {
      return await this.#complain(id, "too many open sessions");
    }
    const session = new LegacySession(instance, id, this);
    // A session that is closing keeps its place until its last message is out.
    const life = session.serve().finally(() => this.#sessions.delete(instance));
    this.#sessions.set(instance, { session, life });
  }

  /** No answer, whatever becomes of it: that client expects none. */
  #close(id: string): void {
    const instance = this.#find(id);
    if (instance) this.#sessions.get(instance)?.session.close();
  }

  async #take(id: string, data: Uint8Array): Promise<void> {
    const instance = this.#find(id);
    if (!instance || instance.outcome) return await this.#complain(id, "session isn't alive");
    const fragments: Uint8Array[] = [];
    for (let at = 0; at < data.length; at += Limits.fragmentBytesMax) {
      fragments.push(data.subarray(at, at + Limits.fragmentBytesMax));
    }
    await instance.sendMessage(fragments, this.signal);
  }

  async #complain(id: string, text: string): Promise<void> {
    const bytes = Buffer.from(text);
    await this.exclusively(async () => {
      await this.begin(LEGACY_TYPE.error, id, bytes.length);
      await this.write(bytes);
    });
  }

  #find(id: string): Instance | undefined {
    try {
      return this.#options.operations.findInstance(id);
    } catch {
      return undefined; // unknown and malformed ids are the same
    }
  }

  /** A request that has begun must arrive at the least rate. */
  #watch(isInside: boolean): void {
    if (isInside && this.#guard) return;
    this.#guard?.[Symbol.dispose]();
    this.#guard = isInside ? new SlowBodyGuard(this.#options.clock, () => this.#socket.destroy()) : undefined;
  }
}

/** Any text as the name of a function: "My Function!" -> "my-function". */
function functionName(text: string): string {
  const name = text
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replaceAll(/^-+|-+$/g, "")
    .slice(0, 64);
  return name === "" ? "unnamed" : name;
}

/** That release says "invalid token" when one is unknown; the rest is ours. */
function errorText(error: unknown): string {
  const problem = problemOf(error);
  return problem.code === "bad-token" ? "invalid token" : (problem.detail ?? problem.title);
}
