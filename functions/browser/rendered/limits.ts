// What a page may cost in a browser, beyond what ../limits.ts says of any page.

export const RenderedLimits = {
  /** Bodies that the browser keeps until they are asked for: all of a page, and one. */
  bufferBytesMax: 48 * 1024 * 1024,
  bufferedBodyBytesMax: 8 * 1024 * 1024,
  /** Bodies that are between the browser and their reader: each is in memory up to four times over. */
  roomBytesMax: 12 * 1024 * 1024,
  /** Requests of one page that are remembered. What comes later is fetched again when it is needed. */
  requestsMax: 3000,
  /** For the load event once the document has begun to come. A part that hangs must not take the whole deadline. */
  loadMs: 15_000,
  /** Nothing is under way for so long: the page counts as complete. */
  quietMs: 500,
  /** For the network to become quiet after the load event, and again after scrolling: pages that poll never do. */
  settleMs: 5_000,
  settleAfterScrollMs: 2_500,
  /** Windows that a long page is scrolled through, so that it loads what it shows late; time for each, and for all. */
  scrollsMax: 20,
  scrollMs: 60,
  scrollsMs: 3_000,
  /** To read the page out once it is complete. After the deadline the answer waits no longer than this. */
  captureMs: 3_000,
  /** UTF-16 units of the document as it is read out, pictures that scripts drew included. */
  documentLengthMax: 4 * 1024 * 1024,
  drawingsLengthMax: 2 * 1024 * 1024,
  /** For the browser to answer after it was started: a loaded machine gets time. */
  launchMs: 20_000,
  /** For the browser to close a page. */
  closeMs: 2_000,
  /** For the browser to begin to answer what it is asked to fetch once more, and for each piece. */
  anewMs: 10_000,
  /** One piece of a body that is fetched anew. */
  pieceBytes: 256 * 1024,
} as const;
