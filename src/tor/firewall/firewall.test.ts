import assert from "node:assert/strict";
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { afterEach, beforeEach, test } from "node:test";
import { DETACHED, FakeTor, REFUSED, SILENT } from "../../../test/support/fake-tor.ts";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { TorFirewall } from "./firewall.ts";
import { ATTEMPT_BYTES, OwnerAccount, type OwnerLimits, READS_PER_MINUTE } from "./owner-account.ts";
import { BACKLOG_MAX } from "./owner-onions.ts";
import { EVENTS_WAITING_MAX, type OwnerEvent, WATCHERS_MAX } from "./owner-watch.ts";

const LIMITS: OwnerLimits = {
  routines: ["circuits", "streams", "onions", "events", "directory"],
  circuits: 4,
  streams: 4,
  onions: 2,
  extendsPerMinute: 60,
  bytes: 100_000,
};
const never = new AbortController().signal;
const soon = () => AbortSignal.timeout(20_000);

let tor: FakeTor;
let firewall: TorFirewall;
let clock: TestClock;

beforeEach(async () => {
  tor = await FakeTor.start();
  clock = new TestClock();
  firewall = await open("any");
});
afterEach(async () => {
  await firewall[Symbol.asyncDispose]();
  await tor[Symbol.asyncDispose]();
});

async function open(firstHop: "any" | "guard"): Promise<TorFirewall> {
  return TorFirewall.open({
    control: await tor.connect(),
    connect: async () => tor.connect(),
    socks: tor.socks,
    socketDir: tor.dir,
    firstHop,
    clock,
  });
}

const owner = (limits: Partial<OwnerLimits> = {}) =>
  firewall.owner(new OwnerAccount({ ...LIMITS, ...limits }, clock));
const code = (wanted: string) => (error: unknown) => error instanceof BentoError && error.code === wanted;
const named = (index: number) => tor.relays[index]?.fingerprint ?? "";
const commands = (name: string) =>
  tor.commands.filter(({ line }) => line.startsWith(name)).map(({ line }) => line);

async function built(from: ReturnType<typeof owner>, hops = [named(1), named(2), named(3)]) {
  const { circuit } = await from.launchCircuit(hops);
  return from.built(circuit, soon());
}

async function echo(stream: Duplex, text: string): Promise<string> {
  stream.write(text);
  const [bytes] = (await once(stream, "data", { signal: soon() })) as [Buffer];
  return bytes.toString();
}

test("launchCircuit: a path that the owner names, extended and closed, by a handle of its own", async () => {
  const mine = owner();
  const view = await built(mine);
  assert.deepEqual(view, { circuit: 1, status: "built", path: [named(1), named(2), named(3)] });
  await mine.extendCircuit(1, [named(4)]);
  assert.equal((await mine.built(1, soon())).path.length, 4);
  assert.deepEqual(commands("EXTENDCIRCUIT 0"), [
    `EXTENDCIRCUIT 0 ${[named(1), named(2), named(3)].join(",")} purpose=controller`,
  ]);
  await mine.closeCircuit(1);
  assert.deepEqual(mine.circuits(), []);
  assert.equal(tor.circuits.size, 0);
  await assert.rejects(mine.closeCircuit(1), code("tor-unknown"));
});

test("launchCircuit: a first hop left open is tor's guard, and the owner is never told which", async () => {
  const mine = owner();
  const watch = mine.watch(["circuit"]);
  const { circuit } = await mine.launchCircuit([null, {}, { exitPort: 80 }]).catch(async (error: unknown) => {
    // This tor says nothing of exit policies.
    assert.ok(code("tor-no-path")(error));
    return mine.launchCircuit([null, {}, {}]);
  });
  const view = await mine.built(circuit, soon());
  assert.equal(view.path[0], null);
  assert.equal([...tor.circuits.values()][0]?.path[0], tor.guard);
  watch.close();
  const told = [];
  for await (const event of watch) told.push(event);
  assert.equal(told.length, 5);
  assert.doesNotMatch(JSON.stringify([view, told, mine.circuits()]), new RegExp(tor.guard));
});

