import assert from "node:assert/strict";
import test from "node:test";
import { BentoError } from "../../base/errors.ts";
import { NO_FAMILY, parseFamily } from "../relay-list.ts";
import { choosePath, HOPS_MAX, type Hop, type PathChoice } from "./choose-path.ts";
import type { DirectoryRelay as Relay } from "./relay-directory.ts";

const USUAL = ["Fast", "Running", "Valid"];
const fingerprintOf = (number: number) => number.toString(16).toUpperCase().padStart(40, "0");

function relay(number: number, more: Partial<Relay> = {}): Relay {
  return {
    fingerprint: fingerprintOf(number),
    nickname: `r${number}`,
    addresses: [`10.${number}.0.1`],
    orPort: 9001,
    flags: USUAL,
    bandwidth: 1,
    exit: null,
    country: null,
    ed25519: null,
    family: NO_FAMILY,
    ...more,
  };
}

const choice = (relays: readonly Relay[], more: Partial<PathChoice> = {}): PathChoice => ({
  relays,
  guards: relays.slice(0, 2).map(({ fingerprint }) => fingerprint),
  distinctSubnets: true,
  firstHop: "any",
  ...more,
});
const refusedWith = (code: string, hops: readonly Hop[], from: PathChoice) => {
  assert.throws(
    () => choosePath(hops, from),
    (error) => error instanceof BentoError && error.code === code,
  );
};
const some = [1, 2, 3, 4, 5, 6].map((number) => relay(number));

test("choosePath: named relays stand as they are, whatever flags they have", () => {
  const named = [relay(1, { flags: [] }), relay(2), relay(3)];
  const hops = named.map(({ fingerprint }) => fingerprint.toLowerCase());
  assert.deepEqual(choosePath(hops, choice(named)), [1, 2, 3].map(fingerprintOf));
  refusedWith("tor-no-path", [fingerprintOf(9)], choice(named));
  refusedWith("tor-no-path", [fingerprintOf(1), fingerprintOf(1)], choice(named));
  refusedWith(
    "tor-no-path",
    [fingerprintOf(1)],
    choice(named, { after: [fingerprintOf(2), fingerprintOf(1)] }),
  );
  assert.deepEqual(
    choosePath([fingerprintOf(2)], choice(named, { after: [fingerprintOf(2), fingerprintOf(1)] })),
    [fingerprintOf(2)],
  );
});

test("choosePath: an open first hop is a guard of tor's, the first that goes with the rest", () => {
  assert.equal(choosePath([null, {}, {}], choice(some))[0], fingerprintOf(1));
  assert.equal(choosePath([null, {}, fingerprintOf(1)], choice(some))[0], fingerprintOf(2));
  refusedWith("tor-no-path", [null, fingerprintOf(2), fingerprintOf(1)], choice(some));
  refusedWith("tor-refused", [fingerprintOf(3), null], choice(some));
});

test("choosePath: where the box hides, the first hop is always its own guard", () => {
  const hidden = choice(some, { firstHop: "guard" });
  for (const first of [fingerprintOf(3), fingerprintOf(1), {}])
    refusedWith("tor-refused", [first, {}, {}], hidden);
  assert.equal(choosePath([null, fingerprintOf(3), {}], hidden)[0], fingerprintOf(1));
  assert.equal(choosePath([fingerprintOf(4)], { ...hidden, after: [fingerprintOf(1)] })[0], fingerprintOf(4));
});

test("choosePath: wishes hold, and no relay or /16 comes twice", () => {
  const exit = { kind: "accept", ports: "80,443" } as const;
  const relays = [
    relay(1, { exit }),
    relay(2, { country: "de" }),
    relay(3, { exit: { kind: "reject", ports: "25" }, flags: [...USUAL, "BadExit"] }),
    relay(4, { flags: [...USUAL, "Stable"], addresses: ["10.1.9.9"] }),
    relay(5, { flags: [] }),
    relay(6, { flags: [...USUAL, "Stable"] }),
  ];
  for (let n = 0; n < 50; n++) {
    const path = choosePath(
      [{ countries: ["de", "fr"] }, { flags: ["Stable"] }, { exitPort: 443 }],
      choice(relays),
    );
    assert.deepEqual(path, [2, 6, 1].map(fingerprintOf));
  }
  assert.equal(
    choosePath([{}, { flags: ["Stable"] }, { exitPort: 80 }], choice(relays, { distinctSubnets: false }))
      .length,
    3,
  );
  refusedWith("tor-no-path", [{ exitPort: 22 }], choice(relays));
  refusedWith("tor-no-path", [{ countries: ["us"] }], choice(relays));
});

test("choosePath: no two of one family, where both say so or share an id", () => {
  const says = (...lines: string[]) => ({ family: parseFamily(lines.join("\n")) });
  const both = [
    relay(1),
    relay(2, says(`family $${fingerprintOf(3)}`)),
    relay(3, says("family other R2")),
    relay(4, says(`family $${fingerprintOf(5)}`)),
    relay(5),
    relay(6, says("family-ids ed25519:AA ed25519:BB")),
    relay(7, says("family-ids ed25519:BB")),
  ];
  const last = (before: number, hop: number) =>
    choosePath(
      [{}],
      choice(
        both.filter((_, index) => index + 1 === hop || index + 1 === before),
        { after: [fingerprintOf(before)] },
      ),
    );
  assert.deepEqual(last(4, 5), [fingerprintOf(5)], "one alone does not make a family");
  for (const [before, hop] of [
    [2, 3],
    [3, 2],
    [6, 7],
  ] as const)
    assert.throws(() => last(before, hop), { code: "tor-no-path" });
});

test("choosePath: at most as many hops as relays take, those that stand counted", () => {
  const many = Array.from({ length: 20 }, (_, number) => relay(number + 1));
  const hops = Array.from({ length: HOPS_MAX }, () => ({}));
  assert.equal(choosePath(hops, choice(many)).length, HOPS_MAX);
  refusedWith("tor-no-path", [...hops, {}], choice(many));
  refusedWith("tor-no-path", hops, choice(many, { after: [fingerprintOf(1)] }));
  refusedWith("tor-no-path", [], choice(many));
});
