// For tests: the first relay of circuits, played in memory over a Link without a socket. Answers CREATE_FAST, opens
// what is sealed for it, and says whatever a test wants, also what no honest relay says.

import { concat } from "../../base/bytes.ts";
import { assert } from "../../base/errors.ts";
import { random } from "../crypto/primitives.ts";
import { CELL, type Cell, CellParser, fixedCell } from "../link/cell.ts";
import { Link } from "../link/link.ts";
import { kdfTor } from "./create-fast.ts";
import { circuitKeys, type HopKeys } from "./hop-keys.ts";
import { type RelayLayer, relayLayers } from "./relay-layer.ts";
import { decodeRelay, encodeRelay, RELAY, type RelayMessage } from "./relay-message.ts";

export class TestRelay {
  readonly link: Link;
  /** What the client sent, by turn of arrival. Relay messages of the circuit are in `messages`. */
  readonly cells: Cell[] = [];
  readonly messages: RelayMessage[] = [];
  /** Digest of each message in `messages`. */
  readonly digests: Uint8Array[] = [];
  /** How often bytes were written. */
  writes = 0;
  /** What `write` answers: false means that the socket is full. */
  takes = true;
  isClosed = false;
  /** Called with each message after it was noted. */
  onMessage: (message: RelayMessage) => void = () => undefined;
  readonly #parser = new CellParser();
  #layers: { readonly forward: RelayLayer; readonly backward: RelayLayer }[] = [];
  circuitId = 0;

  constructor() {
    this.#parser.widen();
    const parser = new CellParser();
    parser.widen();
    const peer = { ed25519: new Uint8Array(32), rsa: new Uint8Array(20) };
    this.link = new Link(
      { version: 4, peer, clockSkewS: undefined, parser },
      {
        write: (bytes) => {
          this.writes++;
          this.#parser.push(bytes);
          for (let cell = this.#parser.next(); cell; cell = this.#parser.next()) this.#take(cell);
          return this.takes;
        },
        close: () => {
          this.isClosed = true;
        },
      },
    );
  }

  /** The far end of an onion-service hop: what is sealed for it is opened after the relay's own layer. */
  addOnionHop(keys: HopKeys, clientRole: "client" | "service"): void {
    const { forward, backward } = relayLayers(keys);
    this.#layers.push(
      clientRole === "client" ? { forward, backward } : { forward: backward, backward: forward },
    );
  }

  /** A message sealed by hop `hop`, as a cell would arrive. Returns its digest. */
  send(message: RelayMessage, hop = this.#layers.length - 1): Uint8Array {
    const { cell, digest } = this.seal(message, hop);
    this.sendCell(CELL.relay, cell);
    return digest;
  }

  seal(message: RelayMessage, hop: number): { readonly cell: Uint8Array; readonly digest: Uint8Array } {
    const layer = this.#layers[hop];
    assert(layer, "the hop exists");
    let cell = encodeRelay(message);
    const digest = layer.backward.seal(cell);
    for (let at = hop; at >= 0; at--) cell = this.#layers[at]?.backward.crypt(cell) ?? cell;
    return { cell, digest };
  }

  sendCell(command: number, body: Uint8Array): void {
    this.link.receive(fixedCell(this.circuitId, command, body));
  }

  /** DATA on a stream, `count` full cells. */
  sendData(streamId: number, count: number): void {
    for (let left = count; left > 0; left--)
      this.send({ command: RELAY.data, streamId, data: new Uint8Array(498).fill(left) });
  }

  #take(cell: Cell): void {
    this.cells.push(cell);
    if (cell.command === CELL.createFast) {
      const own = random(20);
      const { expected, material } = kdfTor(concat([cell.body.subarray(0, 20), own]));
      this.#layers = [relayLayers(circuitKeys(material))];
      this.circuitId = cell.circuitId;
      // The link must not be entered again while it writes.
      queueMicrotask(() => {
        this.sendCell(CELL.createdFast, concat([own, expected]));
      });
    }
    if (cell.command === CELL.relay || cell.command === CELL.relayEarly) this.#open(cell.body);
  }

  #open(encrypted: Uint8Array): void {
    let body = encrypted;
    for (const { forward } of this.#layers) {
      body = forward.crypt(body);
      const digest = forward.recognize(body);
      if (!digest) continue;
      const message = decodeRelay(body);
      this.messages.push(message);
      this.digests.push(digest);
      this.onMessage(message);
      return;
    }
    throw new Error("a cell that is sealed for no hop of the test");
  }
}

/** Lets everything that waits for microtasks and timers of 0 ms run. */
export async function settle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
}
