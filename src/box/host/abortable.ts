// Ends the wait for the next value of a source that may never bring one, when a signal says so.

/** The values of `source` until it ends; throws the signal's reason as soon as it is aborted, waiting or not. */
export async function* abortable<T>(
  source: AsyncIterable<T>,
  signal: AbortSignal,
): AsyncGenerator<T, void, undefined> {
  const aborted = Promise.withResolvers<never>();
  const onAbort = () => {
    aborted.reject(signal.reason as Error);
  };
  // Raced below; when nobody waits at that moment, the rejection is not a lost error.
  aborted.promise.catch(() => undefined);
  signal.addEventListener("abort", onAbort, { once: true });
  const iterator = source[Symbol.asyncIterator]();
  let isDone = false;
  try {
    signal.throwIfAborted();
    for (;;) {
      const next = await Promise.race([iterator.next(), aborted.promise]);
      if (next.done) {
        isDone = true;
        return;
      }
      yield next.value;
    }
  } finally {
    signal.removeEventListener("abort", onAbort);
    // Not awaited: a source that hangs in `next` would hang in `return` as well.
    if (!isDone) iterator.return?.().catch(() => undefined);
  }
}
