// A link over a stream of cells that somebody else has opened: connection, TLS and handshake are done there, identities
// checked. For functions, whose box opens links for them (`env.relays`) and says what it has proved.
// Boundary: the relay. Whoever opened the stream is trusted. Does no I/O of its own.

import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, messageOf, ProtocolError } from "../../base/errors.ts";
import { fromHex, hex } from "../fields.ts";
import { CellParser } from "./cell.ts";
import type { RelayIdentity } from "./certs-cell.ts";
import { Link } from "./link.ts";

/** Cells both ways, as bytes cut anywhere. */
export interface CellStream {
  /** 40 and 64 hexadecimal digits: what the relay has proved to be. */
  readonly fingerprint: string;
  readonly ed25519: string;
  readonly version: 4 | 5;
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  close(): Promise<void>;
}

/** Opens links by fingerprint. */
export interface CellStreams {
  link(fingerprint: string): Promise<CellStream>;
}

/** Bytes given to the stream and not yet taken: with more, data waits in circuits, which share the link fairly. */
const WAITING_BYTES_MAX = 128 * 1024;
/** How long what was written may take to leave when the link is closed: milliseconds. */
const CLOSE_MS = 5_000;

/**
 * A link to exactly this relay. Throws what `link` throws, ProtocolError `onion-wrong-relay`, or the signal's reason; a
 * stream that comes too late is closed.
 *
 * @example
 * ```ts
 * const builder = new CircuitBuilder((relay, { signal }) => openGrantedLink(env.relays, relay, signal));
 * ```
 */
export async function openGrantedLink(
  streams: CellStreams,
  relay: { readonly identity: Partial<RelayIdentity> & Pick<RelayIdentity, "rsa"> },
  signal?: AbortSignal,
): Promise<Link> {
  signal?.throwIfAborted();
  const stream = await streams.link(hex(relay.identity.rsa).toUpperCase());
  try {
    signal?.throwIfAborted();
    const wanted = relay.identity.ed25519;
    if (wanted && hex(wanted) !== stream.ed25519.toLowerCase())
      throw new ProtocolError(
        "onion-wrong-relay",
        `Cannot open link: the relay has ed25519 identity ${stream.ed25519}, wanted ${hex(wanted)}`,
      );
    return linkOver(stream);
  } catch (error) {
    await stream.close();
    throw error;
  }
}

/** A link over an open stream, which ends with it. */
export function linkOver(stream: CellStream, { clock = systemClock }: { readonly clock?: Clock } = {}): Link {
  const parser = new CellParser();
  parser.widen();
  const opened = {
    version: stream.version,
    peer: { rsa: fromHex(stream.fingerprint), ed25519: fromHex(stream.ed25519) },
    clockSkewS: undefined,
    parser,
  };
  const writer = stream.writable.getWriter();
  let waitingBytes = 0;
  let stopTimer: () => void = () => undefined;
  const send = async (bytes: Uint8Array) => {
    try {
      await writer.write(bytes);
      waitingBytes -= bytes.length;
      if (waitingBytes <= WAITING_BYTES_MAX / 2) link.drained();
    } catch (error) {
      link.fail(lost(error));
    }
  };
  const link = new Link(opened, {
    write(bytes) {
      waitingBytes += bytes.length;
      void send(bytes);
      return waitingBytes < WAITING_BYTES_MAX;
    },
    close() {
      // What was written before still goes out; a relay that takes none of it is left.
      writer.close().catch(() => undefined);
      stopTimer = clock.after(CLOSE_MS, () => void stream.close());
    },
  });
  const receive = async () => {
    try {
      // To the end also when the link is over: the far end closes when it has everything.
      for await (const chunk of stream.readable) link.receive(chunk);
      link.fail(lost(new Error("the relay closed the connection")));
    } catch (error) {
      link.fail(lost(error));
    } finally {
      stopTimer();
      await stream.close();
    }
  };
  void receive();
  return link;
}

function lost(cause: unknown): BentoError {
  return new BentoError("onion-link-closed", `Link closed: ${messageOf(cause)}`, { cause });
}
