// The only file of this room that opens sockets: a TLS connection to a relay, and the link on it.
// Authentication is not TLS's: relays' certificates are signed by nobody. The CERTS cell proves the relay's identity and
// names this very certificate (tor-spec 2, 4.2).

import { isIP } from "node:net";
import { connect, type TLSSocket } from "node:tls";
import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, messageOf } from "../../base/errors.ts";
import { sha256 } from "../crypto/primitives.ts";
import type { RelayIdentity } from "./certs-cell.ts";
import { LinkHandshake, type LinkOpened } from "./handshake.ts";
import { Link } from "./link.ts";

export interface LinkTarget {
  /** An IP address: names are not resolved. */
  readonly host: string;
  readonly port: number;
  /** Identities that the relay must prove. */
  readonly identity: Partial<RelayIdentity>;
}

/** TCP, TLS and link handshake together. C tor gives up after about as long. */
export const LINK_OPEN_MS = 30_000;

export interface OpenLinkOptions {
  readonly signal?: AbortSignal | undefined;
  readonly clock?: Clock;
}

/** Connects and authenticates. Throws BentoError `onion-unreachable`, ProtocolError, or the signal's reason. */
export async function openLink(target: LinkTarget, options: OpenLinkOptions = {}): Promise<Link> {
  return openLinkSocket(target, options, carry);
}

/**
 * As `openLink`, for whoever moves the cells in another way. `take` gets the authenticated connection in the turn in which
 * the handshake ended: it must listen to its events at once, and what came with the handshake's last cell waits in the parser.
 */
export async function openLinkSocket<T>(
  target: LinkTarget,
  options: OpenLinkOptions,
  take: (socket: TLSSocket, opened: LinkOpened) => T,
): Promise<T> {
  const clock = options.clock ?? systemClock;
  options.signal?.throwIfAborted();
  if (isIP(target.host) === 0)
    throw new BentoError("onion-unreachable", `Cannot open link: "${target.host}" is no address`);
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const socket = connect({
    host: target.host,
    port: target.port,
    // See above: checked in the link handshake instead.
    rejectUnauthorized: false,
    // A name would be sent in the clear, and relays have none.
    servername: "",
    minVersion: "TLSv1.2",
  });
  // Small cells must not wait for the acknowledgement of those before them.
  socket.setNoDelay(true);
  const stopTimer = clock.after(LINK_OPEN_MS, () => {
    reject(
      new BentoError("onion-unreachable", `Cannot open link: no answer in ${String(LINK_OPEN_MS / 1000)} s`),
    );
  });
  const onAbort = () => {
    reject(options.signal?.reason as Error);
  };
  options.signal?.addEventListener("abort", onAbort, { once: true });
  socket.once("error", (error) => {
    reject(new BentoError("onion-unreachable", `Cannot open link: ${messageOf(error)}`, { cause: error }));
  });
  socket.once("close", () => {
    reject(new BentoError("onion-unreachable", "Cannot open link: the relay closed the connection"));
  });
  socket.once("secureConnect", () => {
    shakeHands(
      socket,
      target,
      clock,
      (opened) => {
        socket.removeAllListeners("error");
        socket.removeAllListeners("close");
        resolve(take(socket, opened));
      },
      reject,
    );
  });
  try {
    return await promise;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    stopTimer();
    options.signal?.removeEventListener("abort", onAbort);
  }
}

function shakeHands(
  socket: TLSSocket,
  target: LinkTarget,
  clock: Clock,
  done: (opened: LinkOpened) => void,
  reject: (reason: unknown) => void,
): void {
  const certificate = socket.getPeerCertificate().raw;
  const handshake = new LinkHandshake({
    tlsCertificate: sha256(certificate),
    expect: target.identity,
    nowMs: clock.now(),
  });
  const onData = (chunk: Uint8Array) => {
    try {
      const { send, opened } = handshake.receive(chunk);
      if (send.length > 0) socket.write(send);
      if (!opened) return;
      socket.off("data", onData);
      done(opened);
    } catch (error) {
      reject(error);
    }
  };
  socket.on("data", onData);
  socket.write(handshake.start());
}

/** From here on the socket's events are the link's. */
function carry(socket: TLSSocket, opened: LinkOpened): Link {
  const link = new Link(opened, {
    write: (bytes) => socket.write(bytes),
    close: () => {
      // What was written before still goes out; a relay that never closes its side is cut off.
      socket.end();
      socket.destroySoon();
    },
  });
  socket.on("data", (chunk: Uint8Array) => {
    link.receive(chunk);
  });
  socket.on("drain", () => {
    link.drained();
  });
  socket.on("error", (error) => {
    link.fail(new BentoError("onion-link-closed", `Link closed: ${messageOf(error)}`, { cause: error }));
  });
  socket.on("close", () => {
    link.fail(new BentoError("onion-link-closed", "Link closed: the relay closed the connection"));
  });
  // Cells that arrived together with NETINFO.
  link.receive(new Uint8Array(0));
  return link;
}
