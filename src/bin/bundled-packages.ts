// The functions that a box comes with, as its clients bundle them: the same files give the same bytes everywhere, so that
// both name them by one hash (docs/spec/wire.md 2.4). Trusted: files of this installation.

import { stop } from "esbuild";
import { bundledFunctions, loadPackage } from "../client/package-loader.ts";
import type { PackageInput } from "../wire/package.ts";
import type { ImageName } from "../wire/policy.ts";

/** Those that run in one of `images`. Takes most of a second. */
export async function bundledPackages(images: readonly ImageName[]): Promise<PackageInput[]> {
  const packages: PackageInput[] = [];
  for (const name of await bundledFunctions()) {
    const { manifest, source } = (await loadPackage(name)).package;
    if (images.includes(manifest.image)) packages.push({ manifest, source });
  }
  // The bundler's own process: see guest/build.ts.
  await stop();
  return packages;
}
