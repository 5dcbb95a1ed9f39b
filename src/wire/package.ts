// A function as it crosses the wire: its manifest and one source text (spec/wire 2.2). There are no paths and no
// archive: `bento fn pack` bundles what a function imports, so nothing has to be unpacked on the box.

import { createHash } from "node:crypto";
import { z } from "zod";
import { BoxError } from "./error-code.ts";
import { type Manifest, type ManifestInput, parseManifest } from "./manifest.ts";

const manifestInput = z.record(z.string(), z.unknown());

export const packageSchema = z.strictObject({ manifest: manifestInput, source: z.string().min(1) });

/** With the hash of a source that the box comes with, in place of the source. */
export const namedPackageSchema = z.strictObject({
  manifest: manifestInput,
  sourceHash: z.string().regex(/^[0-9a-f]{64}$/),
});
export type NamedPackage = z.infer<typeof namedPackageSchema>;

/** A package on its way to a box. */
export const sentPackageSchema = z.union([packageSchema, namedPackageSchema]);
export type SentPackage = z.infer<typeof sentPackageSchema>;

/** As it is sent: the manifest as its author wrote it. */
export interface PackageInput {
  readonly manifest: ManifestInput;
  readonly source: string;
  /** The source comes with Bento: boxes of this release have it. Never sent. */
  readonly isBundled?: boolean | undefined;
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

/**
 * `parsePackage` of a box, which may be given the hash of a source for which `sourceOf` has the text. Throws BoxError
 * "unknown-source" for every other hash, whoever may have installed such a source there.
 */
export function parseSentPackage(
  input: unknown,
  sourceOf: (sourceHash: string) => string | undefined,
): FunctionPackage {
  const named = namedPackageSchema.safeParse(input);
  if (!named.success) return parsePackage(input);
  const { manifest, sourceHash: hash } = named.data;
  const pack = parsePackage({ manifest, source: sourceOf(hash) ?? refuseSource() });
  // The hash names the image, too.
  return sourceHash(pack) === hash ? pack : refuseSource();
}

function refuseSource(): never {
  throw new BoxError("unknown-source", "Cannot take package: this box comes with no source of this hash");
}

/** SHA-256 over image and source, hex: names the code whatever its name and limits. */
export function sourceHash(pack: { manifest: { image: string }; source: string }): string {
  return createHash("sha256").update(`${pack.manifest.image}\n`).update(pack.source).digest("hex");
}
