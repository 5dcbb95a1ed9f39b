// A replica: takes one introduction after the other from its load balancer, meets each client at its rendezvous point and
// serves it from here. It holds no key of the service. When its load balancer is silent it goes on with the clients it has.
// Boundary: its load balancer, by session messages; clients, by circuits.

import type { Net, Session, Storage } from "bento/function";
import { Channel } from "../../src/base/channel.ts";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import { CircuitPool } from "../../src/onion/circuit-pool.ts";
import { ORPHAN_MS } from "../../src/wire/loadbalancer.ts";
import { Clients } from "./clients.ts";
import { type ByteStream, serveHttp } from "./http-server.ts";
import { Meetings } from "./meetings.ts";
import {
  decodeCommand,
  encodeMessage,
  type ReplicaCommand,
  type ReplicaMessage,
  type ReplicaStart,
} from "./protocol.ts";
import { heldSite, type ReadSite, SITE_MEMORY_BYTES, Site, storedSite, storeSite } from "./site.ts";
import { joinTarget } from "./target.ts";
import { type TorAccess, TorNode } from "./tor-node.ts";

export interface ReplicaParts {
  readonly session: Pick<Session, "send" | "attached" | "signal"> & AsyncIterable<Uint8Array>;
  readonly tor: TorAccess;
  readonly storage?: Storage | undefined;
  readonly net?: Net | undefined;
  readonly clock: Clock;
  readonly log: Log;
  /** CPU time of this process: microseconds. */
  readonly cpuUs: () => number;
}

/** Between two reports, which are heartbeats, too. */
export const REPORT_MS = 500;
/** For everything before it serves: network, circuits, site. */
const START_MS = 10 * 60_000;
/** Circuits kept ready: as many introductions at once find one. */
const POOL = 12;
/** As C tor's services have on the way to rendezvous points, which strangers choose: the relay there learns no neighbour of ours. */
const MIDDLES = 2;
const SITE_CHUNKS_BYTES_MAX = 4 * 2 ** 20;

/** Resolves when it was told to end, or nobody needs it any more. */
export async function runReplica(start: ReplicaStart, parts: ReplicaParts): Promise<void> {
  const replica = new Replica(start, parts);
  await replica.run();
}

class Replica {
  readonly #start: ReplicaStart;
  readonly #parts: ReplicaParts;
  readonly #ended = new AbortController();
  readonly #clients: Clients;
  readonly #meetings: Meetings;
  readonly #siteChunks = new Channel<Uint8Array>(SITE_CHUNKS_BYTES_MAX, ({ length }) => length);
  #siteBytesLeft = 0;
  #site: Site | undefined;
  #node: TorNode | undefined;
  #pool: CircuitPool | undefined;
  #epoch: number;
  #answered = 0;
  #tellsClients = false;
  #isServing = false;
  #isRetiring = false;
  #unsent = 0;
  #sent: Promise<void> = Promise.resolve();
  #needsSite = false;
  #cpu: { us: number; atMs: number };
  #attachedMs: number;

