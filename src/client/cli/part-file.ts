// What `-o FILE` keeps of a download that is not whole: FILE.part with the bytes that were verified, FILE.part.json
// beside it with what the next attempt needs, both readable by the user alone. The same command goes on from there.

import { open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { z } from "zod";
import { BentoError, systemCode } from "../../base/errors.ts";

const partSchema = z.object({ version: z.literal(1), source: z.string(), ticket: z.string().optional() });

export class PartFile {
  readonly #file: string;
  readonly #source: string;
  /** Bytes that an earlier download left here. */
  bytes: number;
  readonly ticket: string | undefined;
  #handle: Awaited<ReturnType<typeof open>> | undefined;

  private constructor(file: string, source: string, bytes: number, ticket: string | undefined) {
    this.#file = file;
    this.#source = source;
    this.bytes = bytes;
    this.ticket = ticket;
  }

  /** @param source names what is downloaded, without being a secret: parts of something else are not taken up. */
  static async open(file: string, source: string): Promise<PartFile> {
    try {
      const state = partSchema.parse(JSON.parse(await readFile(`${file}.part.json`, "utf8")));
      if (state.source === source) {
        const { size } = await stat(`${file}.part`);
        return new PartFile(file, source, size, state.ticket);
      }
    } catch {
      // None, or of something else: begin anew.
    }
    return new PartFile(file, source, 0, undefined);
  }

  /** Keeps the first `bytes` bytes. */
  async cut(bytes: number): Promise<void> {
    try {
      this.#handle = await open(`${this.#file}.part`, bytes > 0 ? "r+" : "w", 0o600);
      await this.#handle.truncate(bytes);
    } catch (cause) {
      throw this.#cannotWrite(cause);
    }
    this.bytes = bytes;
  }

  async saveTicket(ticket: string | undefined): Promise<void> {
    const state = { version: 1, source: this.#source, ...(ticket === undefined ? {} : { ticket }) };
    await writeFile(`${this.#file}.part.json`, `${JSON.stringify(state)}\n`, { mode: 0o600 });
  }

  async write(piece: Uint8Array): Promise<void> {
    try {
      for (let at = 0; at < piece.length; ) {
        const written = await this.#handle?.write(piece, at, piece.length - at, this.bytes);
        at += written?.bytesWritten ?? 0;
        this.bytes += written?.bytesWritten ?? 0;
      }
    } catch (cause) {
      throw this.#cannotWrite(cause);
    }
  }

  async close(): Promise<void> {
    await this.#handle?.close();
    this.#handle = undefined;
  }

  /** The download is whole: it takes its name. */
  async finish(): Promise<void> {
    await this.#handle?.sync();
    await this.close();
    await rename(`${this.#file}.part`, this.#file);
    await rm(`${this.#file}.part.json`, { force: true });
  }

  #cannotWrite(cause: unknown): BentoError {
    return new BentoError("bad-config", `Cannot write ${this.#file}: ${systemCode(cause) ?? "failed"}`, {
      cause,
    });
  }
}
