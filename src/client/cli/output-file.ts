// The file that `-o` names. It is opened before a function is started, so that one that cannot be written costs nothing, and
// emptied when output begins: a box that refuses leaves what was in it, and no new empty file.

import { type FileHandle, open, rm, stat } from "node:fs/promises";
import { BentoError, messageOf, systemCode } from "../../base/errors.ts";

export class OutputFile implements AsyncDisposable {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #isNew: boolean;
  #begun = false;

  private constructor(path: string, file: FileHandle, isNew: boolean) {
    this.#path = path;
    this.#file = file;
    this.#isNew = isNew;
  }

  /** Throws BentoError "bad-config" when the file cannot be written. */
  static async open(path: string): Promise<OutputFile> {
    try {
      const isNew = await stat(path).then(
        () => false,
        () => true,
      );
      return new OutputFile(path, await open(path, "a"), isNew);
    } catch (cause) {
      throw cannotWrite(path, cause);
    }
  }

  /** Empties the file, if it is one that can be: devices and pipes are not. */
  async begin(): Promise<void> {
    if (this.#begun) return;
    this.#begun = true;
    await this.#writing(async () => {
      if ((await this.#file.stat()).isFile()) await this.#file.truncate(0);
    });
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.begin();
    await this.#writing(() => this.#file.appendFile(bytes));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    if (this.#isNew && !this.#begun) await rm(this.#path, { force: true });
  }

  async #writing(write: () => Promise<void>): Promise<void> {
    try {
      await write();
    } catch (cause) {
      throw cannotWrite(this.#path, cause);
    }
  }
}

function cannotWrite(path: string, cause: unknown): BentoError {
  return new BentoError("bad-config", `Cannot write ${path}: ${systemCode(cause) ?? messageOf(cause)}`, {
    cause,
  });
}
