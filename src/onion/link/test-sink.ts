// What takes the cells of one circuit in tests of links: keeps them, and counts what else it is told.

import type { Cell } from "./cell.ts";
import type { CellSink } from "./link.ts";

export class TestSink implements CellSink {
  readonly cells: Cell[] = [];
  closed = 0;
  writable = 0;
  handleCell(cell: Cell): void {
    this.cells.push(cell);
  }
  handleLinkClosed(): void {
    this.closed++;
  }
  handleWritable(): void {
    this.writable++;
  }
}
