// Circuits and streams against a relay that a test plays, honest or not. Real relays: test/integration/onion.test.ts.

import assert from "node:assert/strict";
import { test } from "node:test";
import { concat, fromUtf8, utf8 } from "../../base/bytes.ts";
import { TestClock } from "../../base/clock.ts";
import { equal, random } from "../crypto/primitives.ts";
import { CIRCUIT_INPUT_BYTES_MAX, HOPS_MAX, STREAMS_PER_CIRCUIT_MAX } from "../limits.ts";
import { CELL } from "../link/cell.ts";
import { Circuit, REPLY_MS } from "./circuit.ts";
import type { HopKeys } from "./hop-keys.ts";
import {
  decodeSendme,
  END_REASON,
  encodeSendme,
  encodeXoff,
  encodeXon,
  RELAY,
  RELAY_DATA_BYTES,
  type RelayMessage,
} from "./relay-message.ts";
import { settle, TestRelay } from "./test-relay.ts";
import { vegasParameters } from "./vegas.ts";

const vegas = vegasParameters(new Map(), "onion");

async function oneHop(): Promise<{ relay: TestRelay; circuit: Circuit; clock: TestClock }> {
  const relay = new TestRelay();
  const clock = new TestClock();
  const circuit = await Circuit.createFast(relay.link, { clock });
  return { relay, circuit, clock };
}

function onionKeys(): HopKeys {
  return {
    kind: "onion",
    forwardDigest: random(32),
    backwardDigest: random(32),
    forwardKey: random(32),
    backwardKey: random(32),
  };
}

/** A circuit whose second hop is a client of ours, as a service has it. */
async function rendezvous(congestion = false) {
  const base = await oneHop();
  const keys = onionKeys();
  base.circuit.addOnionHop(keys, "service", congestion ? vegas : undefined);
  base.relay.addOnionHop(keys, "service");
  return base;
}

function count(relay: TestRelay, command: number): number {
  return relay.messages.filter((message) => message.command === command).length;
}

test("bytes go both ways, and DONE ends the stream", async () => {
  const { relay, circuit } = await oneHop();
  const stream = circuit.openStream("example.com", 80);
  await stream.write(utf8("GET /"));
  await settle();
  const [begin, data] = relay.messages;
  assert.equal(begin?.command, RELAY.begin);
  assert.equal(fromUtf8(begin?.data.subarray(0, 14) ?? random(1)), "example.com:80");
  assert.equal(fromUtf8(data?.data ?? random(1)), "GET /");
  relay.send({ command: RELAY.connected, streamId: stream.id, data: new Uint8Array(8) });
  await stream.connected;
  relay.send({ command: RELAY.data, streamId: stream.id, data: utf8("hel") });
  relay.send({ command: RELAY.data, streamId: stream.id, data: utf8("lo") });
  relay.send({ command: RELAY.end, streamId: stream.id, data: Uint8Array.of(END_REASON.done) });
  assert.equal(fromUtf8((await stream.read()) ?? random(1)), "hello");
  assert.equal(await stream.read(), undefined);
  await assert.rejects(stream.write(utf8("x")), { code: "onion-stream-ended" });
  assert.equal(circuit.streamCount, 0);
  assert.ok(circuit.isOpen);
});

test("BEGIN and the first data leave in one write", async () => {
  const { relay, circuit } = await oneHop();
  const before = relay.writes;
  const stream = circuit.openStream("example.com", 80);
  await stream.write(utf8("GET /"));
  await settle();
  assert.equal(relay.writes - before, 1);
});

test("END before CONNECTED, or for another reason than DONE, is an error that names it", async () => {
  const { relay, circuit } = await oneHop();
  const stream = circuit.openStream("example.com", 80);
  relay.send({ command: RELAY.end, streamId: stream.id, data: Uint8Array.of(END_REASON.exitPolicy) });
  await assert.rejects(stream.connected, /exitPolicy/u);
  await assert.rejects(stream.read(), { code: "onion-stream-ended" });
});

