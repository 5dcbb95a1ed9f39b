// What happened to a load balancer, in words for terminal and page. Pure. Names and reasons come from a box: whoever shows
// the text makes it printable, or escapes it.

import type { BalancerEvent } from "./answers.ts";

/** An address with port is longer than all else that is shown of a replica. */
const BOX_CHARS = 24;

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
