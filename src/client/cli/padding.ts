// `--pad` of commands that put files.

import { parseBytes } from "../../wire/quantity.ts";
import type { Padding } from "../../wire/sealed-file.ts";
import { usage } from "./cli.ts";

/** `none`, `padme`, or a size such as `1MiB` to pad to a multiple of. */
export function parsePadding(text: string): Padding {
  if (text === "none" || text === "padme") return { kind: text };
  const bytes = parseBytes(text);
  if (bytes !== undefined && bytes > 0 && bytes <= 2 ** 40) return { kind: "multiple", bytes };
  throw usage(`Cannot pad to "${text}": wanted padme, none, or a size such as 1MiB`);
}
