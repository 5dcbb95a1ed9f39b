// What an owner and the `loadbalancer` function say to each other (functions/loadbalancer). Types and numbers alone, so
// that the function bundles little; each side checks what it relies on.
//
//   arguments       [LoadBalancerStart]; [LoadBalancerResume] for another instance of the same function;
//                   [LoadBalancerWhere] for the id of the one that serves
//   input           bytes, in messages cut anywhere: the replica's package, as JSON; the standby's, where there is one;
//                   the site. After them one OwnerMessage as JSON in each message. After a resume, OwnerMessages alone.
//   output          one OwnerAnswer as JSON in each message. Reports come only while somebody is attached.
//
//   the site        [u32 bytes of the index] [SiteIndex as JSON] [the files' bytes, in the order of the index]

export const LoadBalancerLimits = {
  replicasMax: 64,
  siteBytesMax: 256 * 2 ** 20,
  siteFilesMax: 10_000,
  introductionPointsMax: 20,
  boxesMax: 64,
  /** Boxes that may have a service's key, beside those of its load balancer and of the first standby. */
  standbyOthersMax: 7,
  clientsMax: 256,
  /** Silence of a primary that a standby may be told to wait for: milliseconds. */
  silentMsMin: 1000,
  silentMsMax: 600_000,
  /** Clients that a report tells of, for each replica: those that have sent most of late. */
  clientsShownMax: 64,
  /** Between two reports to an owner: milliseconds. */
  reportMsMin: 100,
  /** Introductions that wait while no replica can take them; more of them, or older ones, are dropped and counted. */
  waitingMax: 1024,
  waitingMs: 20_000,
} as const;

/** What a replica carries before it counts as busy; what is left out does not count. */
export type Watermark = {
  /** Clients at once: circuits that have a stream, or had one less than 10 s ago. */
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
  /** A second load balancer that takes over when this one is silent for so long: milliseconds, 5000 when left out. */
  readonly standby?: {
    readonly box: string;
    readonly silentMs?: number;
    /**
     * Boxes that may have the key as well: where a standby is placed, in this order, when `box` takes none, has lost its
     * own, or has the service itself.
     */
    readonly others?: readonly string[];
    /** The box of the load balancer, as others name it: where a standby may be when the service has gone elsewhere. */
    readonly own?: string;
  };
};

/** A replica that has heard of no load balancer for so long ends when its last client has gone: milliseconds. */
export const ORPHAN_MS = 600_000;

/** The shortest runtime of a load balancer's instances that it can be told: milliseconds. */
export const RENEW_RUNTIME_MS_MIN = 10_000;

/**
 * Goes on where another instance of this function ended, whatever ended it: same address, same introduction points, the
 * replicas with their clients. One that still runs is fenced off. The owner has the box start it (`exec`, `run` by token):
 * boxes end instances after the runtime of their policy, a day unless told otherwise.
 */
export type LoadBalancerResume = {
  readonly resume: true;
  /** The one before it lives, started it, and leaves when this one has the introduction points. */
  readonly renews?: true;
};

/** Answers `at`, and ends: for an owner who finds the instance gone that it knew, or wants to know who is in charge. */
export type LoadBalancerWhere = { readonly where: true };

export type OwnerMessage =
  /**
   * A report now, and then one each `everyMs` as long as somebody is attached; 0: this one alone. These reports carry `id`,
   * so that an owner tells them from reports that waited for somebody before.
   */
  | { readonly watch: { readonly everyMs: number; readonly id?: number } }
  | { readonly scale: Partial<ScaleSettings> }
  /**
   * The function's own invocation token, and the runtime that its box granted (milliseconds): before that is over, the
   * instance starts its successor. With the shutdown token a standby that took over may start one here in its turn.
   */
  | {
      readonly renew: { readonly token: string; readonly runtimeMs: number; readonly shutdownToken?: string };
    }
  /** Replicas and standby end, the service is left, the function removes itself. */
  | { readonly stop: true };

/** starting: its box was asked. serving: takes introductions. retiring: takes none, has clients. silent: no report of late. */
export type ReplicaState = "starting" | "serving" | "retiring" | "silent";

/** One client's circuit, as its replica sees it. */
export type ClientReport = {
  /** Told apart from other clients of this replica; says nothing else. */
  readonly id: number;
  readonly bytesPerSecond: number;
  readonly bytesTotal: number;
  /** Since it came. */
  readonly ageMs: number;
};

export type ReplicaReport = {
  readonly id: number;
  readonly box: string;
  readonly state: ReplicaState;
  /** Clients now, as in Watermark. */
  readonly connections: number;
  readonly bytesPerSecond: number;
  readonly bytesTotal: number;
  readonly cpuPercent: number;
  /** Introductions: handed over, met, failed. */
  readonly given: number;
  readonly met: number;
  readonly failed: number;
  readonly startedAtMs: number;
  /** At most `clientsShownMax`. */
  readonly clients?: readonly ClientReport[];
};

export type LoadBalancerReport = {
  /** Of the `watch` that asked for it. */
  readonly id?: number;
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
  | { readonly kind: "fenced-off" }
  /** A new instance of this function has the service: this one ends. */
  | { readonly kind: "renewed" }
  /** This one's time ends soon, and the next one could not be started; it is tried again. */
  | { readonly kind: "renew-failed"; readonly code: string; readonly message: string };

/** Where a standby runs: what its owner needs to reach it when the first one is gone. */
export type StandbyPlace = {
  readonly box: string;
  readonly instance: string;
  readonly invocationToken: string;
  readonly shutdownToken: string;
  /** What its box granted: milliseconds; where it said so. */
  readonly runtimeMs?: number;
  /** Unix milliseconds. */
  readonly startedAtMs?: number;
  /** When its box removes the function: Unix milliseconds. */
  readonly expiresAt?: number | undefined;
};

/** Where the function is installed, and a standby may be started: what its owner needs to find it there. */
export type StandbyReserve = Pick<StandbyPlace, "box" | "invocationToken" | "shutdownToken" | "expiresAt">;

export type OwnerAnswer =
  /** The service is published, and a replica serves. */
  | { readonly started: { readonly address: string } }
  | { readonly standby: StandbyPlace }
  | { readonly reserve: StandbyReserve }
  /** The newest instance that was not started by the owner, null: none; and what runs as this function, where that is known. */
  | { readonly at: { readonly instance: string | null; readonly role?: "primary" | "standby" } }
  | { readonly report: LoadBalancerReport }
  | { readonly event: LoadBalancerEvent & { readonly atMs: number } }
  /** The last one. `left`: boxes of replicas that could not be told to end; they do when they have heard nothing for long. */
  | { readonly stopped: { readonly replicasEnded: number; readonly left?: readonly string[] } };
