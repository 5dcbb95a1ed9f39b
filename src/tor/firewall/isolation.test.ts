// The property that the firewall is for: no sequence of calls of one owner can name, see or change anything of
// another's, of tor's own or of other programs'. On a fake tor that records every command; the same players meet on a
// real one in test/integration/function-tor.test.ts.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { FakeTor } from "../../../test/support/fake-tor.ts";
import { leaky, type Move, moves, overhearing, play, type Rival } from "../../../test/support/tor-rivals.ts";
import { systemClock } from "../../base/clock.ts";
import { TorFirewall } from "./firewall.ts";
import type { FirewallOwner, TorUse } from "./owner.ts";
import { OwnerAccount } from "./owner-account.ts";

const RUNS = 60;
const LIMITS = {
  routines: ["circuits", "streams", "onions", "events", "directory"],
  circuits: 3,
  streams: 4,
  onions: 2,
  extendsPerMinute: 1000,
  bytes: 20_000,
} as const;

/** All that the firewall may ever say to tor (spec/tor-firewall 1). */
const ALLOWED = [
  /^PROTOCOLINFO 1$/u,
  /^AUTHENTICATE$/u,
  /^SETEVENTS (CIRC STREAM|HS_DESC)$/u,
  /^SETCONF __LeaveStreamsUnattached="1"$/u,
  /^GETINFO (ns\/all|md\/all|md\/id\/[0-9A-F]{40}|entry-guards|(ip-to-country\/[0-9.]+ ?)+)$/u,
  /^GETCONF EnforceDistinctSubnets$/u,
  /^EXTENDCIRCUIT 0 [0-9A-F]{40}(,[0-9A-F]{40})* purpose=controller$/u,
  /^EXTENDCIRCUIT (?<circuit>\d+) [0-9A-F]{40}(,[0-9A-F]{40})*$/u,
  /^CLOSECIRCUIT (?<circuit>\d+)$/u,
  /^ATTACHSTREAM (?<stream>\d+) (?<on>\d+)$/u,
  /^CLOSESTREAM (?<stream>\d+) 1$/u,
  /^ADD_ONION NEW:ED25519-V3 Flags=DiscardPK Port=80,unix:\S+$/u,
  /^DEL_ONION (?<onion>[a-z2-7]{56})$/u,
];

/** Who made what at tor, as far as its commands tell: owner 0, owner 1, or nobody. */
class Ledger {
  readonly #tor: FakeTor;
  readonly #circuits = new Map<string, number>();
  readonly #streams = new Map<string, number>();
  readonly #onions = new Map<string, number>();
  #seen = 0;

  constructor(tor: FakeTor) {
    this.#tor = tor;
  }

  check({ who }: Move, foreign: ReadonlySet<string>): void {
    for (const id of this.#tor.circuits.keys())
      if (!foreign.has(id) && !this.#circuits.has(id)) this.#circuits.set(id, who);
    for (const id of this.#tor.onions.keys()) if (!this.#onions.has(id)) this.#onions.set(id, who);
    for (const { line } of this.#tor.commands.slice(this.#seen)) {
      const match = ALLOWED.map((form) => form.exec(line)).find((found) => found !== null);
      assert.ok(match, `tor was told ${line}`);
      const { circuit, stream, on, onion } = match.groups ?? {};
      if (circuit !== undefined) assert.equal(this.#circuits.get(circuit), who, line);
      if (onion !== undefined) assert.equal(this.#onions.get(onion), who, line);
      if (stream === undefined) continue;
      const isForeign = foreign.has(stream);
      if (!isForeign && !this.#streams.has(stream)) this.#streams.set(stream, who);
      if (isForeign) assert.equal(on, "0", line);
      else if (on !== undefined && on !== "0")
        assert.equal(this.#circuits.get(on), this.#streams.get(stream), line);
    }
    this.#seen = this.#tor.commands.length;
    for (const id of foreign)
      assert.ok(this.#tor.circuits.has(id) || this.#tor.streams.has(id), "foreign things stay");
  }
}

type Change = (own: TorUse, other: TorUse) => TorUse;

async function meet(played: readonly Move[], change: Change = (own) => own): Promise<void> {
  await using tor = await FakeTor.start();
  await using firewall = await TorFirewall.open({
    control: await tor.connect(),
    connect: async () => tor.connect(),
    socks: tor.socks,
    socketDir: tor.dir,
    firstHop: "any",
    clock: systemClock,
  });
  const owners = [0, 1].map(() => firewall.owner(new OwnerAccount(LIMITS, systemClock)));
  const [one, two] = owners as [FirewallOwner, FirewallOwner];
  const relay = (index: number) => tor.relays[index]?.fingerprint ?? "";
  const rival = (use: TorUse, first: number, host: string): Rival => ({
    use,
    hops: [null, relay(first), relay(first + 1)],
    host,
    port: 80,
    secrets: [relay(first), relay(first + 1), host],
  });
  const foreign = new Set([tor.foreignCircuit(), tor.foreignStream(), tor.foreignCircuit()]);
  const ledger = new Ledger(tor);
  await play(
    {
      rivals: [rival(change(one, two), 3, "one.test"), rival(change(two, one), 5, "two.test")],
      kinds: ["circuit", "stream", "onion"],
      secrets: [tor.guard, relay(1), relay(2), "secret.test"],
      check: async (move) => {
        // Whatever was written to tor before this has been read by it.
        await firewall.pathChoice();
        ledger.check(move, foreign);
      },
    },
    played,
  );
  const left = [...tor.circuits.keys()].filter((id) => !foreign.has(id)).length;
  const theirs = two.circuits().length;
  assert.equal(left, one.circuits().length + theirs);
  await one[Symbol.asyncDispose]();
  assert.equal([...tor.circuits.keys()].filter((id) => !foreign.has(id)).length, theirs);
  assert.equal(tor.onions.size, two.onions().length);
}

test("no calls of one owner name, see or change anything of another's or of tor's own", async () => {
  await fc.assert(
    fc.asyncProperty(moves(30), async (played) => meet(played)),
    { numRuns: RUNS },
  );
});

test("control: with the ownership check taken out, the property fails", async () => {
  const result = await fc.check(
    fc.asyncProperty(moves(30), async (played) => meet(played, leaky)),
    { numRuns: RUNS, endOnFailure: true },
  );
  assert.ok(result.failed);
});

test("control: with events not told apart, the property fails", async () => {
  const result = await fc.check(
    fc.asyncProperty(moves(30), async (played) => meet(played, overhearing)),
    { numRuns: RUNS, endOnFailure: true },
  );
  assert.ok(result.failed);
});