  constructor(start: ReplicaStart, parts: ReplicaParts) {
    this.#start = start;
    this.#parts = parts;
    this.#epoch = start.epoch;
    const { clock } = parts;
    this.#cpu = { us: parts.cpuUs(), atMs: clock.now() };
    this.#attachedMs = clock.now();
    this.#clients = new Clients({
      clock,
      virtualPort: start.virtualPort,
      serve: async (stream) => this.#serve(stream),
    });
    this.#meetings = new Meetings({
      clock,
      circuitTo: async (end, signal) => {
        if (!this.#pool) throw new Error("not connected to Tor yet");
        return this.#pool.to(end, signal);
      },
      parameters: () => this.#node?.network.consensus.parameters ?? new Map<string, number>(),
      add: (circuit) => (this.#clients.isFull ? undefined : this.#clients.add(circuit)),
      onDone: (introduction, failure) => {
        if (introduction.epoch === this.#epoch) this.#answered++;
        const { epoch, number } = introduction;
        this.#say(
          failure === undefined
            ? { kind: "met", epoch, number }
            : { kind: "failed", epoch, number, reason: failure },
        );
      },
    });
  }

  async run(): Promise<void> {
    const { session, clock, tor, log } = this.#parts;
    const onStop = () => {
      this.#ended.abort(session.signal.reason);
    };
    session.signal.addEventListener("abort", onStop, { once: true });
    if (session.signal.aborted) onStop();
    const { signal } = this.#ended;
    const stopTimer = clock.after(START_MS, () => {
      this.#ended.abort(new Error("the replica could not begin"));
    });
    void this.#listen();
    if (this.#start.isRehearsal === true) {
      await this.#rehearse(stopTimer);
      return;
    }
    const node = TorNode.start(tor, { clock, log, signal });
    node.catch(() => undefined);
    try {
      const [site, ready] = await Promise.all([this.#loadSite(), node]);
      this.#site = site;
      this.#node = ready;
      const { builder, paths } = ready;
      this.#pool = new CircuitPool({ builder, paths, size: POOL, middles: MIDDLES, clock, log });
      stopTimer();
      this.#isServing = true;
      this.#meetings.open();
      this.#say({ kind: "serving", epoch: this.#epoch });
      await this.#reportUntilEnd();
      this.#say({ kind: "done", epoch: this.#epoch });
      await this.#sent;
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      stopTimer();
      session.signal.removeEventListener("abort", onStop);
      this.#ended.abort(new Error("the replica ends"));
      this.#meetings.close();
      this.#clients.close();
      this.#pool?.[Symbol.dispose]();
      node.then(
        (started) => started[Symbol.dispose](),
        () => undefined,
      );
    }
  }

  async #rehearse(stopTimer: () => void): Promise<void> {
    try {
      await this.#loadSite();
      await this.#sent;
    } finally {
      stopTimer();
      this.#ended.abort(new Error("the replica ends"));
    }
  }

  async #listen(): Promise<void> {
    try {
      for await (const bytes of this.#parts.session) await this.#obey(bytes);
    } catch (error) {
      this.#parts.log.warn("replica: its session failed", { error: messageOf(error) });
    }
  }

  async #obey(bytes: Uint8Array): Promise<void> {
    let command: ReplicaCommand;
    try {
      command = decodeCommand(bytes);
    } catch (error) {
      // A newer load balancer, or a broken one. What is not understood changes nothing.
      this.#parts.log.warn("replica: command dropped", { error: messageOf(error) });
      return;
    }
    if (command.kind === "site") {
      await this.#takeSite(command.bytes);
      return;
    }
    if (command.epoch < this.#epoch) return;
    if (command.epoch > this.#epoch) this.#answered = 0;
    this.#epoch = command.epoch;
    switch (command.kind) {
      case "meet":
        this.#meetings.take(command);
        return;
      case "settings":
        this.#tellsClients = command.tellsClients;
        // Whoever has just come to balance knows nothing of us.
        if (this.#isServing) this.#say({ kind: "serving", epoch: this.#epoch });
        else this.#say({ kind: "hello", epoch: this.#epoch, needsSite: this.#needsSite });
        return;
      case "retire":
        this.#isRetiring = true;
        return;
      case "end":
        this.#ended.abort(new Error("told to end"));
    }
  }

  async #takeSite(bytes: Uint8Array): Promise<void> {
    if (this.#siteChunks.isClosed) return;
    this.#siteBytesLeft -= bytes.length;
    if (this.#siteBytesLeft < 0) {
      this.#siteChunks.fail(new Error("Cannot take site: more bytes than were announced"));
      return;
    }
    await this.#siteChunks.send(bytes, { signal: this.#ended.signal });
    if (this.#siteBytesLeft === 0) this.#siteChunks.close();
  }

  async #loadSite(): Promise<Site | undefined> {
    const { serve, epoch } = this.#start;
    if (serve.kind === "target") {
      if (!this.#parts.net) throw new Error("Cannot serve a target: no connections were granted");
      this.#say({ kind: "hello", epoch, needsSite: false });
      return undefined;
    }
    const { storage } = this.#parts;
    const about = { bytes: serve.siteBytes, digest: serve.siteDigest };
    let read = storage && (await storedSite(storage, about));
    if (!read) {
      this.#siteBytesLeft = about.bytes;
      if (about.bytes === 0) this.#siteChunks.close();
      this.#needsSite = true;
      this.#say({ kind: "hello", epoch, needsSite: true });
      read = await this.#receiveSite(about);
      this.#needsSite = false;
    } else {
      this.#say({ kind: "hello", epoch, needsSite: false });
    }
    return Site.open(read, about);
  }

  async #receiveSite(about: { readonly bytes: number; readonly digest: string }): Promise<ReadSite> {
    const { storage } = this.#parts;
    if (!storage) return heldSite(this.#siteChunks, SITE_MEMORY_BYTES);
    await storeSite(storage, this.#siteChunks, about);
    const read = await storedSite(storage, about);
    if (!read) throw new Error("Cannot keep site: it was stored and is not there");
    return read;
  }

  async #serve(stream: ByteStream): Promise<void> {
    const { serve } = this.#start;
    if (serve.kind === "target") {
      if (this.#parts.net) await joinTarget(stream, this.#parts.net, serve);
    } else if (this.#site) {
      await serveHttp(stream, this.#site, this.#parts.clock);
    }
  }

  async #reportUntilEnd(): Promise<void> {
    const { clock, session } = this.#parts;
    for (;;) {
      await clock.sleep(REPORT_MS, this.#ended.signal);
      this.#clients.measure();
      const nowMs = clock.now();
      if (session.attached) this.#attachedMs = nowMs;
      const isForgotten = nowMs - this.#attachedMs > ORPHAN_MS;
      if ((this.#isRetiring || isForgotten) && this.#clients.active === 0) return;
      // A report that waits for somebody would be old news when it comes.
      if (session.attached && this.#unsent === 0) this.#report(nowMs);
    }
  }

  #report(nowMs: number): void {
    const us = this.#parts.cpuUs();
    const cpuPercent = (us - this.#cpu.us) / 10 / Math.max(1, nowMs - this.#cpu.atMs);
    this.#cpu = { us, atMs: nowMs };
    this.#say({
      kind: "load",
      epoch: this.#epoch,
      load: {
        connections: this.#clients.active,
        bytesPerSecond: this.#clients.bytesPerSecond,
        bytesTotal: this.#clients.bytesTotal,
        cpuPercent,
        met: this.#meetings.met,
        failed: this.#meetings.failed,
        answered: this.#answered,
        clients: this.#tellsClients ? this.#clients.loads() : [],
      },
    });
  }

  /** One behind the other. What cannot be sent is lost with the session, and so is what it was for. */
  #say(message: ReplicaMessage): void {
    this.#unsent++;
    const before = this.#sent;
    this.#sent = (async () => {
      await before;
      try {
        await this.#parts.session.send(encodeMessage(message));
      } catch (error) {
        this.#parts.log.debug("replica: message not sent", { error: messageOf(error) });
      } finally {
        this.#unsent--;
      }
    })();
  }
}
