// Directory requests over circuits: HTTP/1.0 on a BEGIN_DIR stream, and what a client fetches to know the network.
// Boundary: the directory cache at the other end; answers are bounded, and verified by whoever they are for.
// Spec: dir-spec 4.1 (requests), 5 (what clients fetch), tor-spec 6.2.1 (BEGIN_DIR).

import { concat, utf8 } from "../../base/bytes.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import type { Circuit } from "../circuit/circuit.ts";
import type { TorStream } from "../circuit/stream.ts";
import { CONSENSUS_BYTES_MAX, DIRECTORY_BODY_BYTES_MAX, DIRECTORY_HEAD_BYTES_MAX } from "../limits.ts";
import { type AuthorityCertificate, parseAuthorityCertificates } from "./authority-certificate.ts";
import { type Authority, type Consensus, parseConsensus, verifyConsensus } from "./consensus.ts";
import { documentText } from "./document.ts";
import { type Microdescriptor, parseMicrodescriptors } from "./microdescriptor.ts";
import { Network } from "./network.ts";

interface Limits {
  readonly signal?: AbortSignal | undefined;
  readonly bodyBytesMax?: number;
}

/** dir-spec 4.1: digests in one request for microdescriptors. */
const MICRODESCRIPTORS_PER_REQUEST = 92;

/** The body of a document. Throws BentoError `onion-directory` for an answer other than 200. */
export async function directoryGet(circuit: Circuit, path: string, limits: Limits = {}): Promise<Uint8Array> {
  // Compressed answers could be larger than they look.
  const head = `GET ${path} HTTP/1.0\r\nAccept-Encoding: identity\r\n\r\n`;
  return request(circuit.openDirectoryStream(), path, utf8(head), limits);
}

/** Uploads a document. Throws BentoError `onion-directory` unless it was accepted. */
export async function directoryPost(
  circuit: Circuit,
  path: string,
  document: Uint8Array,
  limits: Limits = {},
): Promise<void> {
  const head = `POST ${path} HTTP/1.0\r\nContent-Length: ${String(document.length)}\r\n\r\n`;
  await request(circuit.openDirectoryStream(), path, concat([utf8(head), document]), limits);
}

async function request(
  stream: TorStream,
  path: string,
  bytes: Uint8Array,
  { signal, bodyBytesMax = DIRECTORY_BODY_BYTES_MAX }: Limits,
): Promise<Uint8Array> {
  using open = stream;
  await open.write(bytes, { signal });
  const parts: Uint8Array[] = [];
  let byteCount = 0;
  for (let part = await open.read({ signal }); part; part = await open.read({ signal })) {
    parts.push(part);
    byteCount += part.length;
    if (byteCount > bodyBytesMax + DIRECTORY_HEAD_BYTES_MAX)
      throw new ProtocolError("onion-directory", `Cannot fetch ${path.slice(0, 40)}: the answer is too long`);
  }
  const { status, body } = parseAnswer(concat(parts), bodyBytesMax);
  if (status !== 200)
    throw new BentoError("onion-directory", `Cannot fetch ${path.slice(0, 40)}: status ${String(status)}`);
  return body;
}

// Sample: "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n" and the body.
/** Throws ProtocolError `onion-directory`. */
export function parseAnswer(
  bytes: Uint8Array,
  bodyBytesMax: number,
): { readonly status: number; readonly body: Uint8Array } {
  const refused = (found: string) =>
    new ProtocolError("onion-directory", `Cannot read directory answer: ${found}`);
  const head = documentText(bytes.subarray(0, DIRECTORY_HEAD_BYTES_MAX));
  const end = head.indexOf("\r\n\r\n");
  const status = /^HTTP\/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r\n/u.exec(head)?.[1];
  if (end < 0 || status === undefined) throw refused("no HTTP head");
  const headers = head.slice(0, end);
  const encoding = /^content-encoding: *([^\r\n]*)/imu.exec(headers)?.[1]?.trim();
  if (encoding !== undefined && encoding !== "identity") throw refused(`encoding ${encoding.slice(0, 20)}`);
  const body = bytes.subarray(end + 4);
  const length = /^content-length: *([0-9]{1,10})\r?$/imu.exec(headers)?.[1];
  if (length !== undefined && Number(length) !== body.length)
    throw refused(`${String(body.length)} bytes, ${length} announced`);
  if (body.length > bodyBytesMax)
    throw refused(`${String(body.length)} bytes, at most ${String(bodyBytesMax)}`);
  return { status: Number(status), body };
}

export interface FetchNetworkOptions {
  readonly authorities: readonly Authority[];
  readonly nowMs: number;
  readonly signal?: AbortSignal | undefined;
  readonly staleMsMax?: number;
  /** What is known already, so that only the rest is fetched. */
  readonly known?: Network | undefined;
  readonly certificates?: readonly AuthorityCertificate[];
}

/**
 * Fetches certificates, consensus and microdescriptors from the directory that `circuit` ends at, each verified.
 * Throws ProtocolError `onion-consensus` when the authorities did not sign it.
 */
export async function fetchNetwork(circuit: Circuit, options: FetchNetworkOptions): Promise<Network> {
  const { authorities, signal, known } = options;
  const idents = authorities.map(({ identity }) => identity.toUpperCase()).join("+");
  const certificates =
    options.certificates ??
    parseAuthorityCertificates(await directoryGet(circuit, `/tor/keys/fp/${idents}`, { signal }));
  const bytes = await directoryGet(circuit, "/tor/status-vote/current/consensus-microdesc", {
    signal,
    bodyBytesMax: CONSENSUS_BYTES_MAX,
  });
  const consensus = parseConsensus(bytes);
  verifyConsensus(consensus, { ...options, certificates });
  return new Network(consensus, await fetchMicrodescriptors(circuit, consensus, known, signal));
}

async function fetchMicrodescriptors(
  circuit: Circuit,
  consensus: Consensus,
  known: Network | undefined,
  signal: AbortSignal | undefined,
): Promise<Microdescriptor[]> {
  const have = new Map(known?.relays.map(({ microdescriptor }) => [microdescriptor.digest, microdescriptor]));
  const wanted = new Set(consensus.relays.map(({ microdescriptor }) => microdescriptor));
  const found = [...have.values()].filter(({ digest }) => wanted.has(digest));
  const missing = [...wanted].filter((digest) => !have.has(digest));
  for (let at = 0; at < missing.length; at += MICRODESCRIPTORS_PER_REQUEST) {
    const path = `/tor/micro/d/${missing.slice(at, at + MICRODESCRIPTORS_PER_REQUEST).join("-")}`;
    // Those that were not asked for cannot get in: the network takes them by the digests of the consensus.
    found.push(...parseMicrodescriptors(await directoryGet(circuit, path, { signal })));
  }
  return found;
}