test("launchCircuit: where the box hides, nobody chooses its first hop", async () => {
  await firewall[Symbol.asyncDispose]();
  firewall = await open("guard");
  const mine = owner();
  for (const first of [named(1), {}, { flags: ["Guard"] }])
    await assert.rejects(mine.launchCircuit([first, named(2), named(3)]), code("tor-refused"));
  assert.deepEqual(commands("EXTENDCIRCUIT"), []);
  assert.equal((await built(mine, [null, named(2), named(3)] as string[])).path[0], null);
});

test("connect: on a circuit of the owner, and where tor chooses, with names that nobody else has", async () => {
  const mine = owner();
  const other = owner();
  const { circuit } = await built(mine);
  const on = await mine.connect({ host: "a.test", port: 80, circuit }, soon());
  assert.equal(await echo(on.duplex, "hello"), "hello");
  const any = await mine.connect({ host: "a.test", port: 80 }, soon());
  const again = await mine.connect({ host: "a.test", port: 80 }, soon());
  const theirs = await other.connect({ host: "a.test", port: 80 }, soon());
  const torCircuit = [...tor.circuits.keys()][0];
  assert.deepEqual(
    commands("ATTACHSTREAM").map((line) => line.split(" ")[2]),
    [torCircuit, "0", "0", "0"],
  );
  const names = [...tor.streams.values()].map(({ username }) => username);
  assert.equal(names[1], names[2], "tor may put them on one circuit");
  assert.equal(new Set(names).size, 3);
  const isolated = await mine
    .connect({ host: "a.test", port: 80, isolation: "x" }, soon())
    .catch((error: unknown) => error);
  assert.ok(!(isolated instanceof Error));
  assert.deepEqual(
    mine.streams().map((view) => view.circuit),
    [circuit, null, null, null],
  );
  for (const { duplex } of [on, any, again, theirs]) duplex.destroy();
});

test("connect: nothing else of another owner can be named", async () => {
  const mine = owner();
  const other = owner();
  const { circuit } = await built(mine);
  const { onion } = await mine.openOnion({ ports: [80], keepsKey: false });
  await assert.rejects(other.connect({ host: "a.test", port: 80, circuit }, soon()), code("tor-unknown"));
  await assert.rejects(other.resolve({ host: "a.test", circuit }, soon()), code("tor-unknown"));
  await assert.rejects(other.extendCircuit(circuit, [named(5)]), code("tor-unknown"));
  await assert.rejects(other.closeCircuit(circuit), code("tor-unknown"));
  await assert.rejects(other.built(circuit, soon()), code("tor-unknown"));
  await assert.rejects(other.acceptOnion(onion, soon()), code("tor-unknown"));
  await assert.rejects(other.onionPublished(onion, soon()), code("tor-unknown"));
  await assert.rejects(other.closeOnion(onion), code("tor-unknown"));
  assert.deepEqual([other.circuits(), other.streams(), other.onions()], [[], [], []]);
});

test("streams of nobody go back to tor; ours that came too late are closed", async () => {
  tor.foreignStream();
  const id = tor.foreignStream();
  await firewall.pathChoice();
  assert.deepEqual(commands("ATTACHSTREAM").at(-1), `ATTACHSTREAM ${id} 0`);
  const late = tor.foreignStream(firewall.userName());
  await firewall.pathChoice();
  assert.deepEqual(commands("ATTACHSTREAM").length, 2);
  assert.deepEqual(commands("CLOSESTREAM"), [`CLOSESTREAM ${late} 1`]);
});

test("streams of tor itself are left alone: to attach one breaks it off, and tor gives up its guard", async () => {
  tor.directoryStream();
  const other = tor.foreignStream();
  await firewall.pathChoice();
  assert.deepEqual(commands("ATTACHSTREAM"), [`ATTACHSTREAM ${other} 0`]);
  assert.deepEqual(commands("CLOSESTREAM"), []);
});

test("connect: refusals, exits that do not do it, resolving", async () => {
  const mine = owner();
  const { circuit } = await built(mine);
  await assert.rejects(mine.connect({ host: REFUSED, port: 80 }, soon()), code("tor-connection-refused"));
  await assert.rejects(mine.connect({ host: DETACHED, port: 80, circuit }, soon()), code("tor-exit-refused"));
  assert.deepEqual(await mine.resolve({ host: "a.test", circuit }, soon()), { address: "192.0.2.7" });
  assert.deepEqual(mine.streams(), []);
});

