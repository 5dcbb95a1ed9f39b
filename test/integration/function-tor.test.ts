// Functions that use Tor (spec/tor-firewall), with everything real: box, sandbox, the box's own tor, a private network.
// What a function made is looked for at tor itself, through a control connection that no function has. Needs root.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import * as fc from "fast-check";
import { systemClock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";
import type { Box } from "../../src/box/box.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import type { TorUse } from "../../src/tor/firewall/owner.ts";
import { OwnerAccount } from "../../src/tor/firewall/owner-account.ts";
import { readPidFile } from "../../src/tor/process.ts";
import { socksConnect } from "../../src/tor/socks.ts";
import { PATHS } from "../../src/wire/api.ts";
import type { ManifestInput } from "../../src/wire/manifest.ts";
import { BoxClient, type TestSession } from "../support/box-client.ts";
import { portOf, startTestnetBox } from "../support/testnet-box.ts";
import { type Move, moves, play, type Rival } from "../support/tor-rivals.ts";

const CIRCUITS = 3;
const ALL = ["circuits", "streams", "onions", "events", "directory"] as const;

let temp: string;
let net: Testnet;
let box: Box;
let client: BoxClient;
const webs: Server[] = [];
/** Ports of the web server. Of the exits, e0 lets out to the first alone and e1 to the second alone. */
const PORTS = { e0: 20_080, e1: 21_080 } as const;

before(async () => {
  temp = await mkdtemp(join(tmpdir(), "bento-ft-"));
  net = await Testnet.up({ dir: join(temp, "net"), relays: 2, exits: 2, extraTorrc });
  box = await startTestnetBox(net, {
    dir: temp,
    toml: `
[onion]
mode = "none"
[policy.tor]
routines = ["circuits", "streams", "onions", "events", "directory"]
circuits = ${CIRCUITS}
extends_per_minute = 1000
[sandbox]
uids = "${uidText(ownUids(100))}"
`,
  });
  client = new BoxClient(portOf(box));
  for (const port of Object.values(PORTS)) {
    const web = createServer((_request, response) => {
      response.end(`from port ${port}`);
    });
    webs.push(web);
    web.listen(port, net.plan.webAddress);
    await once(web, "listening");
  }
});

after(async () => {
  await box?.[Symbol.asyncDispose]();
  for (const web of webs) {
    web.close();
    web.closeAllConnections();
  }
  await net?.down();
  await rm(temp, { recursive: true, force: true });
});

function extraTorrc({ name }: { readonly name: string }): string[] | undefined {
  const port = { ...PORTS }[name];
  return port === undefined ? undefined : [`ExitPolicy accept *:${port}`, "ExitPolicy reject *:*"];
}

const deadline = () => AbortSignal.timeout(60_000);
const isolation = () => ({ username: "visitor", password: crypto.randomUUID() });
const fingerprint = (name: string) => net.node(name).fingerprint;

interface Started extends TestSession {
  kill(): Promise<void>;
}

async function start(
  source: string,
  manifest: Partial<ManifestInput> = {},
  args: unknown[] = [],
  call?: string,
): Promise<Started> {
  const session = await client.run({
    package: {
      manifest: {
        name: "f",
        image: "deno",
        tor: { routines: [...ALL], extendsPerMinute: 1000 },
        ...manifest,
      },
      source,
    },
    invocation: call === undefined ? { args: args as string[] } : { call },
  });
  const { attached } = await session.next("attached");
  const kill = async () => {
    await client.call("POST", PATHS.close, { token: attached.instance, body: { kill: true } });
    await session.next("ended");
  };
  return Object.assign(session, { kill });
}

const deno = (body: string) => `
const get = async ({ readable, writable }, host) => {
  const writer = writable.getWriter();
  await writer.write(new TextEncoder().encode("GET / HTTP/1.1\\r\\nHost: " + host + "\\r\\nConnection: close\\r\\n\\r\\n"));
  let text = "";
  for await (const chunk of readable) text += new TextDecoder().decode(chunk);
  return text.split("\\r\\n\\r\\n").pop();
};
const code = (promise) => promise.then(() => "nothing", (error) => error.code);
export default { async invoke(session, env, ...args) { const { tor } = env; const say = (value) => session.send(JSON.stringify(value)); ${body} } };`;

const said = async (session: TestSession) => JSON.parse(await session.text()) as unknown;

/** Circuits of functions that stand at the box's tor, and whether it has this onion service. */
async function atTor(address = ""): Promise<{ circuits: number; hasOnion: boolean }> {
  const running = await box.clientTor?.client(deadline());
  await using control = await running?.connect(deadline());
  assert.ok(control);
  const status = (await control.getInfo(["circuit-status"]))["circuit-status"];
  const hasOnion = await control.getInfo([`hs/service/desc/id/${address.replace(".onion", "")}`]).then(
    () => true,
    () => false,
  );
  return { circuits: status.match(/PURPOSE=CONTROLLER/gu)?.length ?? 0, hasOnion };
}

async function visit(address: string, port: number, text: string): Promise<string> {
  const signal = deadline();
  for (;;) {
    try {
      const proxy = net.socks();
      const stream = await socksConnect({ proxy, host: address, port, isolation: isolation(), signal });
      stream.write(text);
      const [answer] = (await once(stream, "data", { signal })) as [Buffer];
      stream.destroy();
      return answer.toString();
    } catch (error) {
      // Stem takes a service for published as soon as one directory has it; this client may ask another.
      if (!(error instanceof BentoError) || error.code !== "tor-onion-descriptor-not-found") throw error;
    }
  }
}

test("a function builds a circuit of chosen relays, fetches through it, and sees what happens to it", async () => {
  const path = [fingerprint("r0"), fingerprint("r1"), fingerprint("e1")];
  const source = deno(`
    const [path, host, port, other, otherPort] = args;
    const events = tor.events.watch(["circuit", "stream"]);
    await using circuit = await tor.circuits.build(path);
    await say(circuit.path);
    await say(await get(await tor.streams.connect({ host, port, circuit }), host));
    await say(await code(tor.streams.connect({ host, port: otherPort, circuit })));
    await circuit.extend([other]);
    await say(await get(await tor.streams.connect({ host, port: otherPort, circuit }), host));
    await say(await tor.streams.resolve(host, { circuit }));
    await circuit.close();
    const seen = new Set();
    for await (const event of events) {
      seen.add(event.kind + " " + event.status + " " + event.circuit);
      if (event.status === "closed" && event.kind === "circuit") break;
    }
    await say([...seen]);
    const relays = [];
    for await (const relay of tor.directory.relays({ flags: ["Exit"] })) relays.push(relay.nickname + " " + relay.exit?.ports);
    await say(relays.sort());`);
  const session = await start(source, {}, [path, net.plan.webAddress, PORTS.e1, fingerprint("e0"), PORTS.e0]);
  assert.deepEqual(await said(session), path);
  assert.equal(await said(session), `from port ${PORTS.e1}`);
  assert.equal(await said(session), "tor-exit-refused");
  assert.equal(await said(session), `from port ${PORTS.e0}`);
  assert.equal(await said(session), net.plan.webAddress);
  const seen = (await said(session)) as string[];
  for (const event of ["circuit built 1", "stream succeeded 1", "circuit closed 1"])
    assert.ok(seen.includes(event), seen.join());
  assert.ok(((await said(session)) as string[]).includes(`e0 ${PORTS.e0}`));
  assert.deepEqual((await session.next("ended")).outcome, { kind: "returned" });
});

test("a function runs an onion service that clients reach; circuits and service end with it", async () => {
  const source = deno(`
    const [host, port] = args;
    const onion = await tor.onions.open({ ports: [80], keepsKey: true });
    await onion.published();
    await tor.circuits.build();
    await tor.circuits.build([null, {}, { exitPort: port }]);
    await say([onion.address, onion.key.length, (await tor.circuits.list()).map(({ path }) => path[0])]);
    for await (const { readable, writable } of onion) void readable.pipeTo(writable).catch(() => {});`);
  const session = await start(source, {}, [net.plan.webAddress, PORTS.e0]);
  const [address, keyLength, first] = (await said(session)) as [string, number, unknown];
  assert.equal(keyLength, 99);
  assert.deepEqual(first, [null, null]);
  assert.equal(await visit(address, 80, "over six hops"), "over six hops");
  assert.deepEqual(await atTor(address), { circuits: 2, hasOnion: true });
  await session.kill();
  assert.deepEqual(await atTor(address), { circuits: 0, hasOnion: false });
});

test("no other user of this machine reaches the box's tor", async () => {
  const { mode } = await stat(join(temp, "box", "client-tor", "s"));
  assert.equal(mode & 0o777, 0o700);
  const running = await box.clientTor?.client(deadline());
  assert.deepEqual(running?.socks, { path: join(temp, "box", "client-tor", "s", "socks") });
  await using control = await running?.connect(deadline());
  assert.match(
    (await control?.getInfo(["net/listeners/socks"]))?.["net/listeners/socks"] ?? "",
    /^"unix:[^"]+"$/u,
  );
});

