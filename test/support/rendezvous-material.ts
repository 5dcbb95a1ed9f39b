// What a replica gets of a client, for tests that do not care who the client is: the same bytes each time.

import type { RendezvousMaterial } from "../../src/onion/service/handover.ts";

export const MATERIAL: RendezvousMaterial = {
  rendezvousPoint: {
    host: "10.0.0.1",
    port: 9001,
    identity: { rsa: new Uint8Array(20).fill(1), ed25519: new Uint8Array(32).fill(2) },
    ntorKey: new Uint8Array(32).fill(3),
  },
  cookie: new Uint8Array(20).fill(4),
  handshake: new Uint8Array(64).fill(5),
  keySeed: new Uint8Array(32).fill(6),
  usesCongestionControl: true,
};
