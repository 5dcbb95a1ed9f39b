// Ways around the exit policy, tried by functions inside the sandbox against real listeners on this machine: each
// spelling of an address that must not be reached, names that change their minds, redirects, the ports of relay and
// box. The listeners count; whatever a function is told, none of them may have been reached.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import type { PackageInput } from "../../src/wire/package.ts";
import { DnsServer } from "../support/dns-server.ts";
import { startPaperRelay } from "../support/relay-control.ts";
import { SpawnedBox } from "../support/spawned-box.ts";

/** A network of this machine that the box's operator allows, as on a private test network. */
const ALLOWED = "127.66.0.1";
const UIDS = ownUids(40);
const resources = new AsyncDisposableStack();

/** A web server that counts its connections. */
class Listener {
  readonly #server: Server;
  connections = 0;

  private constructor(server: Server) {
    this.#server = server;
    server.on("connection", () => {
      this.connections++;
    });
  }

  static async at(host: string, port = 0): Promise<Listener> {
    const server = createServer((request, response) => {
      const to = new URL(request.url ?? "/", "http://x").searchParams.get("to");
      if (to === null) response.end("reached");
      else response.writeHead(302, { location: to }).end();
    });
    server.listen(port, host);
    await once(server, "listening");
    resources.defer(() => {
      server.closeAllConnections();
      server.close();
    });
    return new Listener(server);
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }
}

let box: SpawnedBox;
let open: Listener;
let local: Listener;
let local6: Listener;
let orPort: Listener;
let rejected: Listener;
let exitPort: number;

before(async () => {
  open = await Listener.at(ALLOWED);
  local = await Listener.at("127.0.0.1");
  local6 = await Listener.at("::1", local.port);
  orPort = await Listener.at(ALLOWED);
  rejected = await Listener.at(ALLOWED);
  const free = await Listener.at(ALLOWED);
  exitPort = free.port + 1;
  const dns = resources.use(
    await DnsServer.start((name, _, count) => {
      if (name === "open.example") return [ALLOWED];
      if (name === "local.example") return ["127.0.0.1", "::1"];
      if (name === "mapped.example") return ["::ffff:127.0.0.1"];
      if (name === "both.example") return ["127.0.0.1", ALLOWED];
      return name === "rebind.example" ? [count === 0 ? ALLOWED : "127.0.0.1"] : undefined;
    }),
  );
  const relay = resources.use(
    await startPaperRelay({
      exit: [`reject *:${rejected.port}`, "accept *:*"],
      orListeners: [`${ALLOWED}:${orPort.port}`],
    }),
  );
  const dir = await mkdtemp(join(tmpdir(), "bento-escape-"));
  resources.defer(() => rm(dir, { recursive: true, force: true }));
  box = resources.use(
    await SpawnedBox.start(dir, {
      uids: UIDS,
      toml: `[relay]
control = "${relay.control}"
[exit_port]
listen = "${ALLOWED}:${exitPort}"
[policy.net]
private_networks_allowed = ["127.66.0.0/24"]
resolver = ["127.0.0.1:${dns.address.port}"]
[warm]
deno = 1
python = 1
`,
    }),
  );
});

after(async () => {
  await resources.disposeAsync();
});

const MANIFEST = {
  name: "dodger",
  net: { allow: ["*:*"], connections: 8 },
  syscalls: ["loopback" as const, "files" as const],
};

/** Functions that try each `[host, port, path]` of their argument every way they have, and say what they got. */
const DODGERS: Readonly<Record<"deno" | "python", PackageInput>> = {
  deno: {
    manifest: { ...MANIFEST, image: "deno" },
    source: `export default { async invoke(session, env, targets) {
      const readAll = async (readable) => new TextDecoder().decode(await new Response(readable).arrayBuffer());
      const ways = {
        async connect(host, port, path) {
          const { readable, writable } = await env.net.connect({ host, port });
          const writer = writable.getWriter();
          await writer.write(new TextEncoder().encode("GET " + path + " HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n"));
          return (await readAll(readable)).includes("reached");
        },
        async fetch(host, port, path) {
          const url = "http://" + (host.includes(":") ? "[" + host + "]" : host) + ":" + port + path;
          return (await (await env.fetch(url)).text()) === "reached";
        },
      };
      const results = [];
      for (const [host, port, path] of targets) {
        for (const [way, attempt] of Object.entries(ways)) {
          try { results.push([host, way, await attempt(host, port, path)]); }
          catch (error) { results.push([host, way, String(error.code ?? error.message).slice(0, 60)]); }
        }
      }
      await session.send(JSON.stringify(results));
    } };`,
  },
  python: {
    manifest: { ...MANIFEST, image: "python" },
    source: `
import json, socket, urllib.request
import requests

def connect(host, port, path):
    with_host = api.net_connect(host, port)
    with_host.send(("GET %s HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n" % path).encode())
    data = b""
    while part := with_host.recv():
        data += part
    return b"reached" in data

def by_requests(host, port, path):
    name = "[%s]" % host if ":" in host else host
    return requests.get("http://%s:%d%s" % (name, port, path), timeout=20).text == "reached"

def by_socket(host, port, path):
    with socket.create_connection((host, port), timeout=20) as s:
        s.sendall(("GET %s HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n" % path).encode())
        data = b""
        while part := s.recv(4096):
            data += part
        return b"reached" in data

def main(targets):
    results = []
    for host, port, path in targets:
        for way, attempt in (("connect", connect), ("requests", by_requests), ("socket", by_socket)):
            try:
                results.append([host, way, attempt(host, port, path)])
            except Exception as error:
                results.append([host, way, str(getattr(error, "code", None) or error)[:60]])
    api.send(json.dumps(results))
`,
  },
};

