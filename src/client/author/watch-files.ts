// Notices that one of a few files has another content: once for each save, however an editor saves. Folders are watched,
// not files, because editors write a new file and rename it over the old one; what counts is the content.

import { createHash } from "node:crypto";
import { type FSWatcher, watch } from "node:fs";
import { readFile, realpath } from "node:fs/promises";
import path from "node:path";
import { type Clock, systemClock } from "../../base/clock.ts";

/** A save is over when nothing has happened for so long; one that never ends is looked at now and then. */
const QUIET_MS = 60;
const BUSY_MS = 1000;
/** How often a folder is looked for that is gone: some tools replace whole folders. */
const GONE_MS = 500;

export class FileWatcher implements Disposable {
  readonly #onChange: () => void;
  readonly #clock: Clock;
  #files: readonly string[] = [];
  #watchers: FSWatcher[] = [];
  #seen = "";
  #cancel: (() => void) | undefined;
  #busySinceMs: number | undefined;
  #isClosed = false;

  constructor(onChange: () => void, clock: Clock = systemClock) {
    this.#onChange = onChange;
    this.#clock = clock;
  }

  /** Watches these files, which need not exist, in place of those before; what they hold now is known. */
  async set(files: readonly string[]): Promise<void> {
    this.#files = [...new Set(files)];
    await this.#arm();
    // After the watchers are there: nothing falls between.
    this.#seen = await fingerprint(this.#files);
  }

  [Symbol.dispose](): void {
    this.#isClosed = true;
    this.#cancel?.();
    this.#disarm();
  }

  async #arm(): Promise<void> {
    const folders = new Set<string>();
    for (const file of this.#files) {
      folders.add(path.dirname(file));
      // A link changes where it points, or what it points at does.
      const real = await realpath(file).catch(() => undefined);
      if (real !== undefined) folders.add(path.dirname(real));
    }
    this.#disarm();
    if (this.#isClosed) return;
    let isGone = false;
    for (const folder of folders) {
      try {
        const watcher = watch(folder, () => this.#stir());
        watcher.on("error", () => this.#stir());
        this.#watchers.push(watcher);
      } catch {
        isGone = true;
      }
    }
    if (isGone && !this.#cancel) this.#cancel = this.#clock.after(GONE_MS, () => void this.#look());
  }

  #disarm(): void {
    for (const watcher of this.#watchers) watcher.close();
    this.#watchers = [];
  }

  #stir(): void {
    this.#busySinceMs ??= this.#clock.now();
    if (this.#clock.now() - this.#busySinceMs > BUSY_MS) return;
    this.#cancel?.();
    this.#cancel = this.#clock.after(QUIET_MS, () => void this.#look());
  }

  async #look(): Promise<void> {
    this.#cancel = undefined;
    this.#busySinceMs = undefined;
    // A folder that was replaced needs a new watcher.
    await this.#arm();
    const now = await fingerprint(this.#files);
    if (this.#isClosed || now === this.#seen) return;
    this.#seen = now;
    this.#onChange();
  }
}

async function fingerprint(files: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const file of files) {
    const bytes = await readFile(file).catch(() => undefined);
    hash.update(`${file}\0${bytes?.length ?? "gone"}\0`).update(bytes ?? "");
  }
  return hash.digest("hex");
}
