// Poster: for a while, circuits from this box through the network, with cells of one size at a constant rate on each, both
// ways. How many, how fast and how much is bounded by what the box granted; what it opened ends with it.

import { defineFunction, type Json, type Session, type Tor } from "bento/function";
import { RATE_MAX, RATE_MIN } from "../../src/wire/cover.ts";
import {
  type PosterAnswer,
  type PosterCounts,
  PosterLimits,
  type PosterRequest,
} from "../../src/wire/poster.ts";
import { Lane, type Target } from "./lane.ts";
import { Sink } from "./sink.ts";

/** Between two messages that say how far it is: milliseconds. */
const REPORT_MS = 1_000;

export default defineFunction({
  async invoke(session, env, given: Json = null) {
    const { tor } = env;
    if (!tor?.streams) throw new Error("Cannot send cover: the box grants no streams through Tor");
    const request = checked(given);
    await using sink = request.sink ? undefined : await openSink(tor, request, session.signal);
    const target: Target = sink
      ? { onion: sink.address }
      : { sink: request.sink as { host: string; port: number } };
    const say = (answer: PosterAnswer) => session.send(JSON.stringify(answer));
    const lanes = Array.from(
      { length: request.circuits },
      (_, lane) => new Lane(tor, { lane, target, request, say, signal: session.signal }),
    );
    const reporting = setInterval(() => {
      // Nobody may be there to read it: it must not wait.
      if (session.attached) void say({ now: countsOf(lanes, sink) }).catch(() => undefined);
    }, REPORT_MS);
    try {
      await Promise.all(lanes.map((lane) => lane.run()));
      await sink?.settled();
    } finally {
      clearInterval(reporting);
    }
    await finish(session, countsOf(lanes, sink));
  },
});

async function finish(session: Session, done: PosterCounts): Promise<void> {
  await session.send(JSON.stringify({ done } satisfies PosterAnswer));
}

async function openSink(tor: Tor, request: PosterRequest, signal: AbortSignal): Promise<Sink> {
  if (!tor.onions)
    throw new Error("Cannot send cover: no sink was named, and the box grants no onion service");
  return Sink.open(tor.onions, request, signal);
}

function countsOf(lanes: readonly Lane[], sink: Sink | undefined): PosterCounts {
  const sum = (of: (lane: Lane) => number) => lanes.reduce((total, lane) => total + of(lane), 0);
  return {
    opened: sum((lane) => lane.opened),
    cellsSent: sum((lane) => lane.cellsSent),
    bytesReceived: sum((lane) => lane.bytesReceived),
    failed: sum((lane) => lane.failed),
    sinkCellsSent: sink?.cellsSent ?? 0,
    sinkBytesReceived: sink?.bytesReceived ?? 0,
  };
}

function checked(given: Json): PosterRequest {
  const request = (given ?? {}) as Partial<PosterRequest>;
  const { circuits, rate, cellBytes, durationMs, sink } = request;
  const isWithin = (value: unknown, min: number, max: number): value is number =>
    typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max;
  if (
    !isWithin(circuits, 1, PosterLimits.circuitsMax) ||
    !isWithin(rate, RATE_MIN, RATE_MAX) ||
    !isWithin(cellBytes, 1, 65_536) ||
    !isWithin(durationMs, 1, PosterLimits.durationMsMax) ||
    (sink !== undefined && (typeof sink?.host !== "string" || !isWithin(sink.port, 1, 65_535)))
  )
    throw new Error("Cannot send cover: the request is malformed");
  const wanted = { circuits, rate, cellBytes, durationMs };
  return sink ? { ...wanted, sink: { host: sink.host, port: sink.port } } : wanted;
}
