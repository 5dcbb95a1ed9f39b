import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { concat } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { u16, u32 } from "../fields.ts";
import { VARIABLE_CELL_BYTES_MAX } from "../limits.ts";
import { CELL, CELL_BODY_BYTES, CELL_BYTES, type Cell, CellParser, fixedCell, versionsCell } from "./cell.ts";

function cells(chunks: readonly Uint8Array[], wide: boolean): Cell[] {
  const parser = new CellParser();
  if (wide) parser.widen();
  const found: Cell[] = [];
  for (const chunk of chunks) {
    parser.push(chunk);
    for (let cell = parser.next(); cell; cell = parser.next()) found.push(cell);
  }
  return found;
}

function variableCell(command: number, body: Uint8Array): Uint8Array {
  return concat([u32(0), Uint8Array.of(command), u16(body.length), body]);
}

test("cells come out as they went in, however the bytes are cut", () => {
  const cell = fc.oneof(
    fc.record({
      circuitId: fc.nat(0xffff_ffff),
      command: fc.constantFrom(0, 3, 4, 9, 11, 12),
      body: fc.uint8Array({ minLength: CELL_BODY_BYTES, maxLength: CELL_BODY_BYTES }),
    }),
    fc.record({
      circuitId: fc.constant(0),
      command: fc.constantFrom(128, 129, 130, 255),
      body: fc.uint8Array({ maxLength: 40 }),
    }),
  );
  fc.assert(
    fc.property(fc.array(cell, { maxLength: 6 }), fc.array(fc.nat(4000), { maxLength: 8 }), (sent, cuts) => {
      const bytes = concat(
        sent.map(({ circuitId, command, body }) =>
          command < 128 ? fixedCell(circuitId, command, body) : variableCell(command, body),
        ),
      );
      const places = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
      const chunks = places.slice(1).map((to, index) => bytes.subarray(places[index], to));
      assert.deepEqual(
        cells(chunks, true).map((one) => ({ ...one, body: Uint8Array.from(one.body) })),
        sent.map((one) => ({ ...one })),
      );
    }),
  );
});

test("VERSIONS has a circuit id of two bytes, and the cell after it one of four", () => {
  assert.deepEqual([...versionsCell([4, 5])], [0, 0, 7, 0, 4, 0, 4, 0, 5]);
  const parser = new CellParser();
  parser.push(concat([versionsCell([4, 5]), fixedCell(0x8000_0001, CELL.netinfo, new Uint8Array(0))]));
  assert.equal(parser.next()?.command, CELL.versions);
  parser.widen();
  assert.equal(parser.next()?.circuitId, 0x8000_0001);
});

test("a variable-length cell has at most VARIABLE_CELL_BYTES_MAX bytes", () => {
  const largest = variableCell(128, new Uint8Array(VARIABLE_CELL_BYTES_MAX));
  assert.equal(cells([largest], true)[0]?.body.length, VARIABLE_CELL_BYTES_MAX);
  assert.throws(
    () => cells([variableCell(128, new Uint8Array(VARIABLE_CELL_BYTES_MAX + 1)).subarray(0, 7)], true),
    {
      name: "ProtocolError",
      code: "onion-cell",
    },
  );
});

test("a fixed-length cell is not read before it is whole", () => {
  const cell = fixedCell(1, CELL.relay, new Uint8Array(CELL_BODY_BYTES));
  assert.equal(cell.length, CELL_BYTES);
  assert.deepEqual(cells([cell.subarray(0, CELL_BYTES - 1)], true), []);
});

test("noise is cells or a ProtocolError", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 2000 }), fc.boolean(), (bytes, wide) => {
      try {
        cells([bytes], wide);
      } catch (error) {
        assert.ok(error instanceof ProtocolError);
      }
    }),
  );
});