test("counts hold at tor: as many circuits as granted, one more is refused", async () => {
  const source = deno(`
    for (let n = 0; n < args[0]; n++) await tor.circuits.build();
    await say(await code(tor.circuits.build()));
    const [{ circuit }] = await tor.circuits.list();
    await say((await tor.circuits.list()).length);`);
  const session = await start(source, { tor: { routines: ["circuits"], circuits: CIRCUITS } }, [CIRCUITS]);
  assert.equal(await said(session), "tor-limit");
  assert.equal(await said(session), CIRCUITS);
  await session.next("ended");
  assert.deepEqual(await atTor(), { circuits: 0, hasOnion: false });
});

test("routines that were not granted are no properties, and what was not granted at all is no tor", async () => {
  const some = await start(deno("await say(Object.keys(tor));"), {
    tor: { routines: ["directory", "streams"] },
  });
  assert.deepEqual(await said(some), ["streams", "directory"]);
  const none = await client.run({
    package: { manifest: { name: "f", image: "deno" }, source: deno("await say(Object.keys(env));") },
  });
  await none.next("attached");
  assert.deepEqual(await said(none), ["log", "self"]);
});

/** Commands that are not for functions, and what they are answered. */
const DENIED = {
  "GETINFO entry-guards": 552,
  "GETINFO config-text": 552,
  "GETINFO version config-file": 552,
  "GETCONF DataDirectory": 552,
  "SETCONF SocksPort=9": 553,
  'SETCONF __LeaveStreamsUnattached="2"': 553,
  "SIGNAL SHUTDOWN": 552,
  SAVECONF: 510,
  DROPGUARDS: 510,
  TAKEOWNERSHIP: 510,
  LOADCONF: 510,
  "CLOSECIRCUIT 1": 552,
  "EXTENDCIRCUIT 1 e0": 552,
  "ATTACHSTREAM 1 0": 552,
  "ADD_ONION NEW:BEST Port=80,10.0.0.1:80": 512,
  "ADD_ONION NEW:BEST Flags=NonAnonymous Port=80": 512,
  "setevents circ orconn": 552,
  'GETINFO "version': 512,
} as const;