test("connect: a circuit that ends meanwhile is not replaced by another", async () => {
  const mine = owner();
  const { circuit } = await built(mine);
  const waiting = mine.connect({ host: SILENT, port: 80, circuit }, soon());
  while (!commands("ATTACHSTREAM").length) await new Promise((resolve) => setImmediate(resolve));
  const [torId] = tor.circuits.keys();
  tor.breakCircuit(torId ?? "");
  await assert.rejects(waiting, code("tor-stream-closed"));
  await assert.rejects(mine.connect({ host: "a.test", port: 80, circuit }, soon()), code("tor-unknown"));
  assert.equal(commands("ATTACHSTREAM").length, 1);
});

test("openOnion: connections reach the owner, one more than the backlog is closed", async () => {
  const mine = owner({ streams: BACKLOG_MAX + 5 });
  const { onion, address, key } = await mine.openOnion({
    ports: [80, 81],
    keepsKey: true,
    clientKeys: ["A".repeat(52)],
    streamsMax: 3,
  });
  assert.match(key ?? "", /^ED25519-V3:/);
  await mine.onionPublished(onion, soon());
  const serviceId = address.replace(".onion", "");
  assert.match(
    commands("ADD_ONION")[0] ?? "",
    /^ADD_ONION NEW:ED25519-V3 Flags=V3Auth MaxStreams=3 Port=80,unix:\S+ Port=81,unix:\S+ ClientAuthV3=A{52}$/,
  );
  const visitor = tor.visit(serviceId, 81);
  const { duplex, port } = await mine.acceptOnion(onion, soon());
  assert.equal(port, 81);
  visitor.write("ping");
  const [ping] = (await once(duplex, "data", { signal: soon() })) as [Buffer];
  assert.equal(ping.toString(), "ping");
  for (let n = 0; n < BACKLOG_MAX; n++) await once(tor.visit(serviceId, 80), "connect");
  while (mine.streams().length < BACKLOG_MAX + 1) await new Promise((resolve) => setImmediate(resolve));
  const refused = tor.visit(serviceId, 80);
  refused.resume();
  await once(refused, "end", { signal: soon() });
  assert.equal(mine.streams().length, BACKLOG_MAX + 1);
  await mine.closeOnion(onion);
  assert.equal(tor.onions.size, 0);
  await assert.rejects(mine.acceptOnion(onion, soon()), code("tor-unknown"));
  duplex.destroy();
});

test("watch: only what is the owner's, only what was asked for, and no look-ups of anybody", async () => {
  const mine = owner();
  const other = owner();
  const watch = mine.watch(["circuit", "stream", "onion"]);
  const { address } = await mine.openOnion({ ports: [80], keepsKey: false });
  const serviceId = address.replace(".onion", "");
  const before = "REQUESTED RECEIVED FAILED".split(" ");
  for (const action of before)
    tor.emit("HS_DESC", `${action} ${serviceId} UNKNOWN $${named(3)}~x REASON=UNEXPECTED`);
  await other.openOnion({ ports: [80], keepsKey: false });
  await built(other);
  await other.connect({ host: "a.test", port: 80 }, soon());
  tor.foreignCircuit();
  tor.foreignStream();
  const { circuit } = await built(mine);
  const stream = await mine.connect({ host: "a.test", port: 80, circuit }, soon());
  stream.duplex.destroy();
  await once(stream.duplex, "close");
  while (tor.streams.size > 2) await new Promise((resolve) => setImmediate(resolve));
  await mine.relays();
  await mine.closeCircuit(circuit);
  watch.close();
  const told: string[] = [];
  for await (const event of watch)
    told.push(
      event.kind === "lost" || event.kind === "bandwidth" ? event.kind : `${event.kind} ${event.status}`,
    );
  assert.deepEqual(told, [
    "onion upload",
    "onion uploaded",
    "circuit launched",
    "circuit extended",
    "circuit extended",
    "circuit extended",
    "circuit built",
    "stream new",
    "stream sent",
    "stream succeeded",
    "stream closed",
    "circuit closed",
  ]);
});

