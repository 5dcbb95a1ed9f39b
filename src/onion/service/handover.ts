// One introduction's material: all that a replica needs to meet one client at its rendezvous point. It holds no key of
// the service; whoever learns it can answer this client, and no other.
// Travels between machines of one operator over a connection that hides and authenticates it; parsed strictly all the same.
// Layout: version 1, flags (bit 0: congestion control), link specifiers, onion key (32), cookie (20), handshake (64), key seed (32).

import { concat } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import type { CircuitRelay } from "../circuit/circuit.ts";
import { decodeLinkSpecifiers, encodeLinkSpecifiers } from "../circuit/link-specifier.ts";
import { FieldReader, plain, u8 } from "../fields.ts";

export interface RendezvousMaterial {
  readonly rendezvousPoint: CircuitRelay;
  /** 20 bytes: which of the circuits that wait there is this client's. */
  readonly cookie: Uint8Array;
  /** HANDSHAKE_INFO of RENDEZVOUS1, finished. 64 bytes. */
  readonly handshake: Uint8Array;
  /** NTOR_KEY_SEED: the keys between this client and us. 32 bytes. */
  readonly keySeed: Uint8Array;
  readonly usesCongestionControl: boolean;
}

const VERSION = 1;
const FLAG_CONGESTION = 1;

/** Some 230 bytes. */
export function encodeMaterial(material: RendezvousMaterial): Uint8Array {
  return concat([
    u8(VERSION),
    u8(material.usesCongestionControl ? FLAG_CONGESTION : 0),
    encodeLinkSpecifiers(material.rendezvousPoint),
    material.rendezvousPoint.ntorKey,
    material.cookie,
    material.handshake,
    material.keySeed,
  ]);
}

/** Throws ProtocolError `onion-handover` or `onion-format`. */
export function decodeMaterial(bytes: Uint8Array): RendezvousMaterial {
  const reader = new FieldReader(bytes, "rendezvous material");
  const version = reader.u8();
  const flags = reader.u8();
  if (version !== VERSION || flags > FLAG_CONGESTION)
    throw new ProtocolError("onion-handover", `Cannot read material: version ${String(version)}`);
  const address = decodeLinkSpecifiers(reader);
  const material = {
    rendezvousPoint: { ...address, ntorKey: plain(reader.bytes(32)) },
    cookie: plain(reader.bytes(20)),
    handshake: plain(reader.bytes(64)),
    keySeed: plain(reader.bytes(32)),
    usesCongestionControl: flags === FLAG_CONGESTION,
  };
  reader.end();
  return material;
}