test("data is written as far as the windows go, and goes on with SENDMEs that prove something", async () => {
  const { relay, circuit } = await oneHop();
  const stream = circuit.openStream("example.com", 80);
  let isDone = false;
  const writing = (async () => {
    await stream.write(new Uint8Array(1200 * RELAY_DATA_BYTES));
    isDone = true;
  })();
  await settle();
  assert.equal(count(relay, RELAY.data), 500, "a stream's window");
  for (let left = 10; left > 0; left--)
    relay.send({ command: RELAY.sendme, streamId: stream.id, data: new Uint8Array(0) });
  await settle();
  assert.equal(count(relay, RELAY.data), 1000, "the circuit's window");
  const dataDigests = relay.digests.filter((_, index) => relay.messages[index]?.command === RELAY.data);
  const proof = (cell: number) => encodeSendme(dataDigests[cell - 1] ?? random(20));
  relay.send({ command: RELAY.sendme, streamId: 0, data: proof(100) });
  for (let left = 2; left > 0; left--)
    relay.send({ command: RELAY.sendme, streamId: stream.id, data: new Uint8Array(0) });
  await settle();
  assert.equal(count(relay, RELAY.data), 1100);
  assert.equal(isDone, false);
  for (let left = 2; left > 0; left--)
    relay.send({ command: RELAY.sendme, streamId: stream.id, data: new Uint8Array(0) });
  relay.send({ command: RELAY.sendme, streamId: 0, data: proof(200) });
  await writing;
  assert.equal(count(relay, RELAY.data), 1200);
});

test("streams of one circuit take turns", async () => {
  const { relay, circuit } = await oneHop();
  const [a, b] = [circuit.openStream("a", 1), circuit.openStream("b", 1)];
  relay.takes = false;
  circuit.sendDrop(0);
  await settle();
  void a.write(new Uint8Array(400 * RELAY_DATA_BYTES)).catch(() => undefined);
  void b.write(new Uint8Array(400 * RELAY_DATA_BYTES)).catch(() => undefined);
  await settle();
  assert.equal(count(relay, RELAY.data), 0, "a full socket keeps data back");
  relay.takes = true;
  relay.link.drained();
  await settle();
  const first = relay.messages.filter(({ command }) => command === RELAY.data).slice(0, 200);
  const ofA = first.filter(({ streamId }) => streamId === a.id).length;
  assert.ok(ofA >= 80 && ofA <= 120, `${String(ofA)} of 200`);
});

test("a reader that does not read holds the stream at its window, and the window opens as it reads", async () => {
  const { relay, circuit } = await oneHop();
  const stream = circuit.openStream("example.com", 80);
  relay.send({ command: RELAY.connected, streamId: stream.id, data: new Uint8Array(8) });
  relay.sendData(stream.id, 500);
  await settle();
  const streamSendmes = () =>
    relay.messages.filter(({ command, streamId }) => command === RELAY.sendme && streamId === stream.id)
      .length;
  assert.equal(streamSendmes(), 0);
  assert.equal(count(relay, RELAY.sendme), 5, "the circuit's are sent at once");
  let read = 0;
  while (read < 500 * RELAY_DATA_BYTES) read += (await stream.read())?.length ?? 0;
  await settle();
  assert.equal(streamSendmes(), 10);
  relay.sendData(stream.id, 500);
  assert.ok(circuit.isOpen);
  relay.sendData(stream.id, 1);
  assert.match((await circuit.closed).message, /window/u);
});

test("our SENDMEs carry the digest of the 100th cell", async () => {
  const { relay, circuit } = await oneHop();
  const stream = circuit.openStream("example.com", 80);
  relay.sendData(stream.id, 99);
  const digest = relay.send({ command: RELAY.data, streamId: stream.id, data: utf8("x") });
  await settle();
  const sendme = relay.messages.find(({ command }) => command === RELAY.sendme);
  assert.ok(equal(decodeSendme(sendme?.data ?? random(1)) ?? random(1), digest.subarray(0, 20)));
});

