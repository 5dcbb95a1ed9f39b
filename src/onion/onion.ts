// What the package exports as `bento-tor/onion`: Tor's protocol as a library, for programs that use no box. Not for
// functions, which have no sockets (tools/import-rules.ts), nor for our own files, which name what they need.

export { BentoError, ProtocolError } from "../base/errors.ts";
export { Circuit, type CircuitOptions, type CircuitRelay, type IncomingStream } from "./circuit/circuit.ts";
export type { RelayAddress } from "./circuit/link-specifier.ts";
export type { TorStream } from "./circuit/stream.ts";
export { type BuildOptions, CircuitBuilder, type OpenLink } from "./circuit-builder.ts";
export { CircuitPool, type CircuitPoolOptions } from "./circuit-pool.ts";
export {
  type ExpandedKey,
  expandKey,
  generateExpandedKey,
  readExpandedKey,
  writeExpandedKey,
} from "./crypto/blinding.ts";
export { exportX25519, generateX25519, importX25519, type X25519Key } from "./crypto/primitives.ts";
export { authoritiesOf, PUBLIC_AUTHORITIES } from "./directory/authorities.ts";
export type { Authority } from "./directory/consensus.ts";
export { directoryGet, type FetchNetworkOptions, fetchNetwork } from "./directory/directory-client.ts";
export { GuardSet } from "./directory/guards.ts";
export { Network, type Position, type Relay } from "./directory/network.ts";
export { type PathRequest, type PathRules, pickPath } from "./directory/path.ts";
export { fromHex, hex } from "./fields.ts";
export { Link } from "./link/link.ts";
export { type CellStream, type CellStreams, linkOver, openGrantedLink } from "./link/stream-link.ts";
export { type LinkTarget, type OpenLinkOptions, openLink } from "./link/tls-link.ts";
export { Paths, type PathsOptions } from "./paths.ts";
export { decodeMaterial, encodeMaterial, type RendezvousMaterial } from "./service/handover.ts";
export { exportIntroductionSecrets, importIntroductionSecrets } from "./service/introduction.ts";
export { onionAddress, readOnionAddress } from "./service/onion-address.ts";
export {
  connectToService,
  type FetchedDescriptor,
  fetchDescriptor,
  type OnionClientOptions,
} from "./service/onion-client.ts";
export {
  type IntroductionPoint,
  type KnownPoint,
  OnionService,
  type OnionServiceOptions,
  type PointLoss,
  type PointLostAnswer,
  type Published,
  type StartOptions,
} from "./service/onion-service.ts";
export { type MeetAlongOptions, type MeetOptions, meetClient } from "./service/rendezvous.ts";
