// Unmodified libraries inside a guest reach the outside through the channel: fetch and WebSocket in Deno,
// requests, urllib and bare sockets in Python. The far ends are real servers of this process.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect, type Server } from "node:net";
import { after, before, describe, test } from "node:test";
import { WebSocketServer } from "ws";
import { BentoError } from "../../src/base/errors.ts";
import type { Grant } from "../../src/wire/grant.ts";
import { SITE_CERTIFICATE, SITE_KEY } from "../vectors/site-certificate.ts";
import { fakeNet, GuestBench, NET, PLACES } from "./guest-harness.ts";

const BRIDGED: Partial<Grant> = { ...NET, syscalls: ["loopback"] };
const PAGE = "page ".repeat(20_000);

for (const place of PLACES) {
  describe(`guest sockets, ${place}`, { timeout: 60_000 }, () => {
    let bench: GuestBench;
    const servers: Server[] = [];
    const ports: Record<string, number> = {};
    before(async () => {
      bench = await GuestBench.open(place);
      const plain = createServer(answer);
      const secure = createTlsServer({ key: SITE_KEY, cert: SITE_CERTIFICATE }, answer);
      for (const server of [plain, secure]) {
        new WebSocketServer({ server }).on("connection", (socket) => {
          socket.on("message", (data) => {
            socket.send(`echo ${(data as Buffer).toString()}`);
          });
        });
        server.listen(0, "127.0.0.1");
        await once(server, "listening");
        servers.push(server);
      }
      ports["site.test:80"] = (plain.address() as AddressInfo).port;
      ports["site.test:443"] = (secure.address() as AddressInfo).port;
    });
    after(async () => {
      for (const server of servers) {
        server.close();
        await once(server, "close");
      }
      await bench[Symbol.asyncDispose]();
    });
    const services = () => {
      const open = (name: string) => async () => {
        const socket = connect({ port: ports[name] ?? 0, host: "127.0.0.1", allowHalfOpen: true });
        await once(socket, "connect");
        return socket;
      };
      const net = fakeNet({
        "site.test:80": open("site.test:80"),
        "site.test:443": open("site.test:443"),
        "2001:db8::1:80": open("site.test:80"),
        "slow.test:80": () => {
          throw new BentoError("net-timeout", "Cannot connect: no answer in time");
        },
      });
      return { net };
    };

    const deno = (body: string) => `export default { async invoke(session, env) {${body}} };`;

    test("deno: fetch of http and https, of names and IPv6 addresses, and a POST", async () => {
      const source = deno(`
      for (const url of ["http://site.test/page", "https://site.test/page", "http://[2001:db8::1]/page"]) {
        const text = await (await env.fetch(url)).text();
        await session.send(text.length + " " + text.slice(0, 4));
      }
      await session.send(await (await fetch("https://site.test/echo", { method: "POST", body: "x".repeat(300000) })).text());
    `);
      const { net } = services();
      await using guest = await bench.run("deno", source, {
        grant: BRIDGED,
        services: { net },
      });
      const page = `${PAGE.length} page`;
      assert.deepEqual(await guest.all(), [page, page, page, "POST 300000"]);
      assert.deepEqual(await guest.ended, { kind: "returned" });
      assert.ok(net.asked.includes("site.test:443"));
    });

    test("deno: WebSocket over http and https", async () => {
      const source = deno(`
      for (const url of ["ws://site.test/", "wss://site.test/"]) {
        const socket = new WebSocket(url);
        await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = (event) => reject(event.error ?? event.message); });
        const reply = new Promise((resolve) => { socket.onmessage = (event) => resolve(event.data); });
        socket.send("hi");
        await session.send(await reply);
        socket.close();
      }`);
      await using guest = await bench.run("deno", source, {
        grant: BRIDGED,
        services: services(),
      });
      assert.deepEqual(await guest.all(), ["echo hi", "echo hi"]);
      assert.deepEqual(await guest.ended, { kind: "returned" });
    });

    test("deno: a refusal of the box is told by fetch", async () => {
      const source = deno(`
      try { await env.fetch("https://other.test/"); } catch (error) { await session.send(error.name + ": " + error.message); }`);
      await using guest = await bench.run("deno", source, { grant: BRIDGED, services: services() });
      assert.deepEqual(await guest.all(), [
        "TypeError: Cannot fetch from other.test: Cannot connect: no rule allows port 443",
      ]);
    });

    test("deno: no fetch in env without the loopback group", async () => {
      await using guest = await bench.run("deno", deno("await session.send(Object.keys(env).join());"), {
        grant: NET,
        services: services(),
      });
      assert.deepEqual(await guest.all(), ["log,net,self"]);
    });

    test("python: requests over http and https", async () => {
      const source = `
import requests
def fetch(url, *args):
    body = requests.get(url, timeout=5, verify=args[0] if args else True)
    return "%d %s" % (len(body.content), body.text[:4])
def post():
    return requests.post("http://site.test/echo", data=b"x" * 300000, timeout=5).text
`;
      const { net } = services();
      const calls = [
        ['fetch("http://site.test/page")', `${PAGE.length} page`],
        [`fetch("https://site.test/page", ${JSON.stringify(bench.caFile)})`, `${PAGE.length} page`],
        ['fetch("http://[2001:db8::1]/page")', `${PAGE.length} page`],
        ["post()", "POST 300000"],
      ] as const;
      for (const [call, expected] of calls) {
        await using guest = await bench.run("python", source, {
          invocation: { call },
          grant: BRIDGED,
          services: { net },
        });
        assert.deepEqual(await guest.all(), [expected]);
      }
    });

    test("python: urllib, http.client, bare sockets and threads", async () => {
      const source = `
import http.client, socket, threading, urllib.request
def main():
    api.send(str(len(urllib.request.urlopen("http://site.test/page").read())))
    connection = http.client.HTTPConnection("site.test")
    connection.request("GET", "/page")
    api.send(str(len(connection.getresponse().read())))
    plain = socket.create_connection(("site.test", 80), timeout=5)
    plain.sendall(b"GET /page HTTP/1.0\\r\\n\\r\\n")
    size = 0
    while part := plain.recv(65536):
        size += len(part)
    api.send(str(size > 100000))
    sizes = []
    def one():
        sizes.append(len(urllib.request.urlopen("http://site.test/page").read()))
    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    api.send(str(sum(sizes)))
`;
      await using guest = await bench.run("python", source, { grant: BRIDGED, services: services() });
      assert.deepEqual(await guest.all(), [
        String(PAGE.length),
        String(PAGE.length),
        "True",
        String(8 * PAGE.length),
      ]);
      assert.deepEqual(await guest.ended, { kind: "returned" });
    });

    test("python: refusals are the errors that sockets have", async () => {
      const source = `
import socket
def main():
    for host in ("other.test", "slow.test"):
        try:
            socket.create_connection((host, 80))
        except OSError as error:
            api.send(type(error).__name__ + " " + str(error))
`;
      await using guest = await bench.run("python", source, { grant: BRIDGED, services: services() });
      assert.deepEqual(await guest.all(), [
        "PermissionError [Errno 1] Cannot connect: no rule allows port 80",
        "TimeoutError timed out",
      ]);
    });

    test("python: without a grant sockets say so, and nothing of the host is learned", async () => {
      const source = `
import socket
def main():
    api.send(" ".join((socket.gethostname(), socket.gethostbyname(socket.gethostname()), socket.getfqdn())))
    for attempt in (lambda: socket.create_connection(("site.test", 80)), lambda: socket.socket().connect(("10.0.0.1", 80))):
        try:
            attempt()
        except OSError as error:
            api.send(str(error))
`;
      await using guest = await bench.run("python", source);
      const [names, byName, byAddress] = await guest.all();
      assert.equal(names, "bento 127.0.0.1 bento");
      assert.match(byName ?? "", /not granted net/);
      assert.match(byAddress ?? "", /not granted net/);
    });
  });
}

function answer(request: IncomingMessage, response: ServerResponse): void {
  let size = 0;
  request.on("data", (chunk: Buffer) => {
    size += chunk.length;
  });
  request.on("end", () => {
    response.end(request.url === "/echo" ? `${request.method} ${size}` : PAGE);
  });
}
