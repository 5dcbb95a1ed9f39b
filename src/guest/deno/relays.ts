// `env.relays` (function.ts): links to relays as byte streams of cells. Not a boundary: the box decides which relays there
// are, proves who they are, and lets only a client's cells through (spec/guest 5.3).

import type { RelayLink, RelayNetwork, Relays } from "../function.ts";
import type { HostChannel } from "./channel.ts";

export function relaysOf(channel: HostChannel): Relays {
  return Object.freeze({
    async network() {
      return (await channel.call("relays.network", {})) as RelayNetwork;
    },
    async link(fingerprint: string): Promise<RelayLink> {
      const { answer, stream } = channel.open("relays.link", { fingerprint }, "both");
      const opened = (await answer) as Pick<RelayLink, "fingerprint" | "ed25519" | "version">;
      return Object.freeze({
        ...opened,
        readable: stream.readable,
        writable: stream.writable,
        closed: stream.closed,
        async close() {
          stream.close();
        },
      });
    },
  });
}