/** Written as for a tor of its own: nothing of Bento but api.send. */
const STEM = `
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
import socks
import stem
from stem.control import Controller, EventType

def fetch(host, port):
    stream = socks.socksocket()
    stream.set_proxy(socks.SOCKS5, "127.0.0.1", 9050)
    stream.connect((host, port))
    stream.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    data = b""
    while part := stream.recv(4096):
        data += part
    stream.close()
    return data.decode().split("\\r\\n\\r\\n")[-1]

def circuit(path, host, port):
    seen, closed = [], threading.Event()
    with Controller.from_port() as controller:
        controller.authenticate()
        circuit_id = controller.new_circuit(path, await_build=True)
        shown = [fingerprint for fingerprint, nickname in controller.get_circuit(circuit_id).path]
        api.send(" ".join(shown))

        def attach(stream):
            seen.append(stream.status)
            if stream.status == "NEW":
                controller.attach_stream(stream.id, circuit_id)
            if stream.status == "CLOSED":
                closed.set()

        controller.add_event_listener(attach, EventType.STREAM)
        controller.set_conf("__LeaveStreamsUnattached", "1")
        try:
            api.send(fetch(host, port))
            closed.wait(30)
        finally:
            controller.remove_event_listener(attach)
            controller.reset_conf("__LeaveStreamsUnattached")
        controller.close_circuit(circuit_id)
        api.send(" ".join(seen[:3]))
        api.send(fetch(host, port))
        relays = {relay.nickname: relay for relay in controller.get_network_statuses()}
        api.send(relays["e1"].fingerprint + " " + str(relays["e1"].or_port) + " " + str("Exit" in relays["e1"].flags))
        api.send(str("accept" in str(controller.get_microdescriptor("e1").exit_policy)))
        controller.signal(stem.Signal.NEWNYM)

class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from a hidden function")

    def log_message(self, *_):
        pass

def service():
    server = HTTPServer(("127.0.0.1", 5000), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Controller.from_port() as controller:
        controller.authenticate()
        onion = controller.create_ephemeral_hidden_service({80: 5000}, await_publication=True)
        api.send(onion.service_id + ".onion")
        api.recv()
        controller.remove_ephemeral_hidden_service(onion.service_id)

def denied():
    with Controller.from_port() as controller:
        controller.authenticate()
        for command in ${JSON.stringify(Object.keys(DENIED))}:
            api.send(command + " " + controller.msg(command).content()[0][0])
`;