test("watch: one that does not keep up learns how much it missed; bandwidth is the owner's own", async () => {
  const mine = owner({ extendsPerMinute: 10_000 });
  const watch = mine.watch(["circuit"]);
  for (let n = 0; n < EVENTS_WAITING_MAX / 5 + 2; n++)
    await mine.closeCircuit((await built(mine, [named(1), named(2)])).circuit);
  const events = watch[Symbol.asyncIterator]();
  for (let n = 0; n < EVENTS_WAITING_MAX; n++) await events.next();
  await built(mine, [named(1), named(2)]);
  const next = (await events.next()).value as OwnerEvent;
  assert.ok(next.kind === "lost" && next.count > 0);
  const bytes = mine.watch(["bandwidth"])[Symbol.asyncIterator]();
  const { duplex } = await mine.connect({ host: "a.test", port: 80 }, soon());
  await echo(duplex, "12345");
  await clock.advance(1000);
  assert.deepEqual((await bytes.next()).value, { kind: "bandwidth", read: 5, written: 5 });
  for (let n = 2; n < WATCHERS_MAX; n++) mine.watch(["stream"]);
  assert.throws(() => mine.watch(["stream"]), code("tor-limit"));
  duplex.destroy();
});

test("counts: each at n and n+1, given back when a thing ends", async () => {
  const mine = owner({ circuits: 2, streams: 2, onions: 1, extendsPerMinute: 1000 });
  const first = await built(mine);
  await built(mine);
  await assert.rejects(mine.launchCircuit([named(1), named(2)]), code("tor-limit"));
  await mine.closeCircuit(first.circuit);
  await built(mine);
  const one = await mine.connect({ host: "a.test", port: 80 }, soon());
  const two = await mine.connect({ host: "a.test", port: 80 }, soon());
  await assert.rejects(mine.connect({ host: "a.test", port: 80 }, soon()), code("tor-limit"));
  one.duplex.destroy();
  await once(one.duplex, "close");
  const three = await mine.connect({ host: "a.test", port: 80 }, soon());
  const { onion } = await mine.openOnion({ ports: [80], keepsKey: false });
  await assert.rejects(mine.openOnion({ ports: [80], keepsKey: false }), code("tor-limit"));
  await mine.closeOnion(onion);
  await mine.openOnion({ ports: [80], keepsKey: false });
  for (const { duplex } of [two, three]) duplex.destroy();
});

test("counts: hops of a minute, and what else makes tor build circuits", async () => {
  const mine = owner({ extendsPerMinute: 10 });
  await built(mine);
  await mine.extendCircuit(1, [named(4)]);
  await mine.built(1, soon());
  const { duplex } = await mine.connect({ host: "a.test", port: 80 }, soon());
  duplex.destroy();
  await assert.rejects(
    mine
      .connect({ host: "a.test", port: 80, isolation: "new" }, soon())
      .then(async () => mine.launchCircuit([named(1)])),
    code("tor-limit"),
  );
  await assert.rejects(mine.openOnion({ ports: [80], keepsKey: false }), code("tor-limit"));
  await assert.rejects(
    mine.connect({ host: `${"a".repeat(56)}.onion`, port: 80 }, soon()),
    code("tor-limit"),
  );
  await clock.advance(60_000);
  await built(mine);
});

test("counts: bytes both ways together, then nothing more", async () => {
  const mine = owner({ bytes: 10 + ATTEMPT_BYTES });
  const { duplex } = await mine.connect({ host: "a.test", port: 80 }, soon());
  assert.equal(await echo(duplex, "12345"), "12345");
  duplex.write("6");
  const [error] = (await once(duplex, "error", { signal: soon() })) as [unknown];
  assert.ok(code("tor-limit")(error));
  await assert.rejects(mine.connect({ host: "a.test", port: 80 }, soon()), code("tor-limit"));
});

