// Browser from checked options to the last byte of padding, apart from where it runs: the sandbox gives it the
// box's `fetch` and the session's `send`, tests give it their own.

import { CookieJar } from "./cookies.ts";
import { DigestWriter } from "./digest-writer.ts";
import { type FetchContext, FetchFailure } from "./fetch-resource.ts";
import { HeldBytes } from "./held-bytes.ts";
import { BrowserLimits as Limits } from "./limits.ts";
import type { BrowseOptions } from "./options.ts";
import { Visit } from "./visit.ts";

/** Fetches and sends. A page that cannot be had is a digest, too: padded like any other. */
export async function browse(
  options: BrowseOptions,
  fetch: typeof globalThis.fetch,
  send: (bytes: Uint8Array) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const held = new HeldBytes(Limits.heldBytesMax);
  const ending = new AbortController();
  const stop = startDeadline(options.deadlineMs, held, ending);
  const writer = new DigestWriter(send);
  let bytesLeft = options.bytesMax;
  const context: FetchContext = {
    fetch,
    cookies: new CookieJar(),
    held,
    userAgent: options.userAgent,
    signal: AbortSignal.any([signal, ending.signal]),
    takeTotal: (bytes) => {
      bytesLeft -= bytes;
      return bytesLeft >= 0;
    },
  };
  try {
    await new Visit(context, options, writer).run();
    await writer.end(options.pad);
  } finally {
    stop();
    ending.abort();
  }
}

/** Ends fetching after `deadlineMs` of its own time: what it waited for the client does not count. */
function startDeadline(deadlineMs: number, held: HeldBytes, ending: AbortController): () => void {
  const startMs = performance.now();
  let timer: ReturnType<typeof setTimeout>;
  const check = () => {
    const leftMs = deadlineMs - (performance.now() - startMs - held.blockedMs);
    if (leftMs > 0) timer = setTimeout(check, Math.max(leftMs, 10));
    else ending.abort(new FetchFailure("deadline", `not there after ${deadlineMs} ms`));
  };
  check();
  return () => {
    clearTimeout(timer);
  };
}
