import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../base/clock.ts";
import { BentoError } from "../base/errors.ts";
import type { Circuit, CircuitRelay } from "./circuit/circuit.ts";
import { CircuitPool } from "./circuit-pool.ts";
import type { Relay } from "./directory/network.ts";

const RELAY = {} as Relay;
const END = { port: 1 } as CircuitRelay;

class FakeCircuit {
  readonly extended: CircuitRelay[] = [];
  readonly #closed = Promise.withResolvers<BentoError>();
  isOpen = true;
  /** Built to its end at once, not ahead of time. */
  startedFor: CircuitRelay | undefined;
  failsToExtend = false;

  get closed(): Promise<BentoError> {
    return this.#closed.promise;
  }

  async extend(relay: CircuitRelay): Promise<void> {
    if (this.failsToExtend) throw new BentoError("onion-timeout", "no answer");
    this.extended.push(relay);
  }

  destroy(): void {
    this.isOpen = false;
    this.#closed.resolve(new BentoError("onion-circuit-closed", "closed"));
  }
}

/** A pool over circuits that a test makes, fails and counts. */
function poolOf(size: number, { holds = false } = {}) {
  const clock = new TestClock();
  const built: FakeCircuit[] = [];
  const world = {
    fails: false,
    /** What leads to the end from the circuit that was started as the n-th; undefined: it does not suit. */
    rest: (_started: number, end: CircuitRelay): CircuitRelay[] | undefined => [end],
    waiting: [] as (() => void)[],
  };
  let started = 0;
  const pool = new CircuitPool({
    size,
    clock,
    builder: {
      async build(path) {
        if (holds) await new Promise<void>((resolve) => world.waiting.push(resolve));
        if (world.fails) throw new BentoError("onion-unreachable", "no");
        const circuit = new FakeCircuit();
        if (path.length === 3) circuit.startedFor = END;
        built.push(circuit);
        return circuit as unknown as Circuit;
      },
    },
    paths: {
      start: () => [RELAY, { bandwidth: started++ } as Relay],
      rest: (start, end) => world.rest(start.at(-1)?.bandwidth ?? 0, end),
      to: (end) => [RELAY, RELAY, end],
    },
  });
  return { clock, built, pool, world };
}

const settled = async () => {
  for (let turns = 0; turns < 4; turns++) await new Promise((resolve) => setImmediate(resolve));
};

test("so many are ready; one that is taken gets a relay more, and another is built", async () => {
  const { pool, built } = poolOf(6);
  await settled();
  assert.deepEqual([pool.ready, built.length], [6, 6]);
  const circuit = await pool.to(END);
  assert.equal(circuit, built[0]);
  assert.deepEqual(built[0]?.extended, [END]);
  await settled();
  assert.deepEqual([pool.ready, built.length], [6, 7]);
  pool[Symbol.dispose]();
  assert.equal(built.filter(({ isOpen }) => isOpen).length, 1, "the one that was taken is not the pool's");
});

test("few are built at once", async () => {
  const { pool, world } = poolOf(100, { holds: true });
  await settled();
  assert.equal(world.waiting.length, 4);
  world.waiting.shift()?.();
  await settled();
  assert.equal(world.waiting.length, 4);
  pool[Symbol.dispose]();
});

test("where none suits the end, or none is ready, one is built for it", async () => {
  const { pool, built, world } = poolOf(2);
  await settled();
  world.rest = () => undefined;
  const circuit = await pool.to(END);
  assert.equal(circuit, built[2]);
  assert.equal(pool.ready, 2);
  pool[Symbol.dispose]();
});

test("of several that suit, one that needs a single relay more", async () => {
  const { pool, built, world } = poolOf(3);
  await settled();
  world.rest = (started, end) => (started === 1 ? [end] : [RELAY, end]);
  assert.equal(await pool.to(END), built[1]);
  assert.deepEqual(built[1]?.extended, [END]);
  pool[Symbol.dispose]();
});

test("those that never suit whoever comes do not fill the pool", async () => {
  const { pool, world } = poolOf(4);
  await settled();
  // Every other circuit ends at the relay that all clients wait at.
  world.rest = (started, end) => (started % 2 === 0 ? undefined : [end]);
  let missed = 0;
  for (let clients = 0; clients < 100; clients++) {
    const circuit = (await pool.to(END)) as unknown as FakeCircuit;
    if (circuit.startedFor === END) missed++;
    await settled();
    assert.equal(pool.ready, 4);
  }
  assert.ok(missed <= 5, `${missed} of 100 found none`);
  pool[Symbol.dispose]();
});

test("one that cannot be extended is destroyed, and the caller told", async () => {
  const { pool, built } = poolOf(1);
  await settled();
  if (built[0]) built[0].failsToExtend = true;
  await assert.rejects(pool.to(END), { code: "onion-timeout" });
  assert.equal(built[0]?.isOpen, false);
  pool[Symbol.dispose]();
});

test("those that break or get old are replaced; what fails is tried ever more slowly", async () => {
  const { pool, built, world, clock } = poolOf(1);
  await settled();
  world.fails = true;
  built[0]?.destroy();
  await settled();
  assert.deepEqual([pool.ready, clock.pending], [0, 1]);
  await clock.advance(3000);
  await settled();
  world.fails = false;
  await clock.advance(30_000);
  await settled();
  assert.equal(pool.ready, 1);
  const old = built.at(-1);
  await clock.advance(21 * 60_000);
  const taken = await pool.to(END);
  assert.notEqual(taken, old);
  assert.equal(old?.isOpen, false);
  pool[Symbol.dispose]();
});
