// Link specifiers: how a message tells a relay which other relay to connect to.
// Written in EXTEND2 and descriptors, read from descriptors and INTRODUCE2, where a hostile party chose them.
// Spec: tor-spec 5.1.2, rend-spec-v3 2.5.2.2 and 3.3 (lists begin with a count).

import { concat } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { formatIp, type IpAddress, parseIp } from "../../base/ip-address.ts";
import { FieldReader, plain, u8, u16 } from "../fields.ts";
import type { RelayIdentity } from "../link/certs-cell.ts";

const IPV4 = 0;
const IPV6 = 1;
const RSA_IDENTITY = 2;
const ED25519_IDENTITY = 3;
/** Four kinds exist; a relay has at most one address of each version. */
const SPECIFIERS_MAX = 16;

/** Where a relay is and who it must prove to be. */
export interface RelayAddress {
  /** An IP address. */
  readonly host: string;
  readonly port: number;
  readonly identity: RelayIdentity;
}

/** NSPEC, then each specifier: IPv4 or IPv6, RSA identity, Ed25519 identity, in this order as C tor writes them. */
export function encodeLinkSpecifiers({ host, port, identity }: RelayAddress): Uint8Array {
  const ip = parseIp(host);
  if (!ip) throw new ProtocolError("onion-format", `Cannot write link specifier: "${host}" is no address`);
  const bytes = ipBytes(ip);
  const address = concat([u8(ip.version === 4 ? IPV4 : IPV6), u8(bytes.length + 2), bytes, u16(port)]);
  return concat([
    u8(3),
    address,
    u8(RSA_IDENTITY),
    u8(20),
    identity.rsa,
    u8(ED25519_IDENTITY),
    u8(32),
    identity.ed25519,
  ]);
}

/**
 * Reads a counted list; unknown kinds are skipped. IPv4 is preferred.
 * Throws ProtocolError `onion-format` unless it names an address and both identities.
 */
export function decodeLinkSpecifiers(reader: FieldReader): RelayAddress {
  const count = reader.u8();
  if (count > SPECIFIERS_MAX)
    throw new ProtocolError("onion-format", `Cannot read link specifiers: ${String(count)} of them`);
  const found = new Map<number, Uint8Array>();
  for (let left = count; left > 0; left--) {
    const kind = reader.u8();
    const value = reader.bytes(reader.u8());
    if (!found.has(kind)) found.set(kind, value);
  }
  const address = found.get(IPV4) ?? found.get(IPV6);
  const rsa = found.get(RSA_IDENTITY);
  const ed25519 = found.get(ED25519_IDENTITY);
  if (!address || rsa?.length !== 20 || ed25519?.length !== 32)
    throw new ProtocolError(
      "onion-format",
      "Cannot read link specifiers: wanted an address and both identities",
    );
  return { ...readAddress(address), identity: { rsa: plain(rsa), ed25519: plain(ed25519) } };
}

function readAddress(bytes: Uint8Array): { readonly host: string; readonly port: number } {
  const reader = new FieldReader(bytes, "link specifier");
  const version = bytes.length === 6 ? 4 : 6;
  let bits = 0n;
  for (const byte of reader.bytes(version === 4 ? 4 : 16)) bits = (bits << 8n) | BigInt(byte);
  const port = reader.u16();
  reader.end();
  if (port === 0) throw new ProtocolError("onion-format", "Cannot read link specifier: port 0");
  return { host: formatIp({ version, bits }), port };
}

function ipBytes({ version, bits }: IpAddress): Uint8Array {
  const count = version === 4 ? 4 : 16;
  return Uint8Array.from({ length: count }, (_, index) =>
    Number((bits >> BigInt(8 * (count - 1 - index))) & 0xffn),
  );
}
