// Packages that functions deploy, on their way through the box: whole in memory for as long as they are sent, so
// counted over all functions. The function is hostile: it sends slowly, too much, or something else.

import { concat, formatBytes, fromUtf8 } from "../../base/bytes.ts";
import { Limits } from "../../wire/limits.ts";
import type { ManifestInput } from "../../wire/manifest.ts";
import { type FunctionPackage, type PackageInput, parsePackage } from "../../wire/package.ts";
import { RemoteRefusal, remoteRefusal } from "./bento-error.ts";

/** All packages on their way through a box: bytes. Sixteen of the largest, many hundreds of usual ones. */
export const PACKAGES_BYTES_MAX = 64 * 2 ** 20;
/** Packages of one function on their way: bytes. */
export const FUNCTION_PACKAGES_BYTES_MAX = 8 * 2 ** 20;

/** What is left of a bound. */
export class PackageRoom {
  left: number;

  constructor(bytes: number) {
    this.left = bytes;
  }
}

export interface PassingPackage extends Disposable {
  readonly input: PackageInput;
  readonly parsed: FunctionPackage;
  readonly bytes: number;
}

/**
 * Collects and parses one package; its room is taken until it is disposed. Throws RemoteRefusal "too-large",
 * "bento-limit", "bad-request" or "bad-manifest".
 */
export async function collectPackage(
  pieces: AsyncIterable<Uint8Array>,
  rooms: readonly PackageRoom[],
): Promise<PassingPackage> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  const giveBack = () => {
    for (const room of rooms) room.left += bytes;
    bytes = 0;
  };
  try {
    for await (const piece of pieces) {
      if (bytes + piece.length > Limits.packageBytesMax) {
        throw new RemoteRefusal(
          "too-large",
          `Cannot deploy: package exceeds ${formatBytes(Limits.packageBytesMax)}`,
        );
      }
      if (rooms.some((room) => room.left < piece.length)) {
        throw new RemoteRefusal("bento-limit", "Cannot deploy: too many packages are on their way already");
      }
      for (const room of rooms) room.left -= piece.length;
      bytes += piece.length;
      parts.push(piece);
    }
    const value = jsonOf(parts);
    const parsed = parsePackage(value);
    const input = { manifest: parsed.manifestInput as ManifestInput, source: parsed.source };
    return { input, parsed, bytes, [Symbol.dispose]: giveBack };
  } catch (error) {
    giveBack();
    throw remoteRefusal(error);
  }
}

function jsonOf(parts: readonly Uint8Array[]): unknown {
  try {
    return JSON.parse(fromUtf8(concat(parts)));
  } catch (cause) {
    throw new RemoteRefusal("bad-request", "Cannot read package: not JSON", { cause });
  }
}
