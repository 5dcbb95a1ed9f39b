// A shaped answer as a browser function sends it, for tests of clients: a page that says what was asked for, in cells.

import { brotliCompressSync } from "node:zlib";
import { concat, utf8 } from "../../src/base/bytes.ts";
import type { BrowseRequest } from "../../src/wire/browse.ts";
import { CellFiller } from "../../src/wire/cells.ts";
import { RecordEncoder } from "../../src/wire/digest.ts";

export function shapedAnswer(request: BrowseRequest, sizes: readonly number[]): Uint8Array[] {
  const encoder = new RecordEncoder();
  const { url, method } = request;
  const body = utf8(
    `<p>${method} ${url} ${new TextDecoder().decode(request.body?.bytes)}<a href=/next>n</a>`,
  );
  const page = encoder.encode({ kind: "page", url, finalUrl: url, status: 200, type: "text/html", body });
  return cellsOf([...page, ...encoder.encode({ kind: "styled", resources: 0 }), encoder.end()], sizes);
}

/** An answer without a page. */
export function failedAnswer(request: BrowseRequest, sizes: readonly number[]): Uint8Array[] {
  const encoder = new RecordEncoder();
  const failure = encoder.encode({
    kind: "failure",
    url: request.url,
    reason: "network",
    detail: "no such host",
  });
  return cellsOf([...failure, encoder.end()], sizes);
}

function cellsOf(records: readonly Uint8Array[], sizes: readonly number[]): Uint8Array[] {
  const filler = new CellFiller(sizes, (bytes) => bytes.fill(7));
  filler.push(brotliCompressSync(concat(records)));
  filler.finish();
  const cells: Uint8Array[] = [];
  for (let cell = filler.next(); cell; cell = filler.next()) cells.push(cell);
  return cells;
}
