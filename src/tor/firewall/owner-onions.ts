// An owner's onion services. They are added on a control connection of the owner's own, so that tor itself lets
// nobody else list or remove them and removes them when the connection ends. Tor hands each incoming connection to a
// Unix socket in a directory of this user alone; it waits in a short queue for the owner to take it.
// Spec: control-spec 3.27 (ADD_ONION), docs/spec/tor-firewall.md 3.

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { orAborted } from "../../base/abort.ts";
import { Channel } from "../../base/channel.ts";
import { BentoError } from "../../base/errors.ts";
import type { ControlClient } from "../control-client.ts";
import type { ControlEvent, OnionDescriptorEvent } from "../control-event.ts";
import { reasonOf } from "./owned-circuit.ts";
import type { OpenStream, OwnerShared, OwnerStreams } from "./owner-streams.ts";

export interface OnionRequest {
  /** `ED25519-V3:` and 88 characters of base64; a new one when absent. */
  readonly key?: string | undefined;
  /** Ports of the onion address. */
  readonly ports: readonly number[];
  /** Whether a new key is handed out, so that the address can come back. */
  readonly keepsKey: boolean;
  /** x25519 keys in base32: with any, only clients that hold one get in. */
  readonly clientKeys?: readonly string[] | undefined;
  /** Streams of one client's circuit at once. */
  readonly streamsMax?: number | undefined;
}

export interface OnionView {
  readonly onion: number;
  /** 56 characters and ".onion". */
  readonly address: string;
}

/** Connections to one onion service that wait to be taken; one more is closed. */
export const BACKLOG_MAX = 16;
/** For the first descriptor to be out: milliseconds. */
const PUBLISH_TIMEOUT_MS = 120_000;

interface Onion {
  readonly view: OnionView;
  readonly serviceId: string;
  readonly servers: readonly Server[];
  readonly waiting: Channel<OpenStream & { port: number }>;
  readonly published: PromiseWithResolvers<void>;
  /** Directories that have a descriptor on its way. */
  readonly uploads: Set<string>;
  hasUploaded: boolean;
  readonly release: () => void;
}

export class OwnerOnions {
  readonly #shared: OwnerShared;
  readonly #streams: OwnerStreams;
  readonly #onions = new Map<number, Onion>();
  #control: Promise<ControlClient> | undefined;
  /** Events that came while ADD_ONION was under way: its reply names the address. */
  #early: OnionDescriptorEvent[] = [];
  #opening = 0;

  constructor(shared: OwnerShared, streams: OwnerStreams) {
    this.#shared = shared;
    this.#streams = streams;
  }

  views(): OnionView[] {
    return [...this.#onions.values()].map(({ view }) => view);
  }

  async open(request: OnionRequest): Promise<OnionView & { key: string | null }> {
    const { account } = this.#shared;
    const release = account.take("onions");
    const id = account.nextId();
    const waiting = new Channel<OpenStream & { port: number }>(BACKLOG_MAX);
    const servers: Server[] = [];
    this.#opening++;
    try {
      account.takeExtends();
      const control = await this.#connected();
      const ports: { virtualPort: number; target: string }[] = [];
      for (const virtualPort of request.ports) {
        const path = join(this.#shared.firewall.options.socketDir, randomBytes(9).toString("hex"));
        servers.push(await this.#listen(path, virtualPort, waiting));
        ports.push({ virtualPort, target: `unix:${path}` });
      }
      this.#shared.ended.throwIfAborted();
      const { key, clientKeys = [], streamsMax } = request;
      const flags = [
        ...(key !== undefined || !request.keepsKey ? ["DiscardPK"] : []),
        ...(clientKeys.length > 0 ? ["V3Auth"] : []),
      ];
      const added = await control.addOnion({
        ports,
        flags,
        clientKeys,
        ...(key === undefined ? {} : { key }),
        ...(streamsMax === undefined ? {} : { maxStreams: streamsMax }),
      });
      const view = { onion: id, address: `${added.serviceId}.onion` };
      const onion: Onion = {
        view,
        serviceId: added.serviceId,
        servers,
        waiting,
        published: Promise.withResolvers(),
        uploads: new Set(),
        hasUploaded: false,
        release,
      };
      onion.published.promise.catch(() => undefined);
      this.#onions.set(id, onion);
      for (const event of this.#early)
        if (event.address === added.serviceId) this.#onDescriptor(onion, event);
      // The owner may have ended while tor answered; its connection is closed then, and the service with it.
      this.#shared.ended.throwIfAborted();
      return { ...view, key: key === undefined && request.keepsKey ? (added.key ?? null) : null };
    } catch (error) {
      this.#onions.delete(id);
      await closeServers(servers);
      release();
      throw error;
    } finally {
      this.#opening--;
      if (this.#opening === 0) this.#early = [];
    }
  }

  async published(id: number, signal: AbortSignal): Promise<void> {
    const onion = this.#onion(id);
    const timeout = new AbortController();
    const cancel = this.#shared.account.clock.after(PUBLISH_TIMEOUT_MS, () => {
      timeout.abort(
        new BentoError("tor-timeout", "Cannot publish onion service: no directory took it in time"),
      );
    });
    try {
      await orAborted(onion.published.promise, AbortSignal.any([signal, timeout.signal]));
    } finally {
      cancel();
    }
  }

  async accept(id: number, signal: AbortSignal): Promise<OpenStream & { port: number }> {
    const { waiting } = this.#onion(id);
    for (;;) {
      const next = await waiting.receive({ signal });
      if (!next) throw unknown(id);
      // It may have ended while it waited.
      if (!next.duplex.destroyed) return next;
    }
  }

  async close(id: number): Promise<void> {
    const onion = this.#onion(id);
    await this.#remove(onion, new BentoError("tor-closed", "Onion service closed"));
    await this.#removeAtTor(onion);
  }

  /** Ends every service, and the connection that would end them as well. Never rejects. */
  async end(reason: BentoError): Promise<void> {
    const onions = [...this.#onions.values()];
    await Promise.all(onions.map(async (onion) => this.#remove(onion, reason)));
    await Promise.all(onions.map(async (onion) => this.#removeAtTor(onion)));
    const control = await this.#control?.catch(() => undefined);
    await control?.[Symbol.asyncDispose]();
  }

  async #removeAtTor({ serviceId }: Onion): Promise<void> {
    try {
      await (await this.#control)?.delOnion(serviceId);
    } catch (error) {
      // Gone with its connection.
      if (!(error instanceof BentoError)) throw error;
    }
  }

  #onion(id: number): Onion {
    const onion = this.#onions.get(id);
    if (!onion) throw unknown(id);
    return onion;
  }

  async #connected(): Promise<ControlClient> {
    this.#control ??= this.#connect();
    this.#control.catch(() => {
      this.#control = undefined;
    });
    return this.#control;
  }

  async #connect(): Promise<ControlClient> {
    const { firewall, ended } = this.#shared;
    const control = await firewall.options.connect(ended);
    try {
      await control.subscribe(["HS_DESC"], (event) => {
        this.#onEvent(event);
      });
      ended.throwIfAborted();
    } catch (error) {
      await control[Symbol.asyncDispose]();
      throw error;
    }
    void control.closed.then(async () => {
      const gone = new BentoError("tor-gone", "Onion service ended: tor is gone");
      for (const onion of this.#onions.values()) await this.#remove(onion, gone);
      this.#control = undefined;
      return undefined;
    });
    return control;
  }

  async #listen(
    path: string,
    port: number,
    waiting: Channel<OpenStream & { port: number }>,
  ): Promise<Server> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      this.#onConnection(socket, port, waiting);
    });
    server.listen(path);
    await once(server, "listening");
    return server;
  }

