import assert from "node:assert/strict";
import test from "node:test";
import * as fc from "fast-check";
import { concat } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import { CELL, CELL_BYTES, fixedCell, versionsCell } from "../../onion/link/cell.ts";
import { CellGate } from "./cell-gate.ts";

function gate({ circuits = Number.POSITIVE_INFINITY, early = Number.POSITIVE_INFINITY } = {}) {
  const counted = { circuits: 0, early: 0 };
  const take = (kind: "circuits" | "early", max: number) => {
    if (counted[kind] >= max) throw new BentoError("relays-limit", "enough");
    counted[kind]++;
  };
  const made = new CellGate({
    takeCircuit: () => {
      take("circuits", circuits);
    },
    takeEarly: () => {
      take("early", early);
    },
  });
  return { counted, check: (bytes: Uint8Array) => made.check(bytes) };
}

/** A body full of what would be forbidden commands, were it read as a header. */
const cell = (command: number, id = 0x8000_0001) => fixedCell(id, command, new Uint8Array(509).fill(7));
const FROM_CLIENTS = [
  CELL.padding,
  CELL.relay,
  CELL.destroy,
  CELL.createFast,
  CELL.relayEarly,
  CELL.create2,
  CELL.paddingNegotiate,
];
const refused = (code: string) => (error: unknown) => error instanceof BentoError && error.code === code;

test("CellGate: of the 256 commands, those of clients pass and no others", () => {
  for (let command = 0; command < 256; command++) {
    const check = () => gate().check(cell(command));
    if (FROM_CLIENTS.some((one) => one === command)) check();
    else assert.throws(check, refused("relays-refused"), String(command));
  }
});

test("CellGate: a handshake of the function's own does not pass", () => {
  const authenticate = concat([Uint8Array.of(0, 0, 0, 0, 131, 0, 4), new Uint8Array(4)]);
  // With the wide circuit id of links that are open, as the relay would read it.
  const versions = concat([new Uint8Array(2), versionsCell([4, 5])]);
  for (const bytes of [versions, authenticate, cell(CELL.netinfo)])
    assert.throws(() => gate().check(bytes), refused("relays-refused"));
});

test("CellGate: however cells are cut, a forbidden one is seen at its command and not after", () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom(...FROM_CLIENTS), { maxLength: 6 }),
      fc.array(fc.integer({ min: 0, max: 1200 }), { maxLength: 20 }),
      fc.boolean(),
      (commands, cuts, isBad) => {
        const bytes = concat(
          [...commands, ...(isBad ? [CELL.versions] : [])].map((command) => cell(command)),
        );
        const { check, counted } = gate();
        const forbiddenAt = isBad ? commands.length * CELL_BYTES + 4 : Number.POSITIVE_INFINITY;
        let at = 0;
        for (const cut of [...cuts, bytes.length]) {
          const part = bytes.subarray(at, at + cut);
          const isSeen = forbiddenAt >= at && forbiddenAt < at + part.length;
          if (isSeen) {
            assert.throws(() => check(part), refused("relays-refused"));
            return;
          }
          check(part);
          at += part.length;
        }
        const begun = commands.filter((command) => command === CELL.create2 || command === CELL.createFast);
        assert.equal(counted.circuits, begun.length);
        assert.equal(counted.early, commands.filter((command) => command === CELL.relayEarly).length);
      },
    ),
  );
});

test("CellGate: circuits and RELAY_EARLY cells up to their number, within one chunk too", () => {
  const two = concat([cell(CELL.create2), cell(CELL.createFast)]);
  gate({ circuits: 2 }).check(two);
  assert.throws(() => gate({ circuits: 1 }).check(two), refused("relays-limit"));
  const early = concat([cell(CELL.relayEarly), cell(CELL.relay), cell(CELL.relayEarly)]);
  gate({ early: 2, circuits: 0 }).check(early);
  assert.throws(() => gate({ early: 1 }).check(early), refused("relays-limit"));
});
