// The Dial of the default way: through Tor's SOCKS port, one circuit per isolation, first bytes as optimistic data.

import { socksConnect } from "../tor/socks.ts";
import type { BoxAddress } from "./address.ts";
import type { Dial } from "./dial.ts";

/** Dials through the SOCKS port at `proxy`. Names are resolved by Tor, never here. */
export function torDial(proxy: BoxAddress): Dial {
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