import { ownUids, uidText } from "../support/own-uids.ts";

const PYTHON: Partial<ManifestInput> = {
  image: "python",
  syscalls: ["loopback"],
  tor: { routines: [...ALL], extendsPerMinute: 1000 },
  memory: "128MiB",
};

async function startPython(call: string): Promise<Started> {
  return start(STEM, PYTHON, [], call);
}

test("a program for Stem builds a circuit, attaches its stream to it, fetches, and reads the directory", async () => {
  const path = [fingerprint("r1"), fingerprint("r0"), fingerprint("e1")];
  const host = net.plan.webAddress;
  const session = await startPython(`circuit(${JSON.stringify(path)}, "${host}", ${PORTS.e1})`);
  assert.equal(await session.text(), path.join(" "));
  assert.equal(await session.text(), `from port ${PORTS.e1}`);
  assert.equal(await session.text(), "NEW SENTCONNECT SUCCEEDED");
  assert.equal(await session.text(), `from port ${PORTS.e1}`, "and where tor chooses");
  const { orPort } = net.node("e1");
  assert.equal(await session.text(), `${fingerprint("e1")} ${orPort} True`);
  assert.equal(await session.text(), "True");
  assert.deepEqual((await session.next("ended")).outcome, { kind: "returned" });
});

test("a program for Stem publishes its web server as an onion service, which ends with it", async () => {
  const session = await startPython("service()");
  const address = await session.text();
  const page = await visit(address, 80, "GET / HTTP/1.0\r\n\r\n");
  assert.match(page, /^HTTP\/1.0 200 /u);
  assert.equal((await atTor(address)).hasOnion, true);
  session.input("done");
  assert.deepEqual((await session.next("ended")).outcome, { kind: "returned" });
  assert.equal((await atTor(address)).hasOnion, false);
});

