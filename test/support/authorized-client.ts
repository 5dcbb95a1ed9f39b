// A client of a private network, an unmodified tor, that holds a key for onion services with client authorization, as its
// user keeps one: a file in ClientOnionAuthDir (tor(1), "CLIENT AUTHORIZATION").

import { mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { exportX25519, type X25519Key } from "../../src/onion/crypto/primitives.ts";
import type { Testnet } from "../../src/testnet/testnet.ts";
import { torrcOf } from "../../src/testnet/torrc.ts";
import { TorProcess } from "../../src/tor/process.ts";

export interface AuthorizedClient extends AsyncDisposable {
  /** host:port of its SOCKS port. */
  readonly socks: string;
}

/** @param dir for its files; made when absent. */
export async function startAuthorizedClient(
  net: Testnet,
  dir: string,
  { address, key }: { readonly address: string; readonly key: X25519Key },
): Promise<AuthorizedClient> {
  const keys = join(dir, "keys");
  await mkdir(keys, { recursive: true, mode: 0o700 });
  const host = address.replace(/\.onion$/u, "");
  const line = `${host}:descriptor:x25519:${base32(exportX25519(key))}\n`;
  await writeFile(join(keys, "service.auth_private"), line, { mode: 0o600 });
  const node = { ...net.node("c0"), name: "authorized", socksPort: await freePort(net.node("c0").address) };
  const torrc = torrcOf(node, {
    plan: net.plan,
    authorityLines: net.authorityLines,
    dataDir: join(dir, "data"),
    bandwidthPath: "",
    resolverPath: "",
  });
  const daemon = await TorProcess.start({ dir, torrc: `${torrc}ClientOnionAuthDir ${keys}\n` });
  return {
    socks: `${node.address}:${node.socksPort}`,
    [Symbol.asyncDispose]: async () => daemon[Symbol.asyncDispose](),
  };
}

async function freePort(host: string): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/** As tor writes keys: without padding. */
export function base32(bytes: Uint8Array): string {
  let text = "";
  let [bits, held] = [0, 0];
  for (const byte of bytes) {
    held = (held << 8) | byte;
    for (bits += 8; bits >= 5; bits -= 5) text += ALPHABET[(held >> (bits - 5)) & 31];
    held &= 0xff;
  }
  return bits > 0 ? text + ALPHABET[(held << (5 - bits)) & 31] : text;
}

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
