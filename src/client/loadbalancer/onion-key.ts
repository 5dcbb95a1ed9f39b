// The key of an onion service, in tor's own file format, so that a service can move between tor and Bento: made here, on
// the owner's machine, or read from a file. Whoever has it has the address: mode 0600, never shown, never logged.

import { mkdir, open, readFile, stat } from "node:fs/promises";
import path from "node:path";
import { BentoError, systemCode } from "../../base/errors.ts";
import { generateExpandedKey, readExpandedKey, writeExpandedKey } from "../../onion/crypto/blinding.ts";
import { onionAddress } from "../../onion/service/onion-address.ts";

/** As tor names it within a HiddenServiceDir. */
export const KEY_FILE = "hs_ed25519_secret_key";
/** Tor's file has 96 bytes; whatever is much longer is something else. */
const FILE_BYTES_MAX = 1024;

export interface OnionKey {
  /** 64 bytes: scalar and prefix. */
  readonly secret: Uint8Array;
  /** 56 characters and ".onion". */
  readonly address: string;
  readonly file: string;
  /** Whether it was made just now. */
  readonly isNew: boolean;
}

/** Reads tor's `hs_ed25519_secret_key`, or the folder that holds it. Throws BentoError "usage" or "bad-config". */
export async function readOnionKey(given: string): Promise<OnionKey> {
  const file = (await isFolder(given)) ? path.join(given, KEY_FILE) : given;
  let bytes: Uint8Array;
  try {
    const { size } = await stat(file);
    if (size > FILE_BYTES_MAX) throw new BentoError("bad-config", `${size} bytes, wanted tor's 96`);
    bytes = await readFile(file);
  } catch (cause) {
    const code = systemCode(cause);
    if (code === "ENOENT" || code === "ENOTDIR")
      throw new BentoError("usage", `Cannot read onion service key: ${file} does not exist`, {
        advice: "Leave out --key to have a new one made.",
      });
    throw unreadable(file, code ?? "it is no key of an onion service", cause);
  }
  try {
    const key = readExpandedKey(bytes);
    return { secret: secretOf(key), address: onionAddress(key.publicKey), file, isNew: false };
  } catch (cause) {
    throw unreadable(file, "it is no key of an onion service", cause);
  }
}

/** Makes a key and keeps it in `folder`/ADDRESS, which tor takes as a HiddenServiceDir. */
export async function makeOnionKey(folder: string): Promise<OnionKey> {
  const key = generateExpandedKey();
  const address = onionAddress(key.publicKey);
  const file = path.join(folder, address, KEY_FILE);
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
  // "wx": a key is never written over.
  const handle = await open(file, "wx", 0o600);
  try {
    await handle.writeFile(writeExpandedKey(key));
    await handle.sync();
  } finally {
    await handle.close();
  }
  return { secret: secretOf(key), address, file, isNew: true };
}

function secretOf({ scalar, prefix }: { scalar: Uint8Array; prefix: Uint8Array }): Uint8Array {
  return Buffer.concat([scalar, prefix]);
}

async function isFolder(file: string): Promise<boolean> {
  return stat(file).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}

function unreadable(file: string, why: string, cause: unknown): BentoError {
  return new BentoError("bad-config", `Cannot read onion service key ${file}: ${why}`, {
    cause,
    advice: `Wanted the file ${KEY_FILE} of tor's HiddenServiceDir.`,
  });
}