test("counts: attempts to connect cost bytes, also those that fail; readings of the directory are counted", async () => {
  const mine = owner({ bytes: 2 * ATTEMPT_BYTES });
  await assert.rejects(mine.connect({ host: REFUSED, port: 80 }, soon()), code("tor-connection-refused"));
  await mine.resolve({ host: "a.test" }, soon());
  await assert.rejects(mine.resolve({ host: "a.test" }, soon()), code("tor-limit"));
  assert.deepEqual(mine.streams(), []);
  assert.equal(await mine.descriptor(named(1)), null);
  for (let n = 1; n < READS_PER_MINUTE; n++) await mine.relays();
  await assert.rejects(mine.relays(), code("tor-limit"));
  await clock.advance(60_000);
  assert.equal((await mine.relays()).length, tor.relays.length);
});

test("routines: what was not granted is refused before tor hears of it", async () => {
  const mine = owner({ routines: [] });
  const before = tor.commands.length;
  const calls: (() => unknown)[] = [
    async () => mine.launchCircuit([named(1)]),
    async () => mine.built(1, never),
    async () => mine.extendCircuit(1, [named(1)]),
    async () => mine.closeCircuit(1),
    async () => mine.connect({ host: "a", port: 1 }, never),
    async () => mine.resolve({ host: "a" }, never),
    async () => mine.openOnion({ ports: [1], keepsKey: false }),
    async () => mine.onionPublished(1, never),
    async () => mine.acceptOnion(1, never),
    async () => mine.closeOnion(1),
    async () => mine.relays(),
    async () => mine.descriptor(named(1)),
    async () => mine.watch(["stream"]),
    async () => mine.circuits(),
    async () => mine.streams(),
    async () => mine.closeStream(1),
    async () => mine.onions(),
  ];
  for (const call of calls) await assert.rejects(async () => call(), code("tor-refused"), call.toString());
  assert.equal(tor.commands.length, before);
});

test("dispose: circuits, streams and onion services are gone at tor, and waiting calls end", async () => {
  const mine = owner();
  const other = owner();
  await built(mine);
  await built(other);
  const { duplex } = await mine.connect({ host: "a.test", port: 80 }, soon());
  const { onion } = await mine.openOnion({ ports: [80], keepsKey: false });
  await mine.onionPublished(onion, soon());
  const accepting = assert.rejects(mine.acceptOnion(onion, soon()), code("tor-closed"));
  const watching = assert.rejects(mine.watch(["onion"])[Symbol.asyncIterator]().next(), code("tor-closed"));
  tor.holdsCircuits = true;
  const { circuit } = await mine.launchCircuit([named(1), named(2)]);
  const building = assert.rejects(mine.built(circuit, soon()), code("tor-closed"));
  const late = assert.rejects(mine.launchCircuit([named(3), named(4)]), code("tor-closed"));
  await mine[Symbol.asyncDispose]();
  await Promise.all([accepting, watching, building, late]);
  assert.ok(duplex.destroyed);
  assert.equal(tor.circuits.size, 1, "the other owner's stays");
  assert.equal(tor.onions.size, 0);
  await assert.rejects(mine.launchCircuit([named(1)]), code("tor-closed"));
});

test("tor dies: every call and every wait ends with tor-gone, and so does the firewall", async () => {
  const mine = owner();
  await built(mine);
  const { duplex } = await mine.connect({ host: "a.test", port: 80 }, soon());
  const { onion } = await mine.openOnion({ ports: [80], keepsKey: false });
  const ended = new Promise((resolve) => duplex.once("close", resolve));
  await mine.onionPublished(onion, soon());
  const waits = [
    assert.rejects(mine.acceptOnion(onion, soon()), code("tor-gone")),
    assert.rejects(mine.watch(["onion"])[Symbol.asyncIterator]().next(), code("tor-gone")),
    assert.rejects(mine.connect({ host: SILENT, port: 80 }, soon()), /tor/),
  ];
  await mine.relays();
  tor.kill();
  await Promise.all([...waits, ended]);
  assert.equal((await firewall.lost).code, "tor-gone");
  assert.throws(() => owner(), code("tor-gone"));
  await assert.rejects(mine.launchCircuit([named(1)]), code("tor-gone"));
});
