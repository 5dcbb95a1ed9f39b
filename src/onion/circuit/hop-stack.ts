// The hops of one circuit: their keys and windows, sealing a message for one of them, and finding out which of them
// sealed a cell that arrived. Bytes to bytes; the circuit moves them.
// Boundary: whoever sends cells; what no hop sealed is refused.
// Spec: tor-spec 5.5 (routing relay cells), 6.1 (digests), rend-spec-v3 4.2.1 (the other end of a rendezvous).

import { assert, ProtocolError } from "../../base/errors.ts";
import { CELL_BODY_BYTES } from "../link/cell.ts";
import type { CircuitKeys, HopKeys } from "./hop-keys.ts";
import { type RelayLayer, relayLayers } from "./relay-layer.ts";
import { decodeRelay, type RelayMessage, writeRelay } from "./relay-message.ts";
import type { VegasParameters } from "./vegas.ts";
import { type MicrosecondClock, ReceiveWindow, SendWindow } from "./windows.ts";

export interface Hop {
  readonly sendWindow: SendWindow;
  readonly receiveWindow: ReceiveWindow;
  /** Congestion control was agreed with this hop. */
  readonly usesXon: boolean;
  /** KH; undefined for onion-service hops. */
  readonly nonce: Uint8Array | undefined;
}

export interface OpenedCell {
  /** From 0, the first relay. */
  readonly index: number;
  readonly hop: Hop;
  readonly message: RelayMessage;
  /** For the SENDME that this cell may make due. */
  readonly digest: Uint8Array;
}

interface Layers extends Hop {
  readonly out: RelayLayer;
  readonly in: RelayLayer;
}

export class HopStack {
  readonly #hops: Layers[] = [];
  readonly #nowUs: MicrosecondClock;

  constructor(nowUs: MicrosecondClock) {
    this.#nowUs = nowUs;
  }

  get length(): number {
    return this.#hops.length;
  }

  at(index: number): Hop | undefined {
    return this.#hops[index];
  }

  /** @param role `service`: the keys are used the other way round, as the client at the other end made the hop. */
  add(
    keys: HopKeys | CircuitKeys,
    role: "builder" | "service",
    congestion: VegasParameters | undefined,
  ): void {
    const { forward, backward } = relayLayers(keys);
    this.#hops.push({
      out: role === "builder" ? forward : backward,
      in: role === "builder" ? backward : forward,
      sendWindow: new SendWindow(congestion && { parameters: congestion, nowUs: this.#nowUs }),
      receiveWindow: new ReceiveWindow(congestion?.sendmeIncrement),
      usesXon: congestion !== undefined,
      nonce: "nonce" in keys ? keys.nonce : undefined,
    });
  }

  /** A cell's payload: sealed for hop `index`, then encrypted layer by layer from there to the first. */
  seal(index: number, message: RelayMessage): { readonly body: Uint8Array; readonly digest: Uint8Array } {
    const { bodies, digests } = this.sealAll(index, [message]);
    const [digest] = digests;
    assert(digest, "one digest for one message");
    return { body: bodies, digest };
  }

  /**
   * The payloads of messages to one hop, one after the other in one array. Ciphers then go over all of them in one
   * step: each step costs as much as encrypting several cells.
   */
  sealAll(
    index: number,
    messages: readonly RelayMessage[],
  ): { readonly bodies: Uint8Array; readonly digests: readonly Uint8Array[] } {
    const target = this.#hops[index];
    assert(target, "the circuit has this hop");
    let bodies: Uint8Array = new Uint8Array(messages.length * CELL_BODY_BYTES);
    const digests = messages.map((message, at) => {
      const body = bodies.subarray(at * CELL_BODY_BYTES, (at + 1) * CELL_BODY_BYTES);
      writeRelay(body, message);
      return target.out.seal(body);
    });
    for (let at = index; at >= 0; at--) bodies = this.#hops[at]?.out.crypt(bodies) ?? bodies;
    return { bodies, digests };
  }

  /** Decrypts layer by layer until a hop knows its seal. Throws ProtocolError `onion-circuit` when none does. */
  open(encrypted: Uint8Array): OpenedCell {
    let body = encrypted;
    for (const [index, hop] of this.#hops.entries()) {
      body = hop.in.crypt(body);
      const digest = hop.in.recognize(body);
      if (digest) return { index, hop, message: decodeRelay(body), digest };
    }
    throw new ProtocolError(
      "onion-circuit",
      "Cannot go on with circuit: a relay cell that no hop has sealed",
    );
  }
}
