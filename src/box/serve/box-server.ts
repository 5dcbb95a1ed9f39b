// The box's HTTP server (spec/wire 2): hostile clients on one side, Operations on the other. Parses and bounds
// everything before it acts; every wrong request gets one problem document and nothing else.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { ListenOptions, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { WebSocketServer } from "ws";
import type { z } from "zod";
import type { Clock } from "../../base/clock.ts";
import { messageOf, ProtocolError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { boxPage } from "../../web/box-page.ts";
import { closeSchema, type Info, invocationSchema, MEDIA, PATHS } from "../../wire/api.ts";
import { BoxError } from "../../wire/error-code.ts";
import { Limits } from "../../wire/limits.ts";
import { SESSION_FRAME_BYTES_MAX } from "../../wire/session-frame.ts";
import type { Instance } from "../session/instance.ts";
import { InputBudget, serveSession } from "../session/session.ts";
import { BodyBudget, parseJson, readBody, SlowBodyGuard } from "./body.ts";
import type { Operations } from "./operations.ts";
import { sendError, sendJson, sendPage, sendRawError } from "./respond.ts";
import { SERVE_LIMITS } from "./serve-limits.ts";
import { StreamTransport } from "./stream-transport.ts";
import { CLIENT_MESSAGE_BYTES_MAX, WebSocketTransport } from "./websocket-transport.ts";

export interface BoxServerOptions {
  readonly operations: Operations;
  readonly info: () => Info;
  readonly clock: Clock;
  readonly log: Log;
}

type Handler = (request: IncomingMessage, response: ServerResponse) => Promise<void> | void;

export class BoxServer implements AsyncDisposable {
  readonly #options: BoxServerOptions;
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #webSockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: CLIENT_MESSAGE_BYTES_MAX,
    // Pings are answered by the peer's library; ours go out from the transport.
    autoPong: true,
  });
  readonly #bodies = new BodyBudget();
  readonly #inputs = new InputBudget(SERVE_LIMITS.inputBytes);
  readonly #sessions = new Set<Promise<void>>();
  readonly #routes: Readonly<Record<string, Readonly<Record<string, Handler>>>>;

  constructor(options: BoxServerOptions) {
    this.#options = options;
    this.#routes = {
      [PATHS.page]: { GET: (_, response) => this.#page(response) },
      [PATHS.info]: { GET: (_, response) => sendJson(response, 200, this.#options.info()) },
      [PATHS.policy]: { GET: (_, response) => sendJson(response, 200, this.#options.operations.policy) },
      [PATHS.store]: { POST: (request, response) => this.#store(request, response) },
      [PATHS.exec]: { POST: (request, response) => this.#exec(request, response) },
      [PATHS.run]: { POST: (request, response) => this.#run(request, response) },
      [PATHS.close]: { POST: (request, response) => this.#close(request, response) },
      [PATHS.list]: { GET: (request, response) => this.#list(request, response) },
      [PATHS.logs]: { GET: (request, response) => this.#logs(request, response) },
      [PATHS.shutdown]: { POST: (request, response) => this.#shutdown(request, response) },
      [PATHS.open]: { GET: () => refuseUpgradeless() },
    };
  }

  /** Sessions now. */
  get sessions(): number {
    return this.#sessions.size;
  }

  /** Serves at one more address. Resolves with the port, 0 for a Unix socket. */
  async listen(address: ListenOptions): Promise<number> {
    const server = createServer({
      maxHeaderSize: SERVE_LIMITS.headerBytes,
      headersTimeout: SERVE_LIMITS.headerMs,
      // Bodies have limits of their own (body.ts); those of sessions last as long as these.
      requestTimeout: 0,
      keepAliveTimeout: SERVE_LIMITS.keepAliveMs,
      connectionsCheckingInterval: 5_000,
      keepAlive: true,
      noDelay: true,
    });
    server.maxConnections = SERVE_LIMITS.connections;
    server.maxHeadersCount = SERVE_LIMITS.headers;
    server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
    });
    server.on("request", (request, response) => {
      void this.#answer(request, response);
    });
    server.on("checkContinue", (request: IncomingMessage, response: ServerResponse) => {
      response.writeContinue();
      void this.#answer(request, response);
    });
    server.on("checkExpectation", (_, response: ServerResponse) => {
      sendError(response, new BoxError("bad-request", "Cannot take request: unknown expectation"));
    });
    server.on("upgrade", (request, socket, head) => {
      this.#upgrade(request, socket, head);
    });
    server.on("clientError", (_, socket) => {
      sendRawError(socket as Socket, new BoxError("bad-request", "Cannot read request: malformed HTTP"));
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ backlog: 511, ...address }, resolve);
    });
    this.#servers.push(server);
    const bound = server.address();
    return bound !== null && typeof bound === "object" ? bound.port : 0;
  }

  /** Takes no new connections, lets sessions see their end, then hangs up. */
  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.#servers.splice(0).map(
      (server) =>
        new Promise<void>((resolve) => {
          server.close(() => resolve());
        }),
    );
    const grace = Promise.withResolvers<void>();
    const cancel = this.#options.clock.after(2_000, grace.resolve);
    await Promise.race([Promise.all(this.#sessions), grace.promise]);
    cancel();
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all([...closed, ...this.#sessions]);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // A peer that vanishes is no error of ours.
    request.on("error", () => undefined);
    response.on("error", () => undefined);
    try {
      const { path } = target(request);
      const route = Object.hasOwn(this.#routes, path) ? this.#routes[path] : undefined;
      if (!route) throw new BoxError("not-found", "There is nothing at this path");
      const method = request.method === "HEAD" ? "GET" : (request.method ?? "");
      const handler = Object.hasOwn(route, method) ? route[method] : undefined;
      if (!handler) {
        const methods = Object.keys(route).flatMap((name) => (name === "GET" ? ["GET", "HEAD"] : [name]));
        response.setHeader("Allow", methods.join(", "));
        throw new BoxError("bad-method", `This path takes ${methods.join(" and ")} only`);
      }
      await handler(request, response);
    } catch (error) {
      this.#logInternal(error);
      sendError(response, error instanceof ProtocolError ? badRequest(error) : error);
    }
  }

  #page(response: ServerResponse): void {
    const { operations, info } = this.#options;
    sendPage(response, boxPage(info(), operations.policy));
  }

  async #store(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await this.#json(request, Limits.packageBytesMax + Limits.argumentBytesMax);
    const { operations } = this.#options;
    sendJson(response, 201, await operations.store(operations.package(body)));
  }

  async #exec(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { operations } = this.#options;
    // The token comes before the body: who has none sends us nothing to parse.
    const stored = await operations.findInvocable(bearer(request));
    const invocation = parse(invocationSchema, await this.#json(request, Limits.requestBytesMax));
    const instance = await operations.start(stored, invocation);
    sendJson(response, 201, { instance: instance.id });
  }

  async #close(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { operations } = this.#options;
    const credential = bearer(request);
    operations.findInstance(credential);
    const options = parse(closeSchema, (await this.#json(request, Limits.requestBytesMax)) ?? {});
    sendJson(response, 200, await operations.close(credential, options));
  }

  async #list(request: IncomingMessage, response: ServerResponse): Promise<void> {
    sendJson(response, 200, await this.#options.operations.list(bearer(request)));
  }

  async #logs(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { operations, clock } = this.#options;
    const { query } = target(request);
    const after = parseCount(query, "after") ?? 0;
    const waitMs = Math.min(parseCount(query, "wait") ?? 0, Limits.logWaitMsMax);
    const credential = bearer(request);
    if (waitMs === 0) {
      sendJson(response, 200, await operations.logs(credential, after));
      return;
    }
    // Who waits takes the place of a session, for as long as the client is there.
    const seat = this.#takeSeat();
    const over = new AbortController();
    const cancel = clock.after(waitMs, () => over.abort());
    response.once("close", () => over.abort());
    try {
      sendJson(response, 200, await operations.logs(credential, after, over.signal));
    } finally {
      cancel();
      seat.release();
    }
  }

  async #shutdown(request: IncomingMessage, response: ServerResponse): Promise<void> {
    sendJson(response, 200, await this.#options.operations.shutdown(bearer(request)));
  }

  /** The whole way in one exchange: the first frame installs and invokes, the rest is a session. */
  async #run(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { operations, clock } = this.#options;
    if (request.headers["content-type"] !== MEDIA.session) {
      throw new BoxError("bad-request", `Cannot run: expected content of type ${MEDIA.session}`);
    }
    const seat = this.#takeSeat();
    try {
      const credential = bearer(request);
      const stored = credential === undefined ? undefined : await operations.findInvocable(credential);
      const transport = new StreamTransport(request, response, SESSION_FRAME_BYTES_MAX);
      const start = await firstFrame(transport, { clock, budget: this.#bodies });
      if ((start.package === undefined) === (stored === undefined)) {
        throw new BoxError("bad-request", "Cannot run: expected either a package or an invocation token");
      }
      const ran = stored
        ? { instance: await operations.start(stored, start.invocation) }
        : await operations.run(operations.package(start.package), start.invocation);
      if (transport.signal.aborted) return;
      transport.begin();
      await serveSession(ran.instance, transport, { ...ran, budget: this.#inputs });
    } finally {
      seat.release();
    }
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", () => undefined);
    try {
      const { path, query } = target(request);
      if (path !== PATHS.open) throw new BoxError("not-found", "There is nothing to upgrade at this path");
      const instance = this.#options.operations.findInstance(bearer(request));
      const offset = parseCount(query, "offset");
      if (offset !== undefined) checkOffset(instance, offset);
      const seat = this.#takeSeat();
      let upgraded = false;
      socket.once("close", () => {
        if (!upgraded) seat.release();
      });
      this.#webSockets.handleUpgrade(request, socket, head, (webSocket) => {
        upgraded = true;
        const transport = new WebSocketTransport(webSocket, this.#options.clock);
        const options = { budget: this.#inputs, ...(offset === undefined ? {} : { offset }) };
        void serveSession(instance, transport, options).finally(() => seat.release());
      });
    } catch (error) {
      this.#logInternal(error);
      sendRawError(socket as Socket, error);
    }
  }

  /** A place among the sessions, taken before anything is awaited. Throws BoxError "box-full". */
  #takeSeat(): { release: () => void } {
    if (this.#sessions.size >= SERVE_LIMITS.sessions) {
      throw new BoxError("box-full", "Cannot attach: this box serves as many sessions as it can");
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#sessions.add(promise);
    return {
      release: () => {
        this.#sessions.delete(promise);
        resolve();
      },
    };
  }

  async #json(request: IncomingMessage, bytesMax: number): Promise<unknown> {
    return parseJson(await readBody(request, { bytesMax, clock: this.#options.clock, budget: this.#bodies }));
  }

  #logInternal(error: unknown): void {
    if (error instanceof BoxError || error instanceof ProtocolError) return;
    this.#options.log.error("request failed", { reason: messageOf(error) });
  }
}

/** The start frame of a run. Throws BoxError or ProtocolError. */
async function firstFrame(transport: StreamTransport, options: { clock: Clock; budget: BodyBudget }) {
  const slow = Promise.withResolvers<never>();
  using guard = new SlowBodyGuard(options.clock, () => {
    slow.reject(new BoxError("slow-request", "Cannot take request: it arrives too slowly"));
  });
  let held = 0;
  let problem: unknown;
  transport.onChunk = (bytes) => {
    guard.count(bytes);
    try {
      options.budget.take(bytes);
      held += bytes;
    } catch (error) {
      problem = error;
    }
  };
  try {
    const frame = await Promise.race([transport.receive(), slow.promise]);
    if (problem !== undefined) throw problem as Error;
    if (frame?.kind !== "start") {
      throw new ProtocolError("bad-request", "Cannot run: expected a start frame first");
    }
    return frame.start;
  } finally {
    transport.onChunk = undefined;
    options.budget.give(held);
  }
}

/** `/v1/open?offset=5` -> path and query. Absolute-form targets are for proxies: refused as unknown paths. */
function target(request: IncomingMessage): { path: string; query: URLSearchParams } {
  const [path = "", query = ""] = (request.url ?? "").split("?", 2);
  return { path, query: new URLSearchParams(query) };
}

function bearer(request: IncomingMessage): string | undefined {
  return /^Bearer ([\x21-\x7e]{1,256})$/i.exec(request.headers.authorization ?? "")?.[1];
}

/** A whole number of a query; undefined when it is not there. */
function parseCount(query: URLSearchParams, name: string): number | undefined {
  const text = query.get(name);
  if (text === null) return undefined;
  const count = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(count)) return count;
  throw new BoxError("bad-request", `Cannot read request: ${name} is not a whole number`);
}

function checkOffset(instance: Instance, offset: number): void {
  const { discarded, end } = instance.backlog;
  if (offset < discarded) {
    throw new BoxError("offset-gone", `Cannot attach: offset ${offset}, kept from ${discarded} on`);
  }
  if (offset > end) {
    throw new BoxError("bad-request", `Cannot attach: offset ${offset}, output ends at ${end}`);
  }
}

function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = issue?.path.join(".") ?? "";
  throw new BoxError(
    "bad-request",
    `Cannot read request: ${where}: ${issue?.message ?? "malformed"}`.slice(0, 500),
  );
}

function badRequest(error: ProtocolError): BoxError {
  return new BoxError("bad-request", error.message, { cause: error });
}

function refuseUpgradeless(): never {
  throw new BoxError("bad-request", "Cannot attach: expected a WebSocket upgrade");
}
