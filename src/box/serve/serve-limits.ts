// What one client, and all of them together, may make the server hold: unit, reason.

export const SERVE_LIMITS = {
  /** Connections at once; all come from the local tor, so there is no limit for each address. */
  connections: 1024,
  /** Sessions at once. Each holds two socket buffers and at most one unfinished message. */
  sessions: 512,
  /** Bytes of unfinished input messages of all sessions together. */
  inputBytes: 64 * 2 ** 20,
  /** Bytes of request bodies that are being received, all together. */
  bodyBytes: 64 * 2 ** 20,
  /** Bytes of a request's line and headers. Ours need less than 1 KiB. */
  headerBytes: 8 * 1024,
  /** Header fields of a request. */
  headers: 32,
  /** From the first byte to the end of the headers: milliseconds. A circuit may stall for some seconds. */
  headerMs: 30_000,
  /** Until a body must have begun, and the least rate from then on: milliseconds, bytes a second. */
  bodyGraceMs: 30_000,
  bodyBytesPerSecond: 1024,
  /** Idle connection between two requests: milliseconds. */
  keepAliveMs: 60_000,
  /** Between two pings to a WebSocket client: milliseconds. */
  pingMs: 60_000,
  /** A client that sent nothing for so long is gone: milliseconds. Pings wait behind output on slow circuits. */
  silenceMs: 300_000,
  /** Output under way to one client before the guest must wait: bytes. */
  sendBufferBytes: 256 * 1024,
} as const;
