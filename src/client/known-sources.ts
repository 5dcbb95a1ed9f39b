// Which sources a box comes with, as far as one client of it knows (docs/spec/wire.md 2.4). A source that comes with Bento
// is named by its hash at first: a box of the same release has it. What is learnt ends with the client: kept for longer,
// a box could tell by it who has been there before.

import { BoxError } from "../wire/error-code.ts";
import { type FunctionPackage, type PackageInput, type SentPackage, sourceHash } from "../wire/package.ts";

/** Characters of source. A shorter one costs a circuit no more than a wrong guess is worth. */
const NAMED_CHARS_MIN = 16 * 1024;

export class KnownSources {
  /** What the box said that it has; undefined before it said anything. */
  #has: ReadonlySet<string> | undefined;
  readonly #lacks = new Set<string>();

  /** From the box's info. What it then turns out not to have, it has not. */
  learn(functions: readonly { readonly sourceHash: string }[]): void {
    this.#has = new Set(functions.map((each) => each.sourceHash));
  }

  /** Calls `send` with the package, named where the box may have its source, and once more whole where it has not. */
  async send<T>(
    input: PackageInput,
    pack: FunctionPackage,
    send: (sent: SentPackage) => Promise<T>,
  ): Promise<T> {
    const manifest = { ...input.manifest };
    const hash = input.isBundled && input.source.length >= NAMED_CHARS_MIN ? sourceHash(pack) : undefined;
    if (hash !== undefined && !this.#lacks.has(hash) && (this.#has?.has(hash) ?? true)) {
      try {
        return await send({ manifest, sourceHash: hash });
      } catch (error) {
        if (!(error instanceof BoxError) || error.code !== "unknown-source") throw error;
        this.#lacks.add(hash);
      }
    }
    return await send({ manifest, source: input.source });
  }
}
