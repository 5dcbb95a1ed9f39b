import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { concat } from "../base/bytes.ts";
import { CELL_BYTES } from "./browse.ts";
import { CellFiller } from "./cells.ts";
import { FrameDecoder } from "./digest.ts";

const noise = (bytes: Uint8Array<ArrayBuffer>) => bytes.fill(7);

/** What of a page is ready before which cell, and before which cell it is known to be all. */
interface Page {
  readonly content: readonly { readonly cell: number; readonly bytes: number }[];
  readonly finishedAt: number;
}

function send(sizes: readonly number[], page: Page): { cells: Uint8Array[]; filler: CellFiller } {
  const filler = new CellFiller(sizes, noise);
  const cells: Uint8Array[] = [];
  for (;;) {
    for (const { cell, bytes } of page.content) {
      if (cell === cells.length) filler.push(new Uint8Array(bytes).fill(1));
    }
    if (page.finishedAt === cells.length) filler.finish();
    const cell = filler.next();
    if (!cell) return { cells, filler };
    cells.push(cell);
  }
}

const SIZES = [2, 5, 11, 20].map((cells) => cells * CELL_BYTES);
const pages = fc
  .record({
    content: fc.array(
      fc.record({ cell: fc.integer({ min: 0, max: 25 }), bytes: fc.integer({ min: 0, max: 30_000 }) }),
      { maxLength: 6 },
    ),
    after: fc.integer({ min: 0, max: 10 }),
  })
  .map(({ content, after }) => ({
    content,
    finishedAt: Math.max(0, ...content.map((one) => one.cell)) + after,
  }));

test("CellFiller: whatever a page has and when, cells are equal and their number is one of K", () => {
  const seen = new Set<number>();
  fc.assert(
    fc.property(pages, (page) => {
      const { cells } = send(SIZES, page);
      for (const cell of cells) assert.equal(cell.length, CELL_BYTES);
      seen.add(cells.length * CELL_BYTES);
    }),
    { numRuns: 1000 },
  );
  // Not only at most: every size comes up among so many pages.
  assert.deepEqual(
    [...seen].sort((a, b) => a - b),
    SIZES,
  );
});

test("CellFiller: content arrives whole and in order when it fits, and the reader knows when it did not", () => {
  fc.assert(
    fc.property(pages, (page) => {
      const { cells, filler } = send(SIZES, page);
      const decoder = new FrameDecoder();
      let content = 0;
      for (const part of decoder.push(concat(cells))) {
        if (part.kind === "content") content += part.bytes.length;
      }
      assert.ok(decoder.isEnded);
      const wanted = page.content.reduce((sum, one) => sum + one.bytes, 0);
      if (filler.isWhole) assert.equal(content, wanted);
      else assert.equal(cells.length * CELL_BYTES, SIZES.at(-1));
    }),
    { numRuns: 500 },
  );
});

test("CellFiller: what it says it has room for always fits, and one byte more does not", () => {
  fc.assert(
    fc.property(fc.nat(19), (cell) => {
      const filler = new CellFiller(SIZES, noise);
      for (let at = 0; at < cell; at++) filler.next();
      const { room } = filler;
      for (const extra of [0, 1]) {
        const { filler: after } = send(SIZES, {
          content: [{ cell, bytes: room + extra }],
          finishedAt: cell,
        });
        assert.equal(after.isWhole, extra === 0);
      }
    }),
  );
});

test("CellFiller: ends at the first size behind the end of the content, not later", () => {
  const whole = CELL_BYTES * 2 - 4 - 3 - 3 - 1;
  assert.equal(send(SIZES, { content: [{ cell: 0, bytes: whole }], finishedAt: 0 }).cells.length, 2);
  assert.equal(send(SIZES, { content: [{ cell: 0, bytes: whole + 1 }], finishedAt: 0 }).cells.length, 5);
  assert.equal(send(SIZES, { content: [], finishedAt: 1 }).cells.length, 2);
  assert.equal(send(SIZES, { content: [], finishedAt: 2 }).cells.length, 5);
});
