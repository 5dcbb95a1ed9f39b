// The packages of a load balancer, with manifests that ask for what this one needs: which boxes it may use, room for the
// site, as long a life as its box gives. What a box does not grant it refuses by itself, rule by rule.

import { type ManifestInput, parseManifest } from "../../wire/manifest.ts";
import type { PackageInput } from "../../wire/package.ts";
import { type Policy, SELF } from "../../wire/policy.ts";
import { formatDuration } from "../../wire/quantity.ts";

const MIB = 2 ** 20;
/** Times that a replica may be started again for each that may be there at once. */
const STARTS_EACH = 8;
/** Calls for each of them: its box is asked, it is run, attached to again, ended. */
const CALLS_EACH = 32;
/** Times that a standby may be placed anew; what is left after as many is for replicas. */
const STANDBYS = 3;
const NOTHING = {
  boxes: [] as readonly string[],
  depth: 0,
  functions: 0,
  invocations: 0,
  sessions: 0,
  bytes: 0,
} as const;
/** What a session costs beside the site: introductions out, reports back; a day of both for each replica. */
const TALK_BYTES_EACH = 64 * MIB;
/** What is kept beside the site: packages, the key, points, introductions seen, where replicas are. */
const STATE_BYTES = 12 * MIB;
/** No service is meant to outlive its owner's interest unseen. */
const LIFETIME_MS_MAX = 30 * 24 * 3600e3;

export interface Wanted {
  /** That it may use. A standby's must be among those of the load balancer that deploys it, "self" excepted. */
  readonly boxes: readonly string[];
  readonly replicasMax: number;
  /** 0 where no site is sent. */
  readonly siteBytes: number;
  readonly replicaBytes: number;
  /** Boxes where a standby may be: the function is installed at each. */
  readonly standbyBoxes: number;
}

/** What of a policy decides how much there is to ask for. */
type Room = Pick<Policy, "bento" | "function">;

/** The load balancer for a box with this policy; `standby` is one that it may deploy as well. */
export function balancerPackage(
  pack: PackageInput,
  wanted: Wanted,
  policy: Room,
  standby?: PackageInput,
): PackageInput {
  const { boxes, replicasMax, siteBytes, replicaBytes, standbyBoxes } = wanted;
  const other = standby ? parseManifest(standby.manifest).bento : undefined;
  const room = policy.bento ?? NOTHING;
  const most = (need: number, want: number, limit: number) => Math.max(need, Math.min(want, limit));
  const perStart = siteBytes + replicaBytes + TALK_BYTES_EACH;
  // What a standby may use in its turn counts against whoever deploys it, each time anew (spec/guest).
  const placed = (of: number | undefined) => (other ? placements(standbyBoxes) * (of ?? 0) : 0);
  // Who took over starts a standby, too: of what is installed already.
  const standbys = standbyBoxes > 0 ? STANDBYS : 0;
  const starts = replicasMax * STARTS_EACH;
  const manifest: ManifestInput = {
    ...pack.manifest,
    bento: {
      // Itself: it starts the next instance before its own has to end.
      boxes: [...new Set([...(room.boxes.includes(SELF) ? [SELF] : []), ...boxes])],
      functions: most(replicasMax, starts + placed(1 + (other?.functions ?? 0)), room.functions),
      invocations: most(
        replicasMax + standbys,
        (starts + standbys) * CALLS_EACH + placed(other?.invocations),
        room.invocations,
      ),
      // Retiring ones have a session, too.
      sessions: most(replicasMax, 2 * replicasMax + standbys, room.sessions),
      depth: 1 + (other?.depth ?? 0),
      bytes: `${most(replicasMax * (siteBytes + replicaBytes), (starts + standbys) * perStart + placed(other?.bytes), room.bytes)}B`,
    },
    ...storageFor(pack, siteBytes),
    lifetime: formatDuration(Math.min(LIFETIME_MS_MAX, policy.function.lifetimeMs)),
    runtime: formatDuration(Math.min(LIFETIME_MS_MAX, policy.function.runtimeMs)),
  };
  return { ...pack, manifest };
}

/** The load balancer that waits at boxes with the policies `own`, deployed by one at a box with the policy `first`. */
export function standbyPackage(
  pack: PackageInput,
  wanted: Wanted,
  own: readonly Room[],
  first: Room,
): PackageInput {
  const theirs = first.bento ?? NOTHING;
  const offers = own.map(({ bento }) => bento ?? NOTHING);
  const least = (of: (offer: typeof theirs) => number) => Math.min(...offers.map(of));
  const share = (of: (offer: typeof theirs) => number) =>
    Math.min(least(of), Math.floor(of(theirs) / (placements(wanted.standbyBoxes) + 1)));
  const bento = {
    boxes: offers.every(({ boxes }) => boxes.includes(SELF)) ? [SELF] : [],
    functions: share(({ functions }) => functions),
    invocations: share(({ invocations }) => invocations),
    sessions: least(({ sessions }) => sessions),
    depth: least(({ depth }) => depth),
    bytes: share(({ bytes }) => bytes),
  };
  const limits = own.map((room) => room.function);
  return balancerPackage(pack, wanted, {
    bento,
    function: {
      ...first.function,
      lifetimeMs: Math.min(...limits.map(({ lifetimeMs }) => lifetimeMs)),
      runtimeMs: Math.min(...limits.map(({ runtimeMs }) => runtimeMs)),
    },
  });
}

/** Once at each box, and some times anew. */
function placements(standbyBoxes: number): number {
  return standbyBoxes + STANDBYS - 1;
}

export function replicaPackage(
  pack: PackageInput,
  serve: { readonly siteBytes: number } | { readonly host: string; readonly port: number },
): PackageInput {
  if ("siteBytes" in serve) {
    const { net: _, ...manifest } = pack.manifest;
    return { ...pack, manifest: { ...manifest, ...storageFor(pack, serve.siteBytes) } };
  }
  const { host, port } = serve;
  const net = { ...pack.manifest.net, allow: [host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`] };
  return { ...pack, manifest: { ...pack.manifest, net } };
}

/** As much as the function's own manifest says, or as the site takes. */
function storageFor(pack: PackageInput, siteBytes: number): Pick<ManifestInput, "storage"> {
  const own = parseManifest(pack.manifest).storage?.bytes ?? 0;
  const wanted = siteBytes === 0 ? own : Math.max(own, siteBytes + STATE_BYTES);
  return wanted === 0 ? {} : { storage: { bytes: `${wanted}B` } };
}
