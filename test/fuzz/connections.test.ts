// Raw bytes at both ends of a real connection: a box that serves them, a client that is answered with them, a box
// that reads them from a guest. Whatever came, everybody else is served as before.

import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { PassThrough } from "node:stream";
import { after, before } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { GuestLink } from "../../src/box/host/guest-link.ts";
import { LegacyListener } from "../../src/box/legacy2021/legacy-listener.ts";
import { BoxClient, directDial } from "../../src/client/client.ts";
import { encodeGuestFrame, GUEST_FRAME } from "../../src/wire/guest-frame.ts";
import { encodeClientFrame, prefixLength } from "../../src/wire/session-frame.ts";
import { newInstanceId, newInvocationToken } from "../../src/wire/token.ts";
import { BoxBench } from "../support/box-bench.ts";
import { fuzz } from "./fuzz.ts";

const owned = new AsyncDisposableStack();
let box: { port: number; legacy: LegacyListener };
let answering: { port: number; answer: readonly Uint8Array[] };

before(async () => {
  box = await startBox();
  answering = await startAnswering();
});
after(async () => {
  await owned.disposeAsync();
});

const pack = { manifest: { name: "a", image: "deno" }, source: "export default {}" } as const;
const start = prefixLength(
  encodeClientFrame({ kind: "start", start: { package: structuredClone(pack), invocation: { args: [] } } }),
);
const request = (head: string, body: string | Uint8Array = "") =>
  Buffer.concat([
    Buffer.from(`${head}\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n`),
    Buffer.from(body),
  ]);
const session = "Content-Type: application/vnd.bento.session";
const response = (status: string, type: string, body: string) =>
  `HTTP/1.1 ${status}\r\nContent-Type: ${type}\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
const info =
  '{"software":"x","protocol":1,"name":"n","relay":null,"contact":null,"onion":null,"accepting":true}';
const frames = [
  encodeGuestFrame(GUEST_FRAME.ready, 0),
  encodeGuestFrame(GUEST_FRAME.output, 0, Buffer.from("hello")),
  encodeGuestFrame(GUEST_FRAME.call, 1, Buffer.from('{"method":"box.facts","params":{}}')),
  encodeGuestFrame(GUEST_FRAME.log, 0, Buffer.from('{"level":"info","text":"t"}')),
  encodeGuestFrame(GUEST_FRAME.credit, 0, Uint8Array.of(0, 0, 4, 0)),
  encodeGuestFrame(GUEST_FRAME.done, 0),
];
const legacy = (type: number, body: string) => {
  const header = Buffer.from([type, 0, 0, 0, 0]);
  header.writeUInt32BE(body.length, 1);
  return Buffer.concat([header, Buffer.from(body)]);
};

fuzz([
  {
    name: "HTTP of a box",
    seeds: [
      request("GET /v1/info HTTP/1.1"),
      request("POST /v1/functions HTTP/1.1\r\nContent-Type: application/json", JSON.stringify(pack)),
      request(`POST /v1/exec HTTP/1.1\r\nAuthorization: Bearer ${newInvocationToken()}`, '{"args":[]}'),
      request(`POST /v1/run HTTP/1.1\r\n${session}`, start),
      `POST /v1/run HTTP/1.1\r\nHost: x\r\n${session}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n`,
      `GET /v1/open?offset=5 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer ${newInstanceId()}\r\n\r\n`,
    ],
    words: [
      "Transfer-Encoding: chunked\r\n",
      "Expect: 100-continue\r\n",
      "Upgrade: x\r\n",
      "Connection: close\r\n",
      "/../",
      "?offset=-1",
      "HTTP/1.0",
      "HTTP/2.0",
    ],
    parse: async (_, chunks) => {
      await exchange(box.port, chunks);
    },
    slow: true,
  },
  {
    name: "2021 protocol of a box",
    seeds: [
      legacy(0, JSON.stringify({ name: "hello", code: "def hello(): pass" })),
      legacy(1, JSON.stringify({ call: "hello()", token: newInvocationToken() })),
      legacy(2, newInstanceId()),
      legacy(4, `${newInstanceId()}data`),
    ],
    parse: async (_, chunks) => {
      await exchange(box.legacy.port, chunks);
    },
    slow: true,
  },
  {
    name: "answers to a client",
    seeds: [
      response("200 OK", "application/json", info),
      response(
        "400 Bad Request",
        "application/problem+json",
        '{"type":"about:blank","title":"t","status":400,"code":"box-full"}',
      ),
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
      `HTTP/1.1 200 OK\r\n${session}\r\n\r\n`,
    ],
    words: [
      "HTTP/1.1 100 Continue\r\n\r\n",
      "Transfer-Encoding: chunked\r\n",
      "Content-Length: 99999999999\r\n",
      "Content-Encoding: gzip\r\n",
      "Location: /\r\n",
    ],
    parse: async (bytes, chunks) => {
      answering.answer = chunks;
      using client = new BoxClient({ address: `127.0.0.1:${answering.port}`, dial: directDial });
      switch (bytes.length % 3) {
        case 0:
          await client.info();
          break;
        case 1: {
          await using running = await client.run({ package: structuredClone(pack) }, { args: [] });
          await running.detach();
          break;
        }
        default: {
          await using opened = await client.open(newInstanceId());
          await opened.detach();
        }
      }
    },
    slow: true,
  },
  {
    name: "GuestLink",
    seeds: [...frames, Buffer.concat(frames), Buffer.concat(frames.slice(0, 4))],
    parse: async (_, chunks) => {
      const stdin = new PassThrough();
      const stdout = new PassThrough();
      stdin.resume();
      await using link = new GuestLink({ stdin, stdout, log: silentLog });
      stdout.write(frames[0]);
      await link.ready;
      link.start(
        { name: "a", source: "", invocation: { args: [] }, grant: {} as never },
        { box: async () => ({}) },
        { onOutput: ({ cost }) => link.credit(cost), onValue: async (value) => value.release() },
      );
      for (const chunk of chunks) stdout.write(chunk);
      stdout.end();
      const end = await link.ended;
      assert.ok(["returned", "failed", "lost"].includes(end.kind));
    },
  },
]);

/** Sends `chunks` and waits until the other side has hung up. */
async function exchange(port: number, chunks: readonly Uint8Array[]): Promise<void> {
  const socket = connect({ port, host: "127.0.0.1", noDelay: true });
  socket.on("error", () => undefined);
  socket.resume();
  for (const chunk of chunks) socket.write(chunk);
  socket.end();
  await once(socket, "close");
}

async function startBox(): Promise<typeof box> {
  const bench = owned.use(await BoxBench.start());
  const legacyListener = owned.use(
    await LegacyListener.listen(
      { host: "127.0.0.1", port: 0 },
      {
        operations: bench.operations,
        manifest: () => ({ name: "a", image: "python" }),
        clock: systemClock,
        log: silentLog,
      },
    ),
  );
  return { port: bench.client.port, legacy: legacyListener };
}

/** A box that answers every connection with given bytes, whatever it is asked. */
async function startAnswering(): Promise<typeof answering> {
  const state = { port: 0, answer: [] as readonly Uint8Array[] };
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.once("close", () => sockets.delete(socket));
    socket.once("data", () => {
      for (const chunk of state.answer) socket.write(chunk);
      socket.end();
    });
    socket.resume();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  owned.defer(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  });
  state.port = (server.address() as AddressInfo).port;
  return state;
}