test("under congestion control XOFF and XON take the place of stream windows, both ways", async () => {
  const { relay, circuit, clock } = await rendezvous(true);
  const accepted =
    Promise.withResolvers<ReturnType<Parameters<Parameters<typeof circuit.onStream>[1]>[0]["accept"]>>();
  circuit.onStream(1, (incoming) => {
    accepted.resolve(incoming.accept());
  });
  relay.send({ command: RELAY.begin, streamId: 7, data: utf8(":80\0") });
  const stream = await accepted.promise;
  relay.sendData(7, 501);
  await settle();
  assert.equal(count(relay, RELAY.xoff), 1);
  assert.equal(count(relay, RELAY.sendme), Math.floor(501 / 31));
  while (stream.bufferedBytes > 0) await stream.read();
  await settle();
  assert.equal(count(relay, RELAY.xon), 1);

  relay.send({ command: RELAY.xoff, streamId: 7, data: encodeXoff() });
  const writing = stream.write(new Uint8Array(20 * RELAY_DATA_BYTES));
  await settle();
  assert.equal(count(relay, RELAY.data), 0);
  // 4 kB/s: a burst of 400 bytes at once, the rest as time goes on.
  relay.send({ command: RELAY.xon, streamId: 7, data: encodeXon(4) });
  await settle();
  assert.equal(count(relay, RELAY.data), 1);
  await clock.advance(500);
  await settle();
  assert.ok(count(relay, RELAY.data) <= 6, String(count(relay, RELAY.data)));
  relay.send({ command: RELAY.xon, streamId: 7, data: encodeXon(0) });
  await writing;
  await settle();
  assert.equal(count(relay, RELAY.data), 20);
});

test("what nobody reads is bounded by CIRCUIT_INPUT_BYTES_MAX, also when XOFF is ignored", async () => {
  const { relay, circuit } = await rendezvous(true);
  circuit.onStream(1, (incoming) => {
    incoming.accept();
  });
  relay.send({ command: RELAY.begin, streamId: 7, data: utf8(":80\0") });
  relay.sendData(7, Math.floor(CIRCUIT_INPUT_BYTES_MAX / RELAY_DATA_BYTES));
  assert.ok(circuit.isOpen);
  relay.sendData(7, 1);
  assert.match((await circuit.closed).message, /more data than anybody reads/u);
});

test("what a closed stream has not read no longer counts, whoever closed it first", async () => {
  const { relay, circuit } = await rendezvous(true);
  circuit.onStream(1, (incoming) => {
    const stream = incoming.accept();
    // One in two is ended by the other side, and closed after that.
    void (async () => {
      await stream.ended;
      stream.close();
    })();
    if (incoming.port === 80)
      setImmediate(() => {
        stream.close();
      });
  });
  const cells = Math.floor(CIRCUIT_INPUT_BYTES_MAX / RELAY_DATA_BYTES / 4);
  for (let id = 1; id <= 5; id++) {
    relay.send({ command: RELAY.begin, streamId: id, data: utf8(`:${id % 2 === 0 ? "80" : "81"}\0`) });
    relay.sendData(id, cells);
    if (id % 2 === 1) relay.send({ command: RELAY.end, streamId: id, data: Uint8Array.of(END_REASON.done) });
    await settle();
  }
  assert.ok(circuit.isOpen);
});

test("a service answers BEGIN, refuses what it does not serve, and has STREAMS_PER_CIRCUIT_MAX at most", async () => {
  const { relay, circuit } = await rendezvous();
  circuit.onStream(1, (incoming) => {
    if (incoming.port === 80) incoming.accept();
    else incoming.refuse(END_REASON.exitPolicy);
  });
  relay.send({ command: RELAY.begin, streamId: 1, data: utf8(":81\0") });
  relay.send({ command: RELAY.begin, streamId: 2, data: utf8(":80\0") });
  await settle();
  const answers = relay.messages.map(({ command, streamId, data }) => [command, streamId, ...data]);
  assert.deepEqual(answers, [
    [RELAY.end, 1, END_REASON.exitPolicy],
    [RELAY.connected, 2],
  ]);
  for (let id = 3; id <= STREAMS_PER_CIRCUIT_MAX + 2; id++)
    relay.send({ command: RELAY.begin, streamId: id, data: utf8(":80\0") });
  await settle();
  assert.equal(count(relay, RELAY.connected), STREAMS_PER_CIRCUIT_MAX);
  assert.deepEqual([...(relay.messages.at(-1)?.data ?? [])], [END_REASON.resourceLimit]);
  assert.throws(() => circuit.openStream("x", 1), { code: "onion-too-many-streams" });
});

