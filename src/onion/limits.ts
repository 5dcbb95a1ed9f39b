// What a peer may make us hold, and for how long. Each limit has its unit in its name and its reason beside it.
// Numbers that Tor's specification fixes are not here but beside their use.

/** Links of one builder. A service has a few guards; a relay's neighbours would be thousands. */
export const LINKS_MAX = 256;
/** Circuits on one link. C tor clients have tens; an introduction plane hundreds. */
export const CIRCUITS_PER_LINK_MAX = 4096;
/** Bytes written to a link and not yet taken by the socket; beyond it the relay has stopped reading. Data cells wait at a quarter. */
export const LINK_OUTPUT_BYTES_MAX = 4 * 2 ** 20;
/** Payload of a variable-length cell. CERTS is the longest in use, some 2 KiB. */
export const VARIABLE_CELL_BYTES_MAX = 16 * 1024;
/** Cells before the link handshake is over, padding included. */
export const HANDSHAKE_CELLS_MAX = 64;
/** Certificates in one CERTS cell; seven types exist. */
export const CERTS_MAX = 16;

/** tor-spec 5.6: EXTEND must be in a RELAY_EARLY cell, of which relays take 8: the first hop is not extended to. */
export const HOPS_MAX = 9;
/** Streams open on one circuit, ours and the peer's together. */
export const STREAMS_PER_CIRCUIT_MAX = 1024;
/** Bytes received on one circuit that no reader has taken. Above what congestion windows of the live network reach. */
export const CIRCUIT_INPUT_BYTES_MAX = 16 * 2 ** 20;
/** Our SENDMEs are due within one window; more digests outstanding than this means a window of ours is wrong. */
export const SENDME_DIGESTS_MAX = 1024;

/** The live network's consensus has 3 MiB. */
export const CONSENSUS_BYTES_MAX = 32 * 2 ** 20;
export const RELAYS_MAX = 50_000;
/** One microdescriptor; typical ones have 500 bytes, those of big families 20 KiB. */
export const MICRODESCRIPTOR_BYTES_MAX = 64 * 1024;
export const AUTHORITY_CERTIFICATE_BYTES_MAX = 16 * 1024;
/** Answer to one directory request, unless the caller knows better. */
export const DIRECTORY_BODY_BYTES_MAX = 8 * 2 ** 20;
export const DIRECTORY_HEAD_BYTES_MAX = 16 * 1024;

/** HSDirs take no more (dir-spec, consensus parameter HSV3MaxDescriptorSize). */
export const DESCRIPTOR_BYTES_MAX = 50_000;
/** rend-spec-v3 2.5.2.2: "up to 20". */
export const INTRODUCTION_POINTS_MAX = 20;
/** Authorised clients of one service, so that the descriptor stays below DESCRIPTOR_BYTES_MAX. */
export const AUTHORIZED_CLIENTS_MAX = 256;
/** Introductions remembered by one introduction point: C tor rotates a point after at most 32,768. */
export const REPLAY_CACHE_ENTRIES_MAX = 65_536;
