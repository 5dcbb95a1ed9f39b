// What turns a request into the records of a digest. Two kinds: `static` reads the page itself, `rendered` has a browser
// at the box do it. An engine lives as long as the session: cookies, and processes if it has any, are its own.
// What it is given comes checked from requests.ts; servers and pages are hostile.

import type { DigestRecord } from "../../src/wire/digest.ts";

export interface PageRequest {
  /** http or https, without credentials and fragment. */
  readonly url: URL;
  readonly method: "GET" | "POST";
  /** Of a POST. */
  readonly body: { readonly type: string; readonly bytes: Uint8Array } | undefined;
  /** The page whose link or form this is. */
  readonly referrer: URL | undefined;
}

/** Everything but the end record, which the writer makes. */
export type PageRecord = Exclude<DigestRecord, { kind: "end" }>;

export interface RecordSink {
  /**
   * Resolves when there is room for the next: not awaiting it grows memory. Bodies are not copied until then. A record
   * that the answer has no room for any more is replaced by a failure; the engine need not care.
   */
  record(record: PageRecord): Promise<void>;
  /** Nothing more comes for a while: what was recorded should reach the client. */
  flush(): Promise<void>;
}

export interface Visit {
  readonly sink: RecordSink;
  /** Aborts with a FetchFailure ("deadline", "stopped"): the engine then records what is missing, and returns. */
  readonly signal: AbortSignal;
}

export interface Engine extends AsyncDisposable {
  /**
   * Loads one page: `page` first, then what it refers to in render order, with `styled` after the last style sheet.
   * A page that cannot be had is a failure record. Returns soon after the signal aborted. Throws only what the sink
   * throws; what else is thrown becomes a failure record. One call at a time.
   */
  load(request: PageRequest, visit: Visit): Promise<void>;
}
