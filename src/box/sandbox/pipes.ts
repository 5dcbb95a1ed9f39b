// Real pipes for the guest's stdin, stdout and stderr. Node's own "pipe" is a socket pair, over which a guest could
// pass descriptors (SCM_RIGHTS) and learn the peer's uid (SO_PEERCRED); a pipe carries bytes and nothing else.
// Node cannot call pipe(2), so FIFOs are made in batches, opened at both ends and unlinked at once: from then on
// each is an anonymous pipe. No FIFO is ever used for two instances.

import { execFile } from "node:child_process";
import { closeSync, constants, openSync, rmSync, unlinkSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { Socket } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { assert } from "../../base/errors.ts";

const { O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY } = constants;

/** FIFOs per run of mkfifo: one run costs 2 ms, one name on disk 0.1 KiB. */
const BATCH = 48;

const run = promisify(execFile);

/** The host's end as a stream, the guest's as a descriptor to pass on and then close. */
export interface GuestPipe {
  readonly stream: Socket;
  readonly guestFd: number;
}

/** Makes pipes. Disposing removes names that were not taken. */
export class PipeSource implements AsyncDisposable {
  readonly #directory: string;
  #names: string[] = [];
  #made = 0;
  #filling: Promise<void> | undefined;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** @param dir the box's own; names left there by an earlier life are removed. */
  static async open(dir: string): Promise<PipeSource> {
    const directory = join(dir, "pipes");
    await rm(directory, { recursive: true, force: true });
    await mkdir(directory, { mode: 0o700 });
    const source = new PipeSource(directory);
    await source.#fill();
    return source;
  }

  /** What `count` pipes of one instance are made of, at most BATCH: nobody else gets it. Refills ahead of need. */
  async take(count: number): Promise<Fifos> {
    while (this.#names.length < count) await this.#fill();
    const taken = new Fifos(this.#names.splice(-count));
    if (this.#names.length < BATCH / 2) void this.#fill().catch(() => undefined); // the next one reports it
    return taken;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#filling?.catch(() => undefined); // its directory is removed either way
    this.#names = [];
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #fill(): Promise<void> {
    this.#filling ??= this.#make().finally(() => {
      this.#filling = undefined;
    });
    await this.#filling;
  }

  async #make(): Promise<void> {
    const paths = Array.from({ length: BATCH }, () => join(this.#directory, String(this.#made++)));
    await run("/usr/bin/mkfifo", ["-m", "600", ...paths], { env: {} });
    this.#names.push(...paths);
  }
}

/** Pipes of one instance, made without a wait. Disposing removes the names that were not used. */
export class Fifos implements Disposable {
  readonly #names: string[];

  constructor(names: string[]) {
    this.#names = names;
  }

  /** A pipe that the guest reads and the host writes. */
  toGuest(): GuestPipe {
    // A reader must exist before the host's non-blocking writer can open; O_RDWR stands in for a moment.
    const [both = -1, guestFd = -1, hostFd = -1] = this.#open([O_RDWR, O_RDONLY, O_WRONLY | O_NONBLOCK]);
    closeSync(both);
    return { guestFd, stream: new Socket({ fd: hostFd, readable: false, writable: true }) };
  }

  /** A pipe that the guest writes and the host reads. */
  fromGuest(): GuestPipe {
    const [hostFd = -1, guestFd = -1] = this.#open([O_RDONLY | O_NONBLOCK, O_WRONLY]);
    return { guestFd, stream: new Socket({ fd: hostFd, readable: true, writable: false }) };
  }

  [Symbol.dispose](): void {
    for (const path of this.#names.splice(0)) rmSync(path, { force: true });
  }

  /** Opens one FIFO once per flags, then removes its name; all or none, for descriptors can run out half-way. */
  #open(flags: readonly number[]): number[] {
    const path = this.#names.pop();
    assert(path !== undefined, "more pipes than were taken");
    const opened: number[] = [];
    try {
      for (const each of flags) opened.push(openSync(path, each));
      return opened;
    } catch (error) {
      for (const fd of opened) closeSync(fd);
      throw error;
    } finally {
      unlinkSync(path);
    }
  }
}
