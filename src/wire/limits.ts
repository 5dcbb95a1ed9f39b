// Every size that a peer can grow and that is part of the protocol, in one table: unit, reason.
// What an operator may choose lies in the policy instead (policy.ts).

export const Limits = {
  /** One JSON request body that is not a package (exec, close). Larger ones have no use. */
  requestBytesMax: 256 * 1024,
  /** A package: manifest and source. Policy may lower it; bundled functions stay far below. */
  packageBytesMax: 4 * 1024 * 1024,
  /** Payload of one session frame, either way. Longer messages are sent as several fragments. */
  fragmentBytesMax: 64 * 1024,
  /** One whole input message put together from fragments, before the guest gets it. */
  inputMessageBytesMax: 1024 * 1024,
  /** Arguments of an invocation, or a call expression, as JSON text. */
  argumentBytesMax: 128 * 1024,
  /** Unconsumed bytes per stream and direction on the guest channel before the sender must wait. */
  streamWindowBytes: 256 * 1024,
  /** Streams and calls that one guest may have open at once. */
  guestStreamsMax: 256,
  /** Text of one line that a function logs, bytes of UTF-8; longer lines are cut. */
  logTextBytesMax: 4 * 1024,
  /** Log lines that a box keeps of one instance, in memory: bytes of text and 64 for each line. */
  logBytesMax: 64 * 1024,
  /** Log lines in one answer, as JSON: bytes. */
  logAnswerBytesMax: 512 * 1024,
  /** How long a request for log lines may wait for one: milliseconds. Well below what clients wait for an answer. */
  logWaitMsMax: 20_000,
  /** Keys in one answer to `storage.list`; a guest asks again from the last one. */
  storageListMax: 256,
  /** Name of a function, of a storage key, of a host: bytes of UTF-8. */
  nameBytesMax: 128,
  storageKeyBytesMax: 512,
  hostNameBytesMax: 255,
  /** Ports of one onion service of a function; each has a listener. */
  onionPortsMax: 16,
  /** Clients that one onion service of a function lets in, where it lets in only some: one control line. */
  onionClientsMax: 64,
  /** Error text and traceback of a function on their way to the caller. */
  errorTextBytesMax: 32 * 1024,
  /** Policy, information and list answers: what a client is ready to read. */
  answerBytesMax: 1024 * 1024,
} as const;
