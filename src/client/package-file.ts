// A package file, `NAME.bento.json`: what `bento fn pack` writes and every command takes in place of a folder. It
// holds what is sent to a box, and the licences of what was bundled. It may come from anybody: it is parsed and bounded.
//
//   {"bentoPackage":1,"manifest":{"name":"hello","image":"deno"},"source":"...","notices":[]}

import { z } from "zod";
import { fromUtf8 } from "../base/bytes.ts";
import { BentoError, messageOf } from "../base/errors.ts";
import { Limits } from "../wire/limits.ts";
import { packageSchema } from "../wire/package.ts";
import type { Notice } from "./bundle.ts";
import type { LoadedPackage } from "./package-loader.ts";

/** Bytes of one package file: what a box takes, and as much again for licences. */
export const PACKAGE_FILE_BYTES_MAX = 2 * Limits.packageBytesMax;
const NOTICES_MAX = 1000;

const packageFileSchema = packageSchema.extend({
  bentoPackage: z.literal(1),
  notices: z
    .array(
      z.strictObject({
        name: z.string(),
        version: z.string(),
        licence: z.string(),
        text: z.string().optional(),
      }),
    )
    .max(NOTICES_MAX),
});
export type PackageFile = z.infer<typeof packageFileSchema>;

/** The bytes of a package file: the same for the same function, whoever packs it and where. */
export function packageFileText(loaded: LoadedPackage, notices: readonly Notice[]): string {
  const { manifest, source } = loaded.package;
  const text = `${JSON.stringify({ bentoPackage: 1, manifest, source, notices })}\n`;
  const bytes = Buffer.byteLength(text);
  if (bytes <= PACKAGE_FILE_BYTES_MAX) return text;
  throw new BentoError(
    "bad-package",
    `Cannot pack ${loaded.name}: ${bytes} bytes with licences, at most ${PACKAGE_FILE_BYTES_MAX}`,
  );
}

/** Parses the bytes of `file`. Throws BentoError "bad-package". */
export function parsePackageFile(file: string, bytes: Uint8Array): PackageFile {
  if (bytes.length > PACKAGE_FILE_BYTES_MAX) {
    throw new BentoError(
      "bad-package",
      `Cannot use ${file}: ${bytes.length} bytes, a package file has at most ${PACKAGE_FILE_BYTES_MAX}`,
    );
  }
  let input: unknown;
  try {
    input = JSON.parse(fromUtf8(bytes));
  } catch (cause) {
    throw new BentoError("bad-package", `Cannot read ${file}: ${messageOf(cause)}`, { cause });
  }
  const result = packageFileSchema.safeParse(input);
  if (result.success) return result.data;
  throw new BentoError("bad-package", `Cannot use ${file}: it is no package file of this version`, {
    advice: "`bento fn pack FN` writes one; a manifest alone is no function.",
  });
}
