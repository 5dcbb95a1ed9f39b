// A small DNS server on loopback for tests: A and AAAA records of its own zone, NXDOMAIN for all else, silence where a
// test wants it, and answers that may change per query, as an attacker's would (rebinding). It keeps the questions. UDP
// only, one question per query. RFC 1035 section 4.

import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { ProtocolError } from "../../src/base/errors.ts";
import { parseIp } from "../../src/base/ip-address.ts";

/**
 * Addresses of a name, as text, of both families: those of the asked one are sent. undefined: no such name; "silence": no
 * answer. `count` is the number of earlier questions of this type about this name.
 */
export type DnsZone = (
  name: string,
  type: "A" | "AAAA",
  count: number,
) => readonly string[] | "silence" | undefined;

const TYPE_A = 1;
const TYPE_AAAA = 28;
const HEADER_BYTES = 12;
/** RFC 1035 4.2.1: a UDP answer without EDNS. 20 AAAA records fit. */
const ANSWERS_MAX = 16;
/** Short, so that changing answers are seen. */
const TTL_S = 1;

export class DnsServer implements AsyncDisposable {
  readonly #socket: Socket;
  readonly address: { readonly kind: "tcp"; readonly host: string; readonly port: number };
  /** "A name" or "AAAA name" for each question, in order. */
  readonly questions: readonly string[];

  private constructor(socket: Socket, questions: readonly string[]) {
    this.#socket = socket;
    this.questions = questions;
    const { address, port } = socket.address();
    this.address = { kind: "tcp", host: address, port };
  }

  /** At any free port of 127.0.0.1 unless told; port 53 needs root. */
  static async start(
    zone: DnsZone,
    at: { readonly host: string; readonly port: number } = { host: "127.0.0.1", port: 0 },
  ): Promise<DnsServer> {
    const socket = createSocket("udp4");
    const questions: string[] = [];
    const counting = (name: string, type: "A" | "AAAA") => {
      const question = `${type} ${name}`;
      const count = questions.filter((earlier) => earlier === question).length;
      questions.push(question);
      return zone(name, type, count);
    };
    socket.bind({ address: at.host, port: at.port });
    await once(socket, "listening");
    socket.on("error", () => {
      // An answer that could not be sent: the asker repeats its question.
    });
    socket.on("message", (query, from) => {
      try {
        const answer = answerQuery(query, counting);
        if (answer) socket.send(answer, from.port, from.address);
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
      }
    });
    return new DnsServer(socket, questions);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#socket.close(resolve);
    await promise;
  }
}

// Sample query for "a.test", type A:
//   1234 0100 0001 0000 0000 0000   ID, flags (RD), QDCOUNT 1, no other sections
//   01 61 04 74657374 00 0001 0001  labels, root, QTYPE, QCLASS IN
/** The answer to one query, undefined for silence. Throws ProtocolError on anything but one plain question. */
function answerQuery(
  query: Uint8Array,
  zone: (name: string, type: "A" | "AAAA") => ReturnType<DnsZone>,
): Uint8Array | undefined {
  const bytes = Buffer.from(query.buffer, query.byteOffset, query.byteLength);
  if (bytes.length < HEADER_BYTES + 5 || ((bytes[2] ?? 0) & 0xf8) !== 0 || bytes.readUInt16BE(4) !== 1)
    throw malformed();
  const { name, end } = readName(bytes);
  if (bytes.length < end + 4) throw malformed();
  const type = bytes.readUInt16BE(end);
  const isAddress = type === TYPE_A || type === TYPE_AAAA;
  const texts = zone(name, type === TYPE_AAAA ? "AAAA" : "A");
  if (texts === "silence") return undefined;
  const records = isAddress ? (texts ?? []).slice(0, ANSWERS_MAX).flatMap((text) => record(text, type)) : [];
  const header = Buffer.alloc(HEADER_BYTES);
  bytes.copy(header, 0, 0, 2);
  // QR, AA, RD as asked, RA; RCODE 3 (NXDOMAIN) for names outside the zone.
  header.writeUInt16BE(0x8480 | (bytes.readUInt16BE(2) & 0x0100) | (texts === undefined ? 3 : 0), 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(records.length, 6);
  return Buffer.concat([header, bytes.subarray(HEADER_BYTES, end + 4), ...records]);
}

function readName(bytes: Buffer): { name: string; end: number } {
  const labels: string[] = [];
  let at = HEADER_BYTES;
  for (;;) {
    const length = bytes[at] ?? 255;
    if (length === 0) return { name: labels.join(".").toLowerCase(), end: at + 1 };
    // RFC 1035 4.1.4: 63 at most; above are pointers, which a question has no use for.
    if (length > 63 || at + 1 + length >= bytes.length) throw malformed();
    labels.push(bytes.toString("latin1", at + 1, at + 1 + length));
    at += 1 + length;
  }
}

function record(text: string, type: number): Buffer[] {
  const address = parseIp(text);
  if (!address || (address.version === 4) !== (type === TYPE_A)) return [];
  const length = address.version === 4 ? 4 : 16;
  const bytes = Buffer.alloc(12 + length);
  // 0xC00C points at the name in the question.
  bytes.writeUInt16BE(0xc00c, 0);
  bytes.writeUInt16BE(type, 2);
  bytes.writeUInt16BE(1, 4);
  bytes.writeUInt32BE(TTL_S, 6);
  bytes.writeUInt16BE(length, 10);
  Buffer.from(address.bits.toString(16).padStart(2 * length, "0"), "hex").copy(bytes, 12);
  return [bytes];
}

function malformed(): ProtocolError {
  return new ProtocolError("dns-query", "Cannot read DNS query: not one plain question");
}
