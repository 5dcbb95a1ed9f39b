// A function as it crosses the wire: its manifest and one source text (spec/wire 2.2). There are no paths and no
// archive: `bento fn pack` bundles what a function imports, so nothing has to be unpacked on the box.

import { createHash } from "node:crypto";
import { z } from "zod";
import { BoxError } from "./error-code.ts";
import { type Manifest, type ManifestInput, parseManifest } from "./manifest.ts";

export const packageSchema = z.strictObject({
  manifest: z.record(z.string(), z.unknown()),
  source: z.string().min(1),
});

/** As it is sent: the manifest as its author wrote it. */
export interface PackageInput {
  readonly manifest: ManifestInput;
  readonly source: string;
}

/** As it was received and checked. */
export interface FunctionPackage {
  readonly manifest: Manifest;
  /** The manifest as it was sent, for keeping. */
  readonly manifestInput: unknown;
  readonly source: string;
}

/** Parses untrusted JSON. Throws BoxError "bad-request" or "bad-manifest". */
export function parsePackage(input: unknown): FunctionPackage {
  const result = packageSchema.safeParse(input);
  if (!result.success) {
    throw new BoxError(
      "bad-request",
      "Cannot read package: expected {manifest, source} with a non-empty source",
    );
  }
  const { manifest, source } = result.data;
  return { manifest: parseManifest(manifest), manifestInput: manifest, source };
}

/** SHA-256 over image and source, hex: names the code whatever its name and limits. */
export function sourceHash(pack: { manifest: { image: string }; source: string }): string {
  return createHash("sha256").update(`${pack.manifest.image}\n`).update(pack.source).digest("hex");
}
