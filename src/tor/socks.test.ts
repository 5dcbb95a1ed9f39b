import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import test from "node:test";
import * as fc from "fast-check";
import { BentoError } from "../base/errors.ts";
import { encodeRequest, SOCKS_REPLY_BYTES_MAX, SocksReply, socksConnect, socksFailure } from "./socks.ts";

const isolation = { username: "u", password: "p" };
const OK = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

test("encodeRequest: greeting, credentials and request in one piece", () => {
  assert.equal(
    Buffer.from(encodeRequest({ host: "a.onion", port: 443, isolation })).toString("hex"),
    "05010201017501700501000307612e6f6e696f6e01bb",
  );
  assert.equal(Buffer.from(encodeRequest({ host: "h", port: 80 })).toString("hex"), "0501000501000301680050");
});

test("encodeRequest: lengths hold at 255 and fail at 0 and 256; ports at 0 and 65536", () => {
  encodeRequest({ host: "h".repeat(255), port: 65_535, isolation });
  for (const bad of [
    { host: "", port: 80 },
    { host: "h".repeat(256), port: 80 },
    { host: "h", port: 0 },
    { host: "h", port: 65_536 },
    { host: "h", port: 80, isolation: { username: "", password: "p" } },
    { host: "h", port: 80, isolation: { username: "u", password: "é".repeat(128) } },
    { host: "h", port: 80, isolation: { username: "<torS0X>0", password: "p" } },
  ])
    assert.throws(() => encodeRequest(bad), { code: "tor-bad-address" });
});

test("SocksReply: any split, with or without the method message, leaves the bytes that follow", () => {
  fc.assert(
    fc.property(
      fc.boolean(),
      fc.uint8Array({ maxLength: 20 }),
      fc.array(fc.nat(40), { maxLength: 6 }),
      (hasMethod, rest, cuts) => {
        const bytes = Uint8Array.of(...(hasMethod ? [5, 2] : []), 1, 0, ...OK, ...rest);
        const reply = new SocksReply({ host: "h", port: 1, isolation });
        const edges = [0, ...cuts.sort((a, b) => a - b), bytes.length];
        const after: number[] = [];
        edges.slice(1).forEach((end, index) => {
          const piece = bytes.subarray(edges[index], end);
          if (reply.isDone) after.push(...piece);
          else after.push(...(reply.push(piece) ?? []));
        });
        assert.deepEqual(after, [...rest]);
      },
    ),
  );
});

test("SocksReply: garbage throws or completes within the limit", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: SOCKS_REPLY_BYTES_MAX, maxLength: 300 }),
      fc.boolean(),
      (bytes, auth) => {
        const reply = new SocksReply(auth ? { host: "h", port: 1, isolation } : { host: "h", port: 1 });
        try {
          assert.ok(reply.push(bytes));
        } catch (error) {
          assert.ok(error instanceof BentoError);
        }
      },
    ),
  );
});

test("socksFailure: extended codes have their own names and advice", () => {
  assert.equal(socksFailure(0xf0, { host: "x.onion", port: 80 }).code, "tor-onion-descriptor-not-found");
  assert.ok(socksFailure(0xf0, { host: "x.onion", port: 80 }).advice);
  assert.equal(socksFailure(0x77, { host: "x", port: 80 }).code, "tor-stream-failed");
});

/** A SOCKS proxy that hands each connection to the test. */
async function proxyFor(handle: (socket: Socket) => void) {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {
      // The client under test may go away at any moment.
    });
    handle(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    address: { host: "127.0.0.1", port },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

test("socksConnect: request and optimistic data leave before any answer", async () => {
  const seen = Promise.withResolvers<Buffer>();
  await using proxy = await proxyFor((socket) => {
    socket.once("data", (bytes: Buffer) => {
      seen.resolve(bytes);
      socket.end(Buffer.from([1, 0, ...OK, ...Buffer.from("answer")]));
    });
  });
  const stream = await socksConnect({
    proxy: proxy.address,
    host: "h",
    port: 80,
    isolation,
    optimisticData: Buffer.from("first"),
  });
  assert.equal((await seen.promise).toString("latin1").slice(-5), "first");
  assert.equal(await text(stream), "answer");
});

test("socksConnect: a far end that speaks first is heard without anything written", async () => {
  await using proxy = await proxyFor((socket) => {
    socket.once("data", () => socket.end(Buffer.from([5, 0, ...OK, ...Buffer.from("banner")])));
  });
  assert.equal(await text(await socksConnect({ proxy: proxy.address, host: "h", port: 80 })), "banner");
});

test("socksConnect: refusals, closed connections, absent proxies and aborts are told apart", async () => {
  await using refusing = await proxyFor((socket) => {
    socket.once("data", () => socket.end(Buffer.from([5, 0, 5, 0xf0, 0, 1])));
  });
  await using closing = await proxyFor((socket) => {
    socket.once("data", () => socket.end());
  });
  await using silent = await proxyFor(() => {
    /* never answers */
  });
  const to = (proxy: { address: { host: string; port: number } }, signal?: AbortSignal) =>
    socksConnect({ proxy: proxy.address, host: "h", port: 80, signal });
  await assert.rejects(to(refusing), { code: "tor-onion-descriptor-not-found" });
  await assert.rejects(to(closing), { code: "tor-stream-closed" });
  await assert.rejects(to({ address: { host: "127.0.0.1", port: 1 } }), { code: "tor-socks-unreachable" });
  const abort = new AbortController();
  const waiting = to(silent, abort.signal);
  abort.abort(new Error("enough"));
  await assert.rejects(waiting, /enough/u);
});

test("socksConnect: many bytes both ways arrive whole", async () => {
  await using proxy = await proxyFor((socket) => {
    socket.once("data", (bytes: Buffer) => {
      socket.write(Buffer.from([5, 0, ...OK]));
      socket.write(bytes.subarray(encodeRequest({ host: "h", port: 80 }).length));
      socket.pipe(socket);
    });
  });
  const stream = await socksConnect({ proxy: proxy.address, host: "h", port: 80 });
  const sent = Buffer.alloc(3_000_000, "abcdefg");
  stream.end(sent);
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk as Uint8Array);
  assert.ok(Buffer.concat(chunks).equals(sent));
});

test("RESOLVE: asked with port 0, answered with an address of either family or none", () => {
  const request = encodeRequest({ host: "h", port: 0, isolation, command: 0xf0 });
  assert.equal(Buffer.from(request).toString("hex"), "050102010175017005f0000301680000");
  const found = (...tail: number[]) => {
    const reply = new SocksReply({ host: "h", port: 0 });
    reply.push(Uint8Array.of(5, 0, 5, 0, 0, ...tail));
    return reply.boundAddress;
  };
  assert.equal(found(1, 192, 0, 2, 7, 0, 0), "192.0.2.7");
  assert.equal(found(4, 0x20, 1, 0xd, 0xb8, ...new Uint8Array(11), 1, 0, 0), "2001:db8::1");
  assert.equal(found(3, 1, 97, 0, 0), undefined);
});
