// The client's side of onion services: fetch the descriptor, introduce oneself, meet the service.
// Boundary: directories, introduction points and the service itself, of which only the address is trusted.
// Spec: rend-spec-v3 2.2.4.1 (fetching), 3.2 (introduction), 4.1 (rendezvous point), 4.2.

import { BentoError, messageOf } from "../../base/errors.ts";
import type { Circuit } from "../circuit/circuit.ts";
import { RELAY } from "../circuit/relay-message.ts";
import { vegasParameters } from "../circuit/vegas.ts";
import type { CircuitBuilder } from "../circuit-builder.ts";
import { blindPublicKey } from "../crypto/blinding.ts";
import { random, type X25519Key } from "../crypto/primitives.ts";
import { directoryGet } from "../directory/directory-client.ts";
import { base64, FieldReader } from "../fields.ts";
import { DESCRIPTOR_BYTES_MAX } from "../limits.ts";
import type { Paths } from "../paths.ts";
import { subcredentialOf } from "./credentials.ts";
import { openDescriptor } from "./descriptor.ts";
import type { DescriptorContent, IntroductionPointInfo } from "./descriptor-content.ts";
import { hsNtorClient, onionHopKeys } from "./hs-ntor.ts";
import { COOKIE_BYTES, encodePlaintext, introduceHeader } from "./introduction.ts";
import { readOnionAddress } from "./onion-address.ts";
import { clientPlace, directoriesOf, type PeriodOptions } from "./time-period.ts";

export interface OnionClientOptions extends PeriodOptions {
  readonly builder: CircuitBuilder;
  readonly paths: Paths;
  /** Unix milliseconds. */
  readonly nowMs: number;
  /** For services that only authorized clients may reach. */
  readonly authorization?: X25519Key;
  readonly signal?: AbortSignal | undefined;
}

export interface FetchedDescriptor {
  readonly content: DescriptorContent;
  readonly subcredential: Uint8Array;
}

/** Between introduction and answer: the service builds a circuit first. */
const ANSWER_MS = 60_000;

/** Asks the directories of the address one after the other. Throws BentoError `onion-not-found` when none has it. */
export async function fetchDescriptor(
  address: string,
  options: OnionClientOptions,
): Promise<FetchedDescriptor> {
  const { builder, paths, signal } = options;
  const publicKey = readOnionAddress(address);
  const place = clientPlace(paths.network.consensus, options);
  const blindedKey = blindPublicKey(publicKey, place.period);
  const subcredential = subcredentialOf(publicKey, blindedKey);
  const failures: string[] = [];
  for (const directory of shuffled(directoriesOf(paths.network, blindedKey, place, "fetch"))) {
    signal?.throwIfAborted();
    try {
      using circuit = await builder.build(paths.to(directory), { signal });
      const document = await directoryGet(circuit, `/tor/hs/3/${base64(blindedKey)}`, {
        signal,
        bodyBytesMax: DESCRIPTOR_BYTES_MAX,
      });
      const trust = { blindedKey, subcredential, nowMs: options.nowMs, client: options.authorization };
      return { content: openDescriptor(document, trust).content, subcredential };
    } catch (error) {
      if (!(error instanceof BentoError) || error.code === "onion-not-authorized") throw error;
      failures.push(messageOf(error));
    }
  }
  throw new BentoError(
    "onion-not-found",
    `Cannot reach onion service: ${failures.join("; ") || "no directories"}`,
  );
}

/** A circuit whose last hop is the service: `openStream("", port)` begins a stream to it. */
export async function connectToService(
  { content, subcredential }: FetchedDescriptor,
  options: OnionClientOptions,
): Promise<Circuit> {
  const { builder, paths, signal } = options;
  const failures: string[] = [];
  for (const point of shuffled(content.introductionPoints)) {
    const rendezvousPoint = paths.meetingPoint();
    const circuit = await builder.build(paths.to(rendezvousPoint), { signal });
    try {
      const cookie = random(COOKIE_BYTES);
      const hop = circuit.hopCount - 1;
      const established = {
        hop,
        command: RELAY.establishRendezvous,
        data: cookie,
        reply: RELAY.rendezvousEstablished,
      };
      await circuit.request(established, { signal });
      const congestion =
        content.sendmeIncrement !== undefined && paths.network.usesCongestionControl
          ? vegasParameters(paths.network.consensus.parameters, "onion", content.sendmeIncrement)
          : undefined;
      const wantsCongestionControl = congestion !== undefined;
      const client = hsNtorClient(point, subcredential);
      const header = introduceHeader(point.authKey);
      const plaintext = encodePlaintext({ cookie, rendezvousPoint, wantsCongestionControl });
      const answered = circuit.expect(hop, RELAY.rendezvous2, { signal, timeoutMs: ANSWER_MS });
      answered.catch(() => undefined);
      await introduce(point, Buffer.concat([header, client.encrypt(header, plaintext)]), options);
      circuit.addOnionHop(onionHopKeys(client.finish(await answered)), "client", congestion);
      return circuit;
    } catch (error) {
      circuit.destroy();
      if (!(error instanceof BentoError)) throw error;
      failures.push(messageOf(error));
    }
  }
  throw new BentoError(
    "onion-no-introduction",
    `Cannot reach onion service: ${failures.join("; ") || "it has no introduction points"}`,
  );
}

/** rend-spec-v3 3.2.2: INTRODUCE_ACK with status 0 means that the introduction point has passed it on. */
async function introduce(
  point: IntroductionPointInfo,
  data: Uint8Array,
  { builder, paths, signal }: OnionClientOptions,
): Promise<void> {
  using circuit = await builder.build(paths.to(point.relay), { signal });
  const request = { hop: circuit.hopCount - 1, command: RELAY.introduce1, data, reply: RELAY.introduceAck };
  const reader = new FieldReader(await circuit.request(request, { signal }), "INTRODUCE_ACK");
  const status = reader.u16();
  if (status !== 0)
    throw new BentoError("onion-introduction", `Cannot introduce: the point answered ${String(status)}`);
}

/** Fisher-Yates. */
function shuffled<T>(values: readonly T[]): T[] {
  const list = [...values];
  for (let at = list.length - 1; at > 0; at--) {
    const other = new DataView(random(4).buffer).getUint32(0) % (at + 1);
    [list[at], list[other]] = [list[other] as T, list[at] as T];
  }
  return list;
}
