// What a Dropbox and its clients say to each other (spec/dropbox 2): arguments of an invocation, and the JSON
// messages that the function sends. Types and limits alone, so that the function bundles nothing.

export const DropboxLimits = {
  /** Content is stored in parts of this many bytes, the last one shorter: what an interruption loses at most. */
  partBytesMin: 1024 * 1024,
  /** Parts of one Dropbox; beyond this many bytes each the parts double. A box keeps at most 10,000 values. */
  partsMax: 4096,
  /** Downloads that a Dropbox may allow, and downloads started or continued that it keeps account of. */
  getsMax: 1000,
  ledgerMax: 4000,
  /** Content bytes in one message to the function: the largest fragment. */
  messageBytes: 64 * 1024,
  /** Content bytes in one message of the function: whoever puts messages together need not hold more. */
  sentBytes: 1024 * 1024,
  /** How long after its start a download may be continued: milliseconds. No instance lives longer (manifest). */
  ticketMs: 6 * 3600_000,
  /** How long the function waits for a client that fetches and is not there: milliseconds. It goes on with its ticket. */
  absentMs: 60_000,
  /** How long for one that puts: it goes on with another invocation. */
  senderAbsentMs: 15_000,
  /** How long the function waits for the client to confirm: milliseconds. */
  confirmMs: 120_000,
} as const;

/** `["put", PutRequest]`. Content follows as messages; an empty message ends and seals it. */
export type PutRequest = {
  /** The owner's secret, base64url of 32 bytes. Whoever puts first becomes the owner. */
  readonly writer: string;
  /** Downloads until the Dropbox removes itself; 0: the owner alone may fetch, and it never does. */
  readonly gets: number;
  /** Content bytes of all downloads until it does. */
  readonly bytes: number;
  /** Bytes of one part. */
  readonly partBytes: number;
};

/** `["get", GetRequest]`. */
export type GetRequest = {
  /** First byte wanted, 0 when absent. */
  readonly from?: number;
  /** Bytes wanted, all when absent. */
  readonly bytes?: number;
  /** Continues this download instead of starting another. */
  readonly ticket?: string;
  /** The owner's downloads are not counted. */
  readonly writer?: string;
};

/** `["status", {writer}]`. */
export type StatusRequest = { readonly writer: string };

/** Why a Dropbox refuses what its token holder asks. */
export type DropboxRefusal =
  | "bad-request"
  /** Nothing was put, or not all of it yet. */
  | "empty"
  /** Content is fixed by its owner, and this is not the owner. */
  | "not-owner"
  /** All downloads are given out. */
  | "used-up"
  /** The content is larger than what the box granted. */
  | "quota";

/** First message of every answer, and each later one to a put: one JSON object. */
export type DropboxAnswer =
  | { readonly refused: DropboxRefusal }
  /** put: so many content bytes are kept; go on from there. Repeated with each part. */
  | { readonly at: number }
  /** put: the content is whole and can no longer change. Last. */
  | { readonly sealed: number }
  /** get: content bytes from `from` follow, `bytes` of them, in messages. */
  | { readonly size: number; readonly from: number; readonly bytes: number; readonly ticket?: string }
  /** status. */
  | {
      readonly stored: number;
      readonly isSealed: boolean;
      readonly getsLeft: number;
      readonly bytesLeft: number;
    };
