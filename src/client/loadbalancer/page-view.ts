// From what a load balancer reported to what its page shows.

import type { LoadBalancerPageView, PageCurve } from "../../web/loadbalancer-page.ts";
import { eventText, shortBox } from "./event-text.ts";
import { type Curve, type History } from "./history.ts";

/** Events on the page, the last ones first. */
const EVENTS_SHOWN = 12;
const BAD: ReadonlySet<string> = new Set([
  "replica-refused",
  "replica-lost",
  "point-lost",
  "standby-lost",
  "fenced-off",
  "renew-failed",
]);

export function pageView(name: string, history: History, note: string): LoadBalancerPageView {
  const { last } = history;
  return {
    name,
    note,
    report: last && reportOf(last.report, last.atMs),
    clients: history
      .clients()
      .map((curve) => curveOf(curve, `client ${curve.client} of replica ${curve.replica}`)),
    replicas: history.replicas().map((curve) => curveOf(curve, `replica ${curve.replica}`)),
    introductions: [{ replica: -1, label: "introductions per second", points: history.introductions() }],
    windowMs: history.windowMs,
    events: history.events
      .slice(-EVENTS_SHOWN)
      .toReversed()
      .map((event) => ({ atMs: event.seenMs, text: eventText(event), isBad: BAD.has(event.kind) })),
  };
}

function curveOf({ replica, points }: Curve, label: string): PageCurve {
  return { replica, label, points };
}

function reportOf(
  report: NonNullable<History["last"]>["report"],
  atMs: number,
): NonNullable<LoadBalancerPageView["report"]> {
  const { introductions, standby, role } = report;
  const counts = [
    [introductions.waiting, "wait"],
    [introductions.dropped, "dropped"],
    [introductions.refused, "refused"],
  ] as const;
  const trouble = counts.filter(([count]) => count > 0).map(([count, what]) => `, ${count} ${what}`);
  return {
    address: report.address,
    replicas: report.replicas.map((replica) => ({ ...replica, box: shortBox(replica.box) })),
    introductionsPerSecond: introductions.perSecond,
    introductions: introductions.total,
    trouble: trouble.join(""),
    standby: standby ? (standby.isReady ? "ready" : "not ready") : "none",
    role,
    atMs,
  };
}
