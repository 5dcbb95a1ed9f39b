// Raw clients of a box for tests: no more than HTTP and frames, so that tests see what is on the wire.

import { once } from "node:events";
import { type ClientRequest, type IncomingMessage, request } from "node:http";
import { WebSocket } from "ws";
import { Channel } from "../../src/base/channel.ts";
import { type Invocation, MEDIA, PATHS } from "../../src/wire/api.ts";
import type { Problem } from "../../src/wire/error-code.ts";
import type { NamedPackage, PackageInput } from "../../src/wire/package.ts";
import {
  type BoxFrame,
  type ClientFrame,
  decodeBoxFrame,
  encodeClientFrame,
  FrameSplitter,
  prefixLength,
} from "../../src/wire/session-frame.ts";

/** A session over either transport. Acknowledges what it receives unless told not to. */
export class TestSession {
  readonly frames = new Channel<BoxFrame>(Number.POSITIVE_INFINITY);
  readonly #send: (frame: ClientFrame) => void;
  readonly #hangUp: () => void;
  acknowledge = true;
  bytes = 0;

  constructor(send: (frame: ClientFrame) => void, hangUp: () => void) {
    this.#send = send;
    this.#hangUp = hangUp;
  }

  take(frame: BoxFrame): void {
    if (frame.kind === "output") {
      this.bytes += frame.bytes.length;
      if (this.acknowledge) this.send({ kind: "ack", offset: frame.offset + frame.bytes.length });
    }
    this.frames.push(frame);
  }

  send(frame: ClientFrame): void {
    this.#send(frame);
  }

  input(text: string): void {
    this.send({ kind: "input", bytes: Buffer.from(text), last: true });
  }

  /** The next frame, which must be of this kind. */
  async next<Kind extends BoxFrame["kind"]>(kind: Kind): Promise<Extract<BoxFrame, { kind: Kind }>> {
    const frame = await this.frames.receive({ signal: AbortSignal.timeout(20_000) });
    if (frame?.kind !== kind) throw new Error(`expected ${kind}, got ${JSON.stringify(frame).slice(0, 200)}`);
    return frame as Extract<BoxFrame, { kind: Kind }>;
  }

  async text(): Promise<string> {
    return Buffer.from((await this.next("output")).bytes).toString();
  }

  hangUp(): void {
    this.#hangUp();
  }
}

export class BoxClient {
  readonly port: number;

  constructor(port: number) {
    this.port = port;
  }

  async call(
    method: string,
    path: string,
    options: { token?: string; body?: unknown; headers?: Record<string, string> } = {},
  ): Promise<{ status: number; headers: Headers; json: Record<string, unknown>; text: string }> {
    const { token, body, headers } = options;
    const response = await fetch(`http://127.0.0.1:${this.port}${path}`, {
      method,
      headers: { ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...headers },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const isJson = response.headers.get("content-type")?.includes("json") ?? false;
    const json = isJson && text !== "" ? (JSON.parse(text) as Record<string, unknown>) : {};
    return { status: response.status, headers: response.headers, json, text };
  }

  async store(pack: PackageInput): Promise<{ invocationToken: string; shutdownToken: string }> {
    const { status, json, text } = await this.call("POST", PATHS.store, { body: pack });
    if (status !== 201) throw new Error(`store: ${status} ${text}`);
    return json as unknown as { invocationToken: string; shutdownToken: string };
  }

  async exec(token: string, invocation: Invocation = { args: [] }): Promise<string> {
    const { status, json, text } = await this.call("POST", PATHS.exec, { token, body: invocation });
    if (status !== 201) throw new Error(`exec: ${status} ${text}`);
    return String(json["instance"]);
  }

  /** Sends the head and the given frames of a run; the caller may write more to `request`. */
  startRun(
    frames: readonly ClientFrame[],
    token?: string,
  ): { request: ClientRequest; response: Promise<IncomingMessage> } {
    const sent = request({
      host: "127.0.0.1",
      port: this.port,
      path: PATHS.run,
      method: "POST",
      headers: {
        "content-type": MEDIA.session,
        "transfer-encoding": "chunked",
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
    });
    sent.on("error", () => undefined);
    sent.flushHeaders();
    for (const frame of frames) sent.write(prefixLength(encodeClientFrame(frame)));
    const response = once(sent, "response").then(([first]) => first as IncomingMessage);
    response.catch(() => undefined);
    return { request: sent, response };
  }

  /** Throws the problem that the box answers with, as Error with `status` and `code`. */
  async run(
    start: { package?: PackageInput | NamedPackage; invocation?: Invocation },
    token?: string,
  ): Promise<TestSession> {
    const { invocation = { args: [] }, ...rest } = start;
    const sent = this.startRun([{ kind: "start", start: { ...rest, invocation } }], token);
    const response = await sent.response;
    if (response.statusCode !== 200) throw await refusalOf(response);
    const session = new TestSession(
      (frame) => sent.request.write(prefixLength(encodeClientFrame(frame))),
      () => sent.request.destroy(),
    );
    void pump(response, session);
    return session;
  }

  async open(
    instance: string,
    options: { offset?: number; acknowledge?: boolean } = {},
  ): Promise<TestSession> {
    const query = options.offset === undefined ? "" : `?offset=${options.offset}`;
    const socket = new WebSocket(`ws://127.0.0.1:${this.port}${PATHS.open}${query}`, {
      headers: { authorization: `Bearer ${instance}` },
      perMessageDeflate: false,
    });
    const session = new TestSession(
      (frame) => socket.send(encodeClientFrame(frame)),
      () => socket.terminate(),
    );
    session.acknowledge = options.acknowledge ?? true;
    socket.on("message", (data: Buffer) => session.take(decodeBoxFrame(data)));
    socket.on("close", () => session.frames.close());
    const opened = Promise.withResolvers<void>();
    socket.on("open", opened.resolve);
    socket.on("unexpected-response", (_, response) => {
      void refusalOf(response).then(opened.reject);
    });
    socket.on("error", opened.reject);
    await opened.promise;
    return session;
  }
}

async function pump(response: IncomingMessage, session: TestSession): Promise<void> {
  const splitter = new FrameSplitter();
  try {
    for await (const chunk of response as AsyncIterable<Uint8Array>) {
      for (const frame of splitter.push(chunk)) session.take(decodeBoxFrame(frame));
    }
  } catch {
    // Hung up by the test or by the box: the channel's end tells.
  }
  session.frames.close();
}

async function refusalOf(response: IncomingMessage): Promise<Error> {
  let text = "";
  for await (const chunk of response) text += String(chunk);
  const problem = JSON.parse(text) as Problem;
  return Object.assign(new Error(problem.detail), {
    status: response.statusCode,
    code: problem.code,
    problem,
  });
}
