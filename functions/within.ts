// A wait with an end, inside the sandbox: functions have no clock but their runtime's.

/** What `wait` gives; what `late` gives or throws when that takes longer than `durationMs`, which `wait` does not notice. */
export async function within<T, L>(durationMs: number, wait: Promise<T>, late: () => L): Promise<T | L> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const over = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, durationMs);
  });
  try {
    return await Promise.race([wait, over.then(late)]);
  } finally {
    clearTimeout(timer);
  }
}
