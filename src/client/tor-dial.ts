// The Dial of the default way: through Tor's SOCKS port, one circuit per isolation, first bytes as optimistic data.

import { type SocksAddress, socksConnect } from "../tor/socks.ts";
import { formatAddress, tryParseAddress } from "./address.ts";
import type { Dial } from "./dial.ts";

/** `"127.0.0.1:9050"`, `"9050"`, `"unix:/run/tor/socks"`. undefined when the text has none of these forms. */
export function tryParseSocks(text: string): SocksAddress | undefined {
  if (text.startsWith("unix:/")) return { path: text.slice("unix:".length) };
  return tryParseAddress(/^\d+$/.test(text) ? `127.0.0.1:${text}` : text);
}

/** The inverse of `tryParseSocks`. */
export function formatSocks(socks: SocksAddress): string {
  return "path" in socks ? `unix:${socks.path}` : formatAddress(socks);
}

/** Dials through the SOCKS port at `proxy`. Names are resolved by Tor, never here. */
export function torDial(proxy: SocksAddress): Dial {
  return (target, { isolation, firstBytes, signal }) =>
    socksConnect({
      proxy,
      host: target.host,
      port: target.port,
      isolation: { username: isolation, password: "bento" },
      optimisticData: firstBytes,
      signal,
    });
}
