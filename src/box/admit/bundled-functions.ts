// The functions that a box comes with: a client may name their sources by hash, and instances may wait with one of them
// loaded. Public, the same for all boxes of a release, and nothing that anybody installed (docs/spec/wire.md 2.4).

import { BentoError } from "../../base/errors.ts";
import type { Info } from "../../wire/api.ts";
import { type FunctionPackage, type PackageInput, parsePackage, sourceHash } from "../../wire/package.ts";

export interface BundledFunction extends FunctionPackage {
  readonly sourceHash: string;
}

export class BundledFunctions {
  readonly #byHash = new Map<string, BundledFunction>();
  readonly #byName = new Map<string, BundledFunction>();

  constructor(packages: readonly PackageInput[] = []) {
    for (const { manifest, source } of packages) {
      const pack = parsePackage({ manifest, source });
      const bundled = { ...pack, sourceHash: sourceHash(pack) };
      this.#byHash.set(bundled.sourceHash, bundled);
      this.#byName.set(pack.manifest.name, bundled);
    }
  }

  sourceOf(hash: string): string | undefined {
    return this.#byHash.get(hash)?.source;
  }

  get published(): Info["functions"] {
    return Array.from(this.#byName.values(), ({ manifest, sourceHash: hash }) => ({
      name: manifest.name,
      sourceHash: hash,
    }));
  }

  /** Those of `names`, which instances are to wait for. Throws BentoError "bad-config"; without any functions there are none. */
  ready(names: readonly string[]): readonly BundledFunction[] {
    if (this.#byName.size === 0) return [];
    return names.map((name) => {
      const found = this.#byName.get(name);
      if (found?.manifest.image === "deno") return found;
      const known = [...this.#byName.values()].filter(({ manifest }) => manifest.image === "deno");
      throw new BentoError(
        "bad-config",
        `Cannot keep instances of "${name}" ready: expected one of ${known.map(({ manifest }) => manifest.name).join(", ")}`,
        { advice: "Correct warm.ready in box.toml." },
      );
    });
  }
}
