// A DNS server for tests: answers A and AAAA over UDP on loopback, counts what it was asked, and can be as hostile
// as a function's own zone. RFC 1035 section 4.

import { createSocket } from "node:dgram";
import { once } from "node:events";
import { parseIp } from "../../base/ip-address.ts";

const TYPE = { a: 1, aaaa: 28 } as const;

export interface TestDnsServer extends AsyncDisposable {
  readonly address: { readonly kind: "tcp"; readonly host: string; readonly port: number };
  /** "a name" or "aaaa name" for each question, in order. */
  readonly questions: readonly string[];
}

/**
 * @param answer the addresses for the nth question of a kind about a name; both families may be mixed, those of the
 *   asked one are sent. undefined: no answer at all
 */
export async function startDnsServer(
  answer: (name: string, count: number) => readonly string[] | undefined,
): Promise<TestDnsServer> {
  const socket = createSocket("udp4");
  const questions: string[] = [];
  socket.on("message", (query, from) => {
    const { name, end } = readName(query);
    const type = query.readUInt16BE(end);
    const question = `${type === TYPE.a ? "a" : "aaaa"} ${name}`;
    const count = questions.filter((earlier) => earlier === question).length;
    questions.push(question);
    const addresses = answer(name, count);
    if (!addresses) return;
    const bits = type === TYPE.a ? 32 : 128;
    const records = addresses.flatMap((text) => {
      const address = parseIp(text);
      if (!address || (address.version === 4 ? 32 : 128) !== bits) return [];
      return [record(type, Buffer.from(address.bits.toString(16).padStart(bits / 4, "0"), "hex"))];
    });
    const header = Buffer.alloc(12);
    query.copy(header, 0, 0, 2);
    // Response, recursion desired and available; one question; NXDOMAIN when there is nothing at all.
    header.writeUInt16BE(addresses.length === 0 ? 0x8183 : 0x8180, 2);
    header.writeUInt16BE(1, 4);
    header.writeUInt16BE(records.length, 6);
    socket.send(Buffer.concat([header, query.subarray(12, end + 4), ...records]), from.port, from.address);
  });
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  const { port } = socket.address();
  return {
    address: { kind: "tcp", host: "127.0.0.1", port },
    questions,
    async [Symbol.asyncDispose]() {
      await new Promise<void>((resolve) => {
        socket.close(resolve);
      });
    },
  };
}

function readName(query: Buffer): { name: string; end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let length = query.readUInt8(at); length > 0; length = query.readUInt8(at)) {
    labels.push(query.toString("latin1", at + 1, at + 1 + length));
    at += 1 + length;
  }
  return { name: labels.join(".").toLowerCase(), end: at + 1 };
}

/** A record about the name at offset 12, class IN, one second to live. */
function record(type: number, data: Buffer): Buffer {
  const head = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 1, 0, data.length]);
  return Buffer.concat([head, data]);
}