import { ownUids } from "../support/own-uids.ts";

type Result = readonly [host: string, way: string, outcome: true | string];
type Target = readonly [host: string, port: number, path: string];

async function attempt(image: "deno" | "python", targets: readonly Target[]): Promise<Result[]> {
  const session = await box.client.run({
    package: DODGERS[image],
    invocation: { args: [targets.map((each) => [...each])] },
  });
  await session.next("attached");
  const frame = await session.frames.receive({ signal: AbortSignal.timeout(60_000) });
  assert.ok(frame?.kind === "output", JSON.stringify(frame));
  return JSON.parse(Buffer.from(frame.bytes).toString()) as Result[];
}

const machineAddresses = (): string[] =>
  Object.values(networkInterfaces()).flatMap((entries) =>
    (entries ?? []).filter(({ address }) => !address.includes("fe80")).map(({ address }) => address),
  );

/** Every spelling of this machine, and of networks that are nobody's, at a port where something listens. */
const SPELLINGS = `
  127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0177.0.0.1 017700000001 0.0.0.0 0
  127.0.0.1. 127.255.255.254 127.0.0.1%lo １２７.０.０.１ 127。0。0。1 ::1 :: ::ffff:127.0.0.1
  ::ffff:7f00:1 ::127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 0:0:0:0:0:0:0:1 10.0.0.1 192.168.0.1
  169.254.169.254 100.64.0.1 fe80::1 fd00::1 localhost LOCALHOST localhost. a.localhost
  printer.local x.internal example.onion local.example mapped.example both.example
`
  .trim()
  .split(/\s+/);

const forbiddenHosts = (): string[] => [...SPELLINGS, ...machineAddresses()];

for (const image of ["deno", "python"] as const) {
  describe(`escape: functions and the network (${image})`, () => {
    it(`escape 32: private addresses in every spelling (${image})`, async () => {
      const before = [local.connections, local6.connections];
      const targets = forbiddenHosts().map((host): Target => [host, local.port, "/"]);
      const results = await attempt(image, targets);
      assert.ok(results.length >= 2 * targets.length);
      for (const result of results) assert.notEqual(result[2], true, JSON.stringify(result));
      assert.deepEqual([local.connections, local6.connections], before, "nobody came");

      const control = await attempt(image, [["open.example", open.port, "/"]]);
      for (const result of control) assert.equal(result[2], true, `control: ${JSON.stringify(result)}`);
      const here = connect(local.port, "127.0.0.1");
      await once(here, "connect");
      here.destroy();
      const here6 = connect(local.port, "::1");
      await once(here6, "connect");
      here6.destroy();
    });

    it(`escape 32: a name that changes its mind, and redirects (${image})`, async () => {
      const before = [local.connections, local6.connections];
      const inner = encodeURIComponent(`http://127.0.0.1:${local.port}/`);
      const again = Array.from({ length: 3 }, (): Target => ["rebind.example", local.port, "/"]);
      const results = await attempt(image, [...again, ["open.example", open.port, `/?to=${inner}`]]);
      for (const result of results) assert.notEqual(result[2], true, JSON.stringify(result));
      assert.deepEqual([local.connections, local6.connections], before);
      const target = encodeURIComponent(`http://open.example:${open.port}/`);
      const control = await attempt(image, [["open.example", open.port, `/?to=${target}`]]);
      const followed = control.filter(([, way]) => way === "fetch" || way === "requests");
      assert.deepEqual(
        followed.map(([, , outcome]) => outcome),
        [true],
        "control",
      );
    });

    it(`escape 32, 33, 43: a port that the exit policy rejects, and those of relay and box (${image})`, async () => {
      const before = [orPort.connections, rejected.connections];
      const info = await fetch(`http://${ALLOWED}:${exitPort}/v1/info`);
      assert.equal(info.status, 200, "control: the box serves at its exit address");
      const results = await attempt(image, [
        [ALLOWED, rejected.port, "/"],
        [ALLOWED, orPort.port, "/"],
        ["open.example", orPort.port, "/"],
        [ALLOWED, exitPort, "/v1/info"],
        ["open.example", exitPort, "/v1/info"],
        ["127.0.0.1", box.client.port, "/v1/info"],
        [ALLOWED, box.client.port, "/v1/info"],
        [ALLOWED, box.legacyPort, "/"],
      ]);
      for (const result of results.filter(([, way]) => way === "connect")) {
        assert.equal(result[2], "net-refused", JSON.stringify(result));
      }
      for (const result of results) assert.notEqual(result[2], true, JSON.stringify(result));
      assert.deepEqual([orPort.connections, rejected.connections], before);
      const control = await fetch(`http://${ALLOWED}:${orPort.port}/`);
      assert.equal(await control.text(), "reached", "control: something listens there");
    });
  });
}

it("escape 43: no function has a way to a box, whatever its manifest asks for", async () => {
  const session = await box.client.run({
    package: {
      manifest: { ...MANIFEST, image: "deno", storage: { bytes: "1KiB" } },
      source:
        "export default { async invoke(session, env) { await session.send(Object.keys(env).sort().join()); } };",
    },
  });
  await session.next("attached");
  assert.equal(await session.text(), "fetch,log,net,self,storage");
  const asking = { manifest: { name: "x", image: "deno", bento: { deploy: true } }, source: "" };
  const refused = await box.client.call("POST", "/v1/store", { body: JSON.stringify(asking) });
  assert.deepEqual([refused.status, refused.json["code"]], [400, "bad-request"]);
});
