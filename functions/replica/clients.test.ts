import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../src/base/clock.ts";
import type { Circuit, IncomingStream } from "../../src/onion/circuit/circuit.ts";
import { END_REASON } from "../../src/onion/circuit/relay-message.ts";
import type { TorStream } from "../../src/onion/circuit/stream.ts";
import { LoadBalancerLimits } from "../../src/wire/loadbalancer.ts";
import { CIRCUITS_MAX, Clients, FRESH_MS, STREAMS_PER_CLIENT_MAX } from "./clients.ts";
import type { ByteStream } from "./http-server.ts";

function circuitOf() {
  const closed = Promise.withResolvers<Error>();
  const state = { isOpen: true };
  const circuit = {
    closed: closed.promise,
    destroy() {
      state.isOpen = false;
      closed.resolve(new Error("closed"));
    },
  } as unknown as Circuit;
  return { circuit, state };
}

function incoming(port = 80) {
  const seen = { refused: undefined as number | undefined, isAccepted: false, isClosed: false };
  const stream: IncomingStream = {
    host: "",
    port,
    accept: () => {
      seen.isAccepted = true;
      return {
        read: async () => undefined,
        write: async () => undefined,
        close: () => {
          seen.isClosed = true;
        },
      } as unknown as TorStream;
    },
    refuse: (reason) => {
      seen.refused = reason;
    },
  };
  return { stream, seen };
}

/** Streams are served until a test lets them end. */
function clientsWith() {
  const clock = new TestClock();
  const served: { readonly stream: ByteStream; readonly end: () => void }[] = [];
  const clients = new Clients({
    clock,
    virtualPort: 80,
    serve: async (stream) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      served.push({ stream, end: resolve });
      await promise;
    },
  });
  return { clock, clients, served };
}

const settled = async () => new Promise((resolve) => setImmediate(resolve));

test("a client gets streams at the service's port, so many at once", async () => {
  const { clients, served } = clientsWith();
  const onStream = clients.add(circuitOf().circuit);
  const wrong = incoming(81);
  onStream(wrong.stream);
  assert.deepEqual([wrong.seen.isAccepted, wrong.seen.refused], [false, END_REASON.exitPolicy]);
  for (let count = 0; count < STREAMS_PER_CLIENT_MAX; count++) {
    const { stream, seen } = incoming();
    onStream(stream);
    assert.ok(seen.isAccepted);
  }
  const more = incoming();
  onStream(more.stream);
  assert.equal(more.seen.refused, END_REASON.resourceLimit);
  served[0]?.end();
  await settled();
  const next = incoming();
  onStream(next.stream);
  assert.ok(next.seen.isAccepted);
});

test("a circuit counts while it has a stream, and a while after", async () => {
  const { clock, clients, served } = clientsWith();
  const { circuit } = circuitOf();
  const onStream = clients.add(circuit);
  assert.equal(clients.active, 1);
  await clock.advance(FRESH_MS);
  assert.equal(clients.active, 0, "it came and said nothing");
  const { stream, seen } = incoming();
  onStream(stream);
  await clock.advance(10 * FRESH_MS);
  assert.equal(clients.active, 1);
  served[0]?.end();
  await settled();
  assert.ok(seen.isClosed);
  await clock.advance(FRESH_MS - 1);
  assert.equal(clients.active, 1);
  await clock.advance(1);
  assert.deepEqual([clients.active, clients.circuits], [0, 1]);
  circuit.destroy();
  await settled();
  assert.equal(clients.circuits, 0);
});

test("bytes and rates, of all and of each", async () => {
  const { clock, clients, served } = clientsWith();
  clients.add(circuitOf().circuit)(incoming().stream);
  clients.add(circuitOf().circuit)(incoming().stream);
  await served[0]?.stream.write(new Uint8Array(3000));
  await clock.advance(500);
  clients.measure();
  assert.deepEqual([clients.bytesTotal, clients.bytesPerSecond], [3000, 6000]);
  assert.deepEqual(
    clients.loads().map(({ id, bytesPerSecond, ageMs }) => [id, bytesPerSecond, ageMs]),
    [
      [1, 6000, 500],
      [2, 0, 500],
    ],
  );
  await clock.advance(500);
  clients.measure();
  assert.equal(clients.bytesPerSecond, 0);
});

test("circuits are bounded: the longest idle goes, and none that has a stream", async () => {
  const { clock, clients, served } = clientsWith();
  const first = circuitOf();
  clients.add(first.circuit);
  for (let count = 1; count < CIRCUITS_MAX; count++) {
    await clock.advance(1);
    clients.add(circuitOf().circuit)(incoming().stream);
  }
  assert.deepEqual([clients.circuits, clients.isFull], [CIRCUITS_MAX, false]);
  clients.add(circuitOf().circuit)(incoming().stream);
  assert.deepEqual([clients.circuits, first.state.isOpen], [CIRCUITS_MAX, false]);
  assert.equal(clients.isFull, true);
  assert.equal(clients.loads().length, LoadBalancerLimits.clientsShownMax);
  served[5]?.end();
  await settled();
  assert.equal(clients.isFull, false);
  clients.close();
  assert.equal(clients.circuits, 0);
});
