// What a load balancer reported over time, bounded whatever its box sends: the last minutes of each replica, of each of its
// clients, and of introductions. Time is ours, by when a report came: a box's clock may say anything.

import type { Clock } from "../../base/clock.ts";
import type { BalancerEvent, Report } from "./answers.ts";

/** Of the window that is kept and drawn. */
export const WINDOW_MS = 120_000;
export const SAMPLES_MAX = 480;
export const EVENTS_MAX = 40;
/** Two reports within less than this count as one. */
const SAMPLE_MS_MIN = WINDOW_MS / SAMPLES_MAX;
/** Clients with curves of their own; of more, those that came last. */
export const CLIENTS_MAX = 64;

export interface Point {
  readonly atMs: number;
  readonly value: number;
  /** Nothing was reported of it the time before. */
  readonly isNew: boolean;
}

/** The course of one number of one thing. */
export interface Curve {
  readonly replica: number;
  /** Of a client, among those of its replica. */
  readonly client?: number;
  readonly points: readonly Point[];
}

interface Sample {
  readonly atMs: number;
  readonly replicas: ReadonlyMap<number, number>;
  /** By "replica/client". */
  readonly clients: ReadonlyMap<string, number>;
  readonly introductionsPerSecond: number;
}

export class History {
  readonly #clock: Clock;
  #samples: Sample[] = [];
  #events: (BalancerEvent & { readonly seenMs: number })[] = [];
  #last: { readonly report: Report; readonly atMs: number } | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The last report, and when it came: Unix milliseconds. */
  get last(): { readonly report: Report; readonly atMs: number } | undefined {
    return this.#last;
  }

  /** Oldest first. */
  get events(): readonly (BalancerEvent & { readonly seenMs: number })[] {
    return this.#events;
  }

  addEvent(event: BalancerEvent): void {
    this.#events.push({ ...event, seenMs: this.#clock.now() });
    if (this.#events.length > EVENTS_MAX) this.#events.shift();
  }

  addReport(report: Report): void {
    const atMs = this.#clock.now();
    this.#last = { report, atMs };
    const before = this.#samples.at(-1);
    if (before && atMs - before.atMs < SAMPLE_MS_MIN) this.#samples.pop();
    const clients = report.replicas.flatMap(({ id, clients: of = [] }) =>
      of.map((client) => [`${id}/${client.id}`, client.bytesPerSecond, client.ageMs] as const),
    );
    clients.sort(([, , a], [, , b]) => a - b);
    this.#samples.push({
      // A sample that stands for several keeps the time of the first, so that a flood of reports moves on, too.
      atMs: before && atMs - before.atMs < SAMPLE_MS_MIN ? before.atMs : atMs,
      replicas: new Map(report.replicas.map(({ id, bytesPerSecond }) => [id, bytesPerSecond])),
      clients: new Map(clients.slice(0, CLIENTS_MAX).map(([id, value]) => [id, value])),
      introductionsPerSecond: report.introductions.perSecond,
    });
    this.#samples = this.#samples
      .filter((sample) => sample.atMs > atMs - WINDOW_MS && sample.atMs <= atMs)
      .slice(-SAMPLES_MAX);
  }

  /** Bytes a second of each replica that was there within the window. */
  replicas(): Curve[] {
    return [...this.#curves(({ replicas }) => replicas)].map(([replica, points]) => ({ replica, points }));
  }

  /** Bytes a second of each client; the CLIENTS_MAX that came last. */
  clients(): Curve[] {
    return [...this.#curves(({ clients }) => clients)]
      .sort(([, a], [, b]) => (a[0]?.atMs ?? 0) - (b[0]?.atMs ?? 0))
      .slice(-CLIENTS_MAX)
      .map(([key, points]) => {
        const [replica, client] = key.split("/").map(Number);
        return { replica: replica ?? 0, client: client ?? 0, points };
      });
  }

  /** Bytes a second of all replicas together. */
  total(): Point[] {
    return this.#samples.map(({ atMs, replicas }) => ({
      atMs,
      value: [...replicas.values()].reduce((sum, value) => sum + value, 0),
      isNew: false,
    }));
  }

  introductions(): Point[] {
    return this.#samples.map(({ atMs, introductionsPerSecond: value }) => ({ atMs, value, isNew: false }));
  }

  #curves<Key>(of: (sample: Sample) => ReadonlyMap<Key, number>): Map<Key, Point[]> {
    const curves = new Map<Key, Point[]>();
    let before: ReadonlyMap<Key, number> = new Map();
    for (const sample of this.#samples) {
      const values = of(sample);
      for (const [key, value] of values) {
        const points = curves.get(key) ?? [];
        curves.set(key, points);
        points.push({ atMs: sample.atMs, value, isNew: !before.has(key) });
      }
      before = values;
    }
    return curves;
  }
}
