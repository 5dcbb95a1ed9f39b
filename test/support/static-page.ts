// A page as the static engine of Browser fetches it and a client receives it, both in this process: no box, no sandbox.

import { browse } from "../../functions/browser/browse.ts";
import { parseOptions } from "../../functions/browser/options.ts";
import { type Page, receivePage } from "../../src/client/digest/receive-page.ts";

export async function staticPage(url: string): Promise<Page> {
  const output: Uint8Array[] = [];
  await browse(parseOptions(url), {
    fetch,
    send: async (bytes) => {
      output.push(Uint8Array.from(bytes));
    },
    signal: new AbortController().signal,
  });
  return receivePage(
    (async function* () {
      yield* output;
    })(),
  );
}