test("what a hop may not send ends the circuit, and tells the relay nothing", async () => {
  const violations: [string, (relay: TestRelay, streamId: number) => void, RegExp][] = [
    [
      "a cell that no hop sealed",
      (r) => {
        r.sendCell(CELL.relay, random(509));
      },
      /no hop has sealed/u,
    ],
    [
      "RELAY_EARLY towards us",
      (r) => {
        r.sendCell(CELL.relayEarly, random(509));
      },
      /cell 9/u,
    ],
    [
      "CREATED2 again",
      (r) => {
        r.sendCell(CELL.created2, new Uint8Array(9));
      },
      /cell 11/u,
    ],
    [
      "EXTENDED2 unasked",
      (r) => r.send({ command: RELAY.extended2, streamId: 0, data: random(66) }),
      /message 15/u,
    ],
    [
      "INTRODUCE2 unasked",
      (r) => r.send({ command: RELAY.introduce2, streamId: 0, data: random(9) }),
      /message 35/u,
    ],
    [
      "BEGIN from a relay",
      (r) => r.send({ command: RELAY.begin, streamId: 3, data: utf8(":80\0") }),
      /BEGIN/u,
    ],
    [
      "SENDME not due",
      (r) => r.send({ command: RELAY.sendme, streamId: 0, data: encodeSendme(random(20)) }),
      /not due/u,
    ],
    [
      "stream SENDME not due",
      (r, id) => r.send({ command: RELAY.sendme, streamId: id, data: new Uint8Array(0) }),
      /not due/u,
    ],
    [
      "CONNECTED twice",
      (r, id) => {
        r.send({ command: RELAY.connected, streamId: id, data: new Uint8Array(0) });
        r.send({ command: RELAY.connected, streamId: id, data: new Uint8Array(0) });
      },
      /CONNECTED twice/u,
    ],
    [
      "XOFF without congestion control",
      (r, id) => r.send({ command: RELAY.xoff, streamId: id, data: encodeXoff() }),
      /XOFF/u,
    ],
    [
      "XON of a version unknown",
      (r, id) => r.send({ command: RELAY.xon, streamId: id, data: Uint8Array.of(1, 0, 0, 0, 0) }),
      /version 1/u,
    ],
  ];
  for (const [name, violate, message] of violations) {
    const { relay, circuit } = await oneHop();
    const stream = circuit.openStream("example.com", 80);
    violate(relay, stream.id);
    assert.match((await circuit.closed).message, message, name);
    await assert.rejects(stream.read(), message, name);
    await settle();
    const destroy = relay.cells.at(-1);
    assert.equal(destroy?.command, CELL.destroy, name);
    assert.equal(destroy?.body[0], 0, name);
    assert.ok(relay.link.isOpen, `${name}: the link's other circuits go on`);
    assert.equal(relay.link.circuitCount, 0);
  }
});

test("what is merely unknown or late is dropped", async () => {
  const { relay, circuit } = await oneHop();
  for (const message of [
    { command: RELAY.drop, streamId: 0, data: random(100) },
    { command: 99, streamId: 0, data: random(3) },
    { command: RELAY.data, streamId: 777, data: random(3) },
    { command: RELAY.end, streamId: 777, data: Uint8Array.of(6) },
    { command: 99, streamId: 777, data: random(3) },
  ] satisfies RelayMessage[])
    relay.send(message);
  await settle();
  assert.ok(circuit.isOpen);
});

