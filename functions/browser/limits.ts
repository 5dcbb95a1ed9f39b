// What a page may cost. Pages are hostile: whatever one can make grow stands here with its reason.

export const BrowserLimits = {
  /** The HTML document. The longest articles have 2 to 3 MiB; what is longer is cut. */
  documentBytesMax: 4 * 1024 * 1024,
  /** One style sheet: its text is walked token by token. */
  styleBytesMax: 2 * 1024 * 1024,
  /** Any other resource: photographs stay below, films do not. */
  resourceBytesMax: 8 * 1024 * 1024,
  /** Resources of one page. The 90th percentile of the web is about 180. */
  resourcesMax: 1000,
  /** Failures listed, beyond which they are only counted by their absence. */
  failuresMax: 2000,
  /** Redirects of one resource, as in browsers. */
  redirectsMax: 20,
  /** Follow-ups of `<meta http-equiv=refresh>` for the page. */
  refreshesMax: 3,
  /** A refresh later than this is not part of loading the page. */
  refreshDelaySecondsMax: 5,
  /** `@import` within `@import`. */
  importDepthMax: 8,
  /** Faces of fonts and ranges of characters that are looked at. */
  fontFacesMax: 512,
  unicodeRangesMax: 256,
  /** Fetches at once: to one host as in browsers, and in all, which is what the manifest asks connections for. */
  fetchesPerHostMax: 6,
  fetchesMax: 16,
  /** Bodies in memory, read or being read, that wait for the client: bounds memory when the circuit is slow. */
  heldBytesMax: 8 * 1024 * 1024,
  /** Without a byte for so long, a server counts as dead. */
  idleMs: 10_000,
  /** One sub-resource, redirects included, waiting for memory excluded. */
  resourceMs: 20_000,
  /** Time to walk the document's HTML: linear for honest pages, far below. */
  parseMs: 3_000,
  /** Elements looked at: the document's length bounds honest ones, this those that multiply while they are parsed. */
  elementsMax: 1_000_000,
  /** Cookies kept for a session, of one answer, and each of them: browsers keep 180 for one host. */
  cookiesMax: 600,
  cookiesPerAnswerMax: 180,
  cookieBytesMax: 4096,
  /** How long an engine has to stop after it was told to, before the instance is given up. */
  engineStopMs: 3000,
} as const;
