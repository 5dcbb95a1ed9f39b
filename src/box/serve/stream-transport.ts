// Session frames over one HTTP exchange (`POST /v1/run`, spec/wire 4.2): the client's frames are the request body,
// the box's are the response, both open at once. A client that ends its body can acknowledge nothing more.

import type { IncomingMessage, ServerResponse } from "node:http";
import { drained } from "../../base/drained.ts";
import { ProtocolError } from "../../base/errors.ts";
import { MEDIA } from "../../wire/api.ts";
import {
  type BoxFrame,
  type ClientFrame,
  decodeClientFrame,
  encodeBoxFrame,
  FrameSplitter,
  outputHead,
  prefixLength,
} from "../../wire/session-frame.ts";
import type { SessionTransport } from "../session/session.ts";
import { setCommonHeaders } from "./respond.ts";

export class StreamTransport implements SessionTransport {
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #frames: AsyncGenerator<Uint8Array>;
  readonly #gone = new AbortController();
  #canReceive = true;
  #onChunk: ((bytes: number) => void) | undefined;

  /** @param frameBytesMax bounds every frame of the client, the first one above all. */
  constructor(request: IncomingMessage, response: ServerResponse, frameBytesMax: number) {
    this.#request = request;
    this.#response = response;
    this.#frames = this.#cut(request, new FrameSplitter(frameBytesMax));
    response.once("close", () => {
      this.#gone.abort(new Error("the client has gone"));
      // Node forgets a request whose response broke off: nobody else would end its reader.
      if (!response.writableFinished) request.destroy();
    });
    request.once("error", () => {
      this.#gone.abort(new Error("the client has gone"));
    });
  }

  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  get canReceive(): boolean {
    return this.#canReceive;
  }

  /** Calls back with the size of every chunk of the body, until `undefined` is set. */
  set onChunk(callback: ((bytes: number) => void) | undefined) {
    this.#onChunk = callback;
  }

  /** Starts the response; from now on errors are session frames. */
  begin(): void {
    setCommonHeaders(this.#response);
    this.#response.setHeader("Content-Type", MEDIA.session);
    this.#response.writeHead(200);
  }

  send(frame: BoxFrame): Promise<void> | undefined {
    if (this.signal.aborted) return undefined;
    const hasRoom = frame.kind === "output" ? this.#writeOutput(frame) : this.#write(frame);
    return hasRoom ? undefined : drained(this.#response);
  }

  #write(frame: BoxFrame): boolean {
    return this.#response.write(prefixLength(encodeBoxFrame(frame)));
  }

  /** As `#write`, without copying the bytes: they are most of what a box sends. */
  #writeOutput({ offset, bytes, last }: BoxFrame & { readonly kind: "output" }): boolean {
    const head = outputHead(offset, bytes.length, last);
    if (bytes.length === 0) return this.#response.write(head);
    // Node joins the two on the way to the socket.
    this.#response.write(head);
    return this.#response.write(bytes);
  }

  async receive(): Promise<ClientFrame | undefined> {
    const next = await this.#frames.next();
    if (next.done === true) {
      // Only a body that ended well says that no acknowledgement follows; a broken one says nothing of the output.
      if (!this.signal.aborted) this.#canReceive = false;
      return undefined;
    }
    return decodeClientFrame(next.value);
  }

  async close(lingerMs: number): Promise<void> {
    if (this.signal.aborted) return;
    const request = this.#request;
    const { socket } = request;
    const timer = setTimeout(() => socket.destroy(), lingerMs);
    // Node forgets a request whose response has ended: nobody else would end its reader.
    const onClose = () => request.destroy();
    socket.once("close", onClose);
    this.#response.end();
    // Hanging up on a client that still sends would reset the connection, and with it what the client has not read
    // yet. So its body is read to the end, which it sends when it has got everything.
    await this.#frames.return(undefined);
    while (!request.readableEnded && !request.destroyed) {
      const { promise, resolve } = Promise.withResolvers<void>();
      request.once("end", resolve);
      request.once("close", resolve);
      request.resume();
      await promise;
    }
    clearTimeout(timer);
    // The connection may serve more requests.
    socket.off("close", onClose);
  }

  async *#cut(request: IncomingMessage, splitter: FrameSplitter): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
        this.#onChunk?.(chunk.length);
        yield* splitter.push(chunk);
      }
    } catch (error) {
      if (error instanceof ProtocolError) throw error;
      this.#gone.abort(new Error("the client has gone", { cause: error }));
      return;
    }
    splitter.end();
  }
}
