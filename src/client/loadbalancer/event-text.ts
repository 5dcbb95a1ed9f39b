// What happened to a load balancer, in words for terminal and page. Pure. Names and reasons come from a box: whoever shows
// the text makes it printable, or escapes it.

import type { Answer, BalancerEvent } from "./answers.ts";

/** An address with port is longer than all else that is shown of a replica. */
const BOX_CHARS = 24;

/** Boxes as the owner calls them: by what stands in `names`, addresses as they are where nothing does. */
export function withNames(answer: Answer, names: ReadonlyMap<string, string>): Answer {
  const named = <T extends { readonly box: string }>(one: T): T => ({
    ...one,
    box: names.get(one.box) ?? one.box,
  });
  if ("event" in answer && "box" in answer.event) return { event: named(answer.event) };
  if (!("report" in answer)) return answer;
  const { replicas, standby } = answer.report;
  return {
    report: { ...answer.report, replicas: replicas.map(named), standby: standby && named(standby) },
  };
}

export function eventText(event: BalancerEvent): string {
  switch (event.kind) {
    case "replica-started":
      return `replica ${event.id} serves at ${shortBox(event.box)}, ${seconds(event.afterMs)} after it was wanted`;
    case "replica-refused":
      return `${shortBox(event.box)} takes no replica: ${event.message} (${event.code})`;
    case "replica-lost":
      return `replica ${event.id} at ${shortBox(event.box)} is lost: ${event.reason}`;
    case "replica-retired":
      return `replica ${event.id} at ${shortBox(event.box)} has ended: it was not needed any more`;
    case "point-lost":
      return `introduction point ${shortRelay(event.relay)} is lost`;
    case "point-claimed":
      return `introduction point ${shortRelay(event.relay)} is taken`;
    case "standby-ready":
      return `the standby at ${shortBox(event.box)} is ready`;
    case "standby-lost":
      return `the standby at ${shortBox(event.box)} is lost: ${event.reason}`;
    case "took-over":
      return `the standby has taken the service over, in ${seconds(event.afterMs)}`;
    case "fenced-off":
      return "another one has taken the service over: this one ends";
    case "renewed":
      return "a new instance has taken the service over, before this one's time ends";
    case "renew-failed":
      return `this instance's time ends soon, and the next one does not start: ${event.message} (${event.code})`;
  }
}

/** Onion addresses by their first letters: enough to tell them apart. */
export function shortBox(box: string): string {
  if (/^[a-z2-7]{56}\.onion/.test(box)) return `${box.slice(0, 12)}….onion`;
  return box.length <= BOX_CHARS ? box : `${box.slice(0, BOX_CHARS - 1)}…`;
}

function shortRelay(relay: string): string {
  return relay.replace(/^\$/, "").slice(0, 8);
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