  #onConnection(socket: Socket, port: number, waiting: Channel<OpenStream & { port: number }>): void {
    const { account } = this.#shared;
    socket.on("error", () => socket.destroy());
    let release: (() => void) | undefined;
    try {
      if (waiting.isClosed || waiting.cost >= BACKLOG_MAX) throw new BentoError("tor-limit", "too many wait");
      account.requireBytes();
      release = account.take("streams");
    } catch {
      // The client sees its stream closed, as by any server that is full.
      socket.destroy();
      return;
    }
    const stream = account.nextId();
    waiting.push({ stream, port, duplex: this.#streams.adopt(stream, socket, release, null) });
  }

  #onEvent(event: ControlEvent): void {
    if (event.kind !== "HS_DESC") return;
    for (const onion of this.#onions.values())
      if (onion.serviceId === event.address) this.#onDescriptor(onion, event);
    if (this.#opening > 0 && this.#early.length < 1000) this.#early.push(event);
  }

  // Events of this kind tell of everybody's services and of everybody's look-ups (control-spec 4.1.25). Only uploads of
  // the owner's own count here; a failure only where a directory of ours has not answered yet.
  #onDescriptor(onion: Onion, event: OnionDescriptorEvent): void {
    const { uploads } = onion;
    const reason = reasonOf(event);
    const directory = /^\$([0-9A-F]{40})/u.exec(event.directory)?.[1] ?? null;
    switch (event.action) {
      case "UPLOAD":
        if (uploads.size < 256) uploads.add(event.directory);
        break;
      case "UPLOADED":
        uploads.delete(event.directory);
        onion.hasUploaded = true;
        break;
      case "FAILED":
        if (!["UPLOAD_REJECTED", "UNEXPECTED"].includes(reason ?? "") || !uploads.delete(event.directory))
          return;
        break;
      default:
        return;
    }
    if (onion.hasUploaded && uploads.size === 0) onion.published.resolve();
    const status = event.action.toLowerCase() as "upload" | "uploaded" | "failed";
    this.#shared.watch.tell({
      kind: "onion",
      onion: onion.view.onion,
      status,
      directory,
      ...(status === "failed" && reason ? { reason } : {}),
    });
  }

  /** Takes it out of the table and lets go of what belongs to it; not yet at tor. */
  async #remove(onion: Onion, reason: BentoError): Promise<void> {
    if (!this.#onions.delete(onion.view.onion)) return;
    onion.published.reject(reason);
    onion.waiting.fail(reason);
    // Nobody can take those that wait any more.
    for (;;) {
      const left = await onion.waiting.receive().catch(() => undefined);
      if (!left) break;
      left.duplex.destroy(reason);
    }
    await closeServers(onion.servers);
    onion.release();
    this.#shared.watch.tell({ kind: "onion", onion: onion.view.onion, status: "closed", directory: null });
  }
}

async function closeServers(servers: readonly Server[]): Promise<void> {
  for (const server of servers) {
    const address = server.address();
    // Connections that were taken go on; the server itself waits for none.
    server.close();
    if (typeof address === "string") await rm(address, { force: true });
  }
}

function unknown(id: number): BentoError {
  return new BentoError("tor-unknown", `Cannot use onion service ${String(id)}: there is no such service`);
}