test("everything else of the control protocol is refused", async () => {
  const session = await startPython("denied()");
  const replies: string[] = [];
  for (let n = 0; n < Object.keys(DENIED).length; n++) replies.push(await session.text());
  assert.deepEqual(
    replies,
    Object.entries(DENIED).map(([command, status]) => `${command} ${status}`),
  );
});

test("rivals: whatever one of two functions calls, the other keeps what it has and hears nothing", async () => {
  const running = await box.clientTor?.client(deadline());
  const firewall = running?.firewall;
  assert.ok(firewall);
  await using control = await running?.connect(deadline());
  const limits = { routines: ALL, circuits: 3, streams: 4, onions: 1, extendsPerMinute: 10_000, bytes: 1e6 };
  const owner = () => firewall.owner(new OwnerAccount(limits, systemClock));
  const host = net.plan.webAddress;
  const standing = async () =>
    [
      ...((await control?.getInfo(["circuit-status"]))?.["circuit-status"] ?? "").matchAll(
        /^(\d+) .*CONTROLLER/gmu,
      ),
    ].map(([, id]) => id ?? "");
  await fc.assert(
    fc.asyncProperty(moves(25), async (played) => {
      await using one = owner();
      await using two = owner();
      const rival = (use: TorUse, middle: string, exit: "e0" | "e1"): Rival => ({
        use,
        hops: [null, fingerprint(middle), fingerprint(exit)],
        host,
        port: PORTS[exit],
        secrets: [fingerprint(middle), fingerprint(exit)],
      });
      const known = new Map<string, number>();
      const check = async ({ who }: Move) => {
        const now = new Set(await standing());
        for (const id of now) if (!known.has(id)) known.set(id, who);
        for (const [id, whose] of known)
          assert.ok(whose === who || now.has(id), `circuit ${id} of the other is gone`);
        for (const id of known.keys()) if (!now.has(id)) known.delete(id);
      };
      const rivals = [rival(one, "r0", "e0"), rival(two, "r1", "e1")] as const;
      // Of onion services' events both hear the names of all directories.
      await play({ rivals, kinds: ["circuit", "stream"], secrets: [], check }, played);
    }),
    { numRuns: 3, endOnFailure: true },
  );
  assert.deepEqual(await standing(), []);
});

test("tor dies in the middle: the function gets errors, and tor again when it is back", async () => {
  const source = deno(`
    const [host, port] = args;
    const events = tor.events.watch();
    const circuit = await tor.circuits.build([null, {}, { exitPort: port }]);
    const stream = await tor.streams.connect({ host, port, circuit });
    const onion = await tor.onions.open({ ports: [80] });
    const incoming = code(onion[Symbol.asyncIterator]().next());
    await say("ready");
    await say([await code(stream.readable.getReader().read()), await incoming]);
    try { for await (const event of events); } catch (error) { await say(error.code); }
    await say(await code(circuit.extend([{}])));
    for (;;) {
      try { await say(await get(await tor.streams.connect({ host, port }), host)); break; }
      catch (error) { if (error.code !== "tor-gone") throw error; }
    }`);
  const session = await start(source, {}, [net.plan.webAddress, PORTS.e0]);
  assert.equal(await said(session), "ready");
  const tor = await readPidFile(join(temp, "box", "client-tor", "pid"));
  assert.ok(tor);
  process.kill(tor.pid, "SIGKILL");
  const [stream, incoming] = (await said(session)) as [string, string];
  // To the kernel it looks like an ordinary end of the stream; what else there is fails at once.
  assert.match(stream, /^(nothing|tor-gone|tor-stream-closed)$/u);
  assert.equal(incoming, "tor-gone");
  assert.equal(await said(session), "tor-gone");
  assert.match((await said(session)) as string, /^tor-(gone|unknown)$/u);
  assert.equal(await said(session), `from port ${PORTS.e0}`);
  assert.deepEqual((await session.next("ended")).outcome, { kind: "returned" });
});
