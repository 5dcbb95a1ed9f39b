// A wait with an end, inside the sandbox.

/** What `wait` gives; throws when it takes longer than `durationMs`. */
export async function within<T>(durationMs: number, wait: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("the Dropbox does not go on")), durationMs);
  });
  try {
    return await Promise.race([wait, late]);
  } finally {
    clearTimeout(timer);
  }
}
