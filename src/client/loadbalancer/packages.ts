// The packages of a load balancer, with manifests that ask for what this one needs: which boxes it may use, room for the
// site, as long a life as its box gives. What a box does not grant it refuses by itself, rule by rule.

import { type ManifestInput, parseManifest } from "../../wire/manifest.ts";
import type { PackageInput } from "../../wire/package.ts";
import type { Policy } from "../../wire/policy.ts";
import { formatDuration } from "../../wire/quantity.ts";

const MIB = 2 ** 20;
/** Times that a replica may be started again for each that may be there at once. */
const STARTS_EACH = 8;
/** What a session costs beside the site: introductions out, reports back; a day of both for each replica. */
const TALK_BYTES_EACH = 64 * MIB;
/** What is kept beside the site: keys, points, where replicas are. */
const STATE_BYTES = MIB;
/** No service is meant to outlive its owner's interest unseen. */
const LIFETIME_MS_MAX = 30 * 24 * 3600e3;

export interface Wanted {
  /** That it may use. A standby's must be among those of the load balancer that deploys it, "self" excepted. */
  readonly boxes: readonly string[];
  readonly replicasMax: number;
  /** 0 where no site is sent. */
  readonly siteBytes: number;
  readonly replicaBytes: number;
}

/** The load balancer for a box with this policy; `standby` is one that it may deploy as well. */
export function balancerPackage(
  pack: PackageInput,
  wanted: Wanted,
  policy: Policy,
  standby?: PackageInput,
): PackageInput {
  const { boxes, replicasMax, siteBytes, replicaBytes } = wanted;
  const other = standby ? parseManifest(standby.manifest).bento : undefined;
  const bento = policy.bento ?? { functions: 0, bytes: 0 };
  const perStart = siteBytes + replicaBytes + TALK_BYTES_EACH;
  const most = (need: number, want: number, limit: number) => Math.max(need, Math.min(want, limit));
  const forStandby = standby ? 1 + (other?.functions ?? 0) : 0;
  const functions = forStandby + most(replicasMax, replicasMax * STARTS_EACH, bento.functions - forStandby);
  const manifest: ManifestInput = {
    ...pack.manifest,
    bento: {
      boxes: [...new Set(boxes)],
      functions,
      // Retiring ones have a session, too.
      sessions: 2 * replicasMax + (standby ? 1 : 0),
      depth: 1 + (other?.depth ?? 0),
      bytes: `${most(replicasMax * (siteBytes + replicaBytes), functions * perStart, bento.bytes)}B`,
    },
    ...storageFor(pack, siteBytes),
    lifetime: formatDuration(Math.min(LIFETIME_MS_MAX, policy.function.lifetimeMs)),
    runtime: formatDuration(Math.min(LIFETIME_MS_MAX, policy.function.runtimeMs)),
  };
  return { ...pack, manifest };
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

/** As much as the function's own manifest says, and the site besides. */
function storageFor(pack: PackageInput, siteBytes: number): Pick<ManifestInput, "storage"> {
  const own = parseManifest(pack.manifest).storage?.bytes ?? 0;
  return siteBytes === 0 && own > 0 ? {} : { storage: { bytes: `${own + siteBytes + STATE_BYTES}B` } };
}
