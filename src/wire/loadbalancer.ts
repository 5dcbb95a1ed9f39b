// What an owner and the `loadbalancer` function say to each other (functions/loadbalancer). Types and numbers alone, so
// that the function bundles little; each side checks what it relies on.
//
//   arguments       [LoadBalancerStart]
//   input           bytes, in messages cut anywhere: the replica's package, as JSON; the standby's, where there is one;
//                   the site. After them one OwnerMessage as JSON in each message.
//   output          one OwnerAnswer as JSON in each message. Reports come only while somebody is attached.
//
//   the site        [u32 bytes of the index] [SiteIndex as JSON] [the files' bytes, in the order of the index]

export const LoadBalancerLimits = {
  replicasMax: 64,
  siteBytesMax: 256 * 2 ** 20,
  siteFilesMax: 10_000,
  introductionPointsMax: 20,
  /** Between two reports to an owner: milliseconds. */
  reportMsMin: 100,
  /** Introductions that wait while no replica can take them; more of them, or older ones, are dropped and counted. */
  waitingMax: 1024,
  waitingMs: 20_000,
} as const;

/** What a replica carries before it counts as busy; what is left out does not count. */
export type Watermark = {
  /** Clients' circuits at once. */
  readonly connections?: number;
  /** Bytes sent per second. */
  readonly bytesPerSecond?: number;
  /** Of one core. */
  readonly cpuPercent?: number;
};

export type ScaleSettings = {
  readonly replicasMin: number;
  readonly replicasMax: number;
  /** The mean of the replicas at or above any of these starts one more. */
  readonly high: Watermark;
  /** The mean below all of these retires one, which goes when its last client has gone. */
  readonly low: Watermark;
  readonly choice: "least-loaded" | "random";
};

/** What clients of the onion service reach. */
export type Serve =
  /** Files, by HTTP, from the site that the owner sends. */
  | { readonly kind: "files"; readonly siteBytes: number }
  /** A TCP destination of each replica, within the manifest and the policy of the replica's box. */
  | { readonly kind: "target"; readonly host: string; readonly port: number };

export type SiteIndex = {
  readonly files: readonly {
    /** As in a URL's path, decoded, without the first slash: "index.html", "a/b.css". */
    readonly path: string;
    readonly bytes: number;
    /** Content-Type. */
    readonly type: string;
  }[];
};

export type LoadBalancerStart = {
  /** The service's expanded Ed25519 key (rend-spec-v3, as in tor's `hs_ed25519_secret_key` without its header): 64 bytes, base64. The owner makes it. */
  readonly key: string;
  /** The port that clients name. */
  readonly virtualPort: number;
  readonly serve: Serve;
  readonly scale: ScaleSettings;
  /** Where replicas may run, in order of preference; "self" for the box of the load balancer. */
  readonly boxes: readonly string[];
  readonly introductionPoints?: number;
  /** X25519 public keys of the only clients that may come (rend-spec-v3, client authorization): base64. */
  readonly clients?: readonly string[];
  readonly packages: { readonly replicaBytes: number; readonly standbyBytes?: number };
  /** A second load balancer that takes over when this one is silent. */
  readonly standby?: { readonly box: string };
};

export type OwnerMessage =
  /** A report now, and then one each `everyMs` as long as somebody is attached; 0: this one alone. */
  | { readonly watch: { readonly everyMs: number } }
  | { readonly scale: Partial<ScaleSettings> }
  /** Replicas and standby end, the service is left, the function removes itself. */
  | { readonly stop: true };

/** starting: its box was asked. serving: takes introductions. retiring: takes none, has clients. silent: no report of late. */
export type ReplicaState = "starting" | "serving" | "retiring" | "silent";

export type ReplicaReport = {
  readonly id: number;
  readonly box: string;
  readonly state: ReplicaState;
  /** Clients' circuits now. */
  readonly connections: number;
  readonly bytesPerSecond: number;
  readonly bytesTotal: number;
  readonly cpuPercent: number;
  /** Introductions: handed over, met, failed. */
  readonly given: number;
  readonly met: number;
  readonly failed: number;
  readonly startedAtMs: number;
};

export type LoadBalancerReport = {
  /** Unix milliseconds. */
  readonly nowMs: number;
  readonly address: string;
  readonly role: "primary" | "standby";
  readonly introductionPoints: readonly { readonly relay: string; readonly introductions: number }[];
  readonly introductions: {
    readonly total: number;
    readonly perSecond: number;
    readonly waiting: number;
    /** No replica took them in time. */
    readonly dropped: number;
    /** Did not open, or came a second time. */
    readonly refused: number;
  };
  readonly scale: ScaleSettings;
  readonly replicas: readonly ReplicaReport[];
  readonly standby: { readonly box: string; readonly isReady: boolean } | null;
};

/** Something that happened, for logs and the live view. */
export type LoadBalancerEvent =
  | { readonly kind: "replica-started"; readonly id: number; readonly box: string; readonly afterMs: number }
  | {
      readonly kind: "replica-refused";
      readonly box: string;
      readonly code: string;
      readonly message: string;
    }
  | { readonly kind: "replica-lost"; readonly id: number; readonly box: string; readonly reason: string }
  | { readonly kind: "replica-retired"; readonly id: number; readonly box: string }
  | { readonly kind: "point-lost"; readonly relay: string }
  | { readonly kind: "point-claimed"; readonly relay: string }
  | { readonly kind: "standby-ready"; readonly box: string }
  | { readonly kind: "standby-lost"; readonly box: string; readonly reason: string }
  /** This one took the service over, or found that another one did and ended. */
  | { readonly kind: "took-over"; readonly afterMs: number }
  | { readonly kind: "fenced-off" };

/** Where a standby runs: what its owner needs to reach it when the first one is gone. */
export type StandbyPlace = {
  readonly box: string;
  readonly instance: string;
  readonly invocationToken: string;
  readonly shutdownToken: string;
};

export type OwnerAnswer =
  /** The service is published, and a replica serves. */
  | { readonly started: { readonly address: string } }
  | { readonly standby: StandbyPlace }
  | { readonly report: LoadBalancerReport }
  | { readonly event: LoadBalancerEvent & { readonly atMs: number } }
  | { readonly stopped: { readonly replicasEnded: number } };