test("DESTROY and TRUNCATED end everything with their reason", async () => {
  for (const end of [
    (relay: TestRelay) => {
      relay.sendCell(CELL.destroy, Uint8Array.of(11));
    },
    (relay: TestRelay) => {
      relay.send({ command: RELAY.truncated, streamId: 0, data: Uint8Array.of(11) });
    },
  ]) {
    const { relay, circuit } = await oneHop();
    const stream = circuit.openStream("example.com", 80);
    const waiting = circuit.expect(0, RELAY.rendezvous2);
    end(relay);
    assert.match((await circuit.closed).message, /destroyed/u);
    await assert.rejects(waiting, { code: "onion-circuit-closed" });
    await assert.rejects(stream.connected, { code: "onion-circuit-closed" });
    await assert.rejects(stream.write(utf8("x")), { code: "onion-circuit-closed" });
    assert.throws(() => circuit.openStream("x", 1), { code: "onion-circuit-closed" });
  }
});

test("waits end by answer, time or abort; an answer from another hop is not one", async () => {
  const { relay, circuit, clock } = await rendezvous();
  const answered = circuit.expect(0, RELAY.introEstablished);
  relay.send({ command: RELAY.introEstablished, streamId: 0, data: utf8("ok") }, 0);
  assert.equal(fromUtf8(await answered), "ok");
  const late = assert.rejects(circuit.expect(0, RELAY.introEstablished), { code: "onion-timeout" });
  await clock.advance(REPLY_MS);
  await late;
  const aborted = new AbortController();
  const waiting = assert.rejects(
    circuit.expect(0, RELAY.introEstablished, { signal: aborted.signal }),
    /enough/u,
  );
  aborted.abort(new Error("enough"));
  await waiting;
  assert.ok(circuit.isOpen);
  const wrongHop = assert.rejects(circuit.expect(0, RELAY.introEstablished), { code: "onion-circuit" });
  relay.send({ command: RELAY.introEstablished, streamId: 0, data: utf8("ok") }, 1);
  await wrongHop;
});

test("an extension whose answer is wrong ends the circuit; EXTEND2 travels in RELAY_EARLY", async () => {
  const { relay, circuit } = await oneHop();
  relay.onMessage = ({ command }) => {
    if (command !== RELAY.extend2) return;
    queueMicrotask(() =>
      relay.send({ command: RELAY.extended2, streamId: 0, data: concat([Uint8Array.of(0, 64), random(64)]) }),
    );
  };
  const target = {
    host: "192.0.2.1",
    port: 9001,
    identity: { rsa: random(20), ed25519: random(32) },
    ntorKey: random(32),
  };
  await assert.rejects(circuit.extend(target), { code: /onion-(handshake|crypto)/u });
  assert.equal(relay.cells.find(({ command }) => command === CELL.relayEarly)?.circuitId, relay.circuitId);
  assert.equal(circuit.isOpen, false);
});

test("a circuit has HOPS_MAX hops at most", async () => {
  const { circuit } = await oneHop();
  for (let hops = 1; hops < HOPS_MAX; hops++) circuit.addOnionHop(onionKeys(), "client", undefined);
  assert.equal(circuit.hopCount, HOPS_MAX);
  await assert.rejects(
    circuit.extend({
      host: "192.0.2.1",
      port: 1,
      identity: { rsa: random(20), ed25519: random(32) },
      ntorKey: random(32),
    }),
    { code: "onion-path" },
  );
});

test("a write that is aborted takes nothing with it", async () => {
  const { relay, circuit } = await oneHop();
  relay.takes = false;
  circuit.sendDrop(0);
  await settle();
  const stream = circuit.openStream("example.com", 80);
  const aborted = new AbortController();
  const first = assert.rejects(stream.write(utf8("first"), { signal: aborted.signal }), /enough/u);
  const second = stream.write(utf8("second"));
  aborted.abort(new Error("enough"));
  await first;
  relay.takes = true;
  relay.link.drained();
  await second;
  await settle();
  const data = relay.messages.filter(({ command }) => command === RELAY.data);
  assert.equal(fromUtf8(concat(data.map((message) => message.data))), "second");
});
