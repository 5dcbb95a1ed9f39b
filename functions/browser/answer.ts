// One answer from request to last byte: the engine loads, the writer compresses, the output sends. However loading goes
// (error, silence, a page without end), the answer ends as its shape says.

import type { Answers } from "bento/function";
import type { BrowseSettings } from "../../src/wire/browse.ts";
import type { PaceClock } from "../../src/wire/pace.ts";
import { pacingClock } from "../../src/wire/pacing-clock.ts";
import { Breather } from "./breather.ts";
import { DigestWriter } from "./digest-writer.ts";
import type { PageRecord, RecordSink, Visit } from "./engine.ts";
import { FetchFailure, failureOf, failureRecord } from "./failure.ts";
import { BrowserLimits as Limits } from "./limits.ts";
import { type Output, PlainOutput, type Send, ShapedOutput } from "./output.ts";

export interface AnswerOptions {
  readonly settings: BrowseSettings;
  /** For the failure that says that loading broke off. */
  readonly url: string;
  readonly load: (visit: Visit) => Promise<void>;
  readonly send: Send;
  /** Of a shape with sizes: the answers that the box sends. */
  readonly answers?: Answers | undefined;
  /** The instance must stop. */
  readonly signal: AbortSignal;
  /** The client no longer wants the page. */
  readonly stop?: AbortSignal;
  readonly clock?: PaceClock;
}

/** Share of a shaped answer's longest time that is kept for sending what was fetched last, beside the output's own reserve. */
const LAST_SHARE = 1 / 16;

export async function answer(options: AnswerOptions): Promise<void> {
  const { settings, url, load, signal, clock = pacingClock } = options;
  const { shape, deadlineMs } = settings;
  let output: Output;
  let longestMs = Number.POSITIVE_INFINITY;
  if (shape.kind === "bucket") {
    if (!options.answers) throw new Error("Cannot browse: the box shapes no answers");
    const shaped = new ShapedOutput(shape, options.send, options.answers);
    // Its first cells have left: what came before it may have kept this function busy.
    longestMs = (await shaped.leftMs()) - (LAST_SHARE * 1000 * (shape.bytes.at(-1) ?? 0)) / shape.rate;
    output = shaped;
  } else {
    output = new PlainOutput(options.send, shape.pad);
  }
  const sink = new WaitingSink(new DigestWriter(output), clock);
  const ending = new AbortController();
  const stopTimer = startDeadline(deadlineMs, longestMs, sink, clock, ending);
  try {
    const all = [signal, ending.signal, ...(options.stop ? [options.stop] : [])];
    const loading = load({ sink, signal: AbortSignal.any(all) });
    loading.catch(() => undefined);
    await Promise.race([loaded(loading, sink, url), output.ended]);
    ending.abort(new FetchFailure("deadline", "the answer has ended"));
    // After the last cell of all, what still comes is dropped; the engine must be free for the next page.
    await settled(loading, clock);
    await sink.writer.end();
  } finally {
    stopTimer();
    ending.abort();
  }
}

/** The engine's promise, kept: whatever it throws becomes a record, unless it was thrown by the sink. */
async function loaded(loading: Promise<void>, sink: WaitingSink, url: string): Promise<void> {
  try {
    await loading;
  } catch (error) {
    if (sink.failed) throw error;
    const { reason, message } = failureOf(error);
    await sink.record(failureRecord(url, reason === "network" ? "other" : reason, message));
  }
}

async function settled(loading: Promise<void>, clock: PaceClock): Promise<void> {
  const timeout = new AbortController();
  const late = clock.sleep(Limits.engineStopMs, timeout.signal).then(() => {
    throw new Error("Cannot browse: the page does not stop loading");
  });
  late.catch(() => undefined);
  try {
    await Promise.race([loading.catch(() => undefined), late]);
  } finally {
    timeout.abort();
  }
}

/** The writer, with a record of how long it kept the engine waiting. */
class WaitingSink implements RecordSink {
  readonly writer: DigestWriter;
  readonly #clock: PaceClock;
  /** Records for which there is no room cost no time at all: an engine with many must not keep cells from leaving. */
  readonly #breather = new Breather();
  #waitedMs = 0;
  #sinceMs: number | undefined;
  failed = false;

  constructor(writer: DigestWriter, clock: PaceClock) {
    this.writer = writer;
    this.#clock = clock;
  }

  /** Time spent waiting for the client: no fault of the page. */
  get waitedMs(): number {
    return this.#waitedMs + (this.#sinceMs === undefined ? 0 : this.#clock.now() - this.#sinceMs);
  }

  async record(record: PageRecord): Promise<void> {
    await this.#wait(this.writer.record(record));
    await this.#breather.breathe();
  }

  async flush(): Promise<void> {
    await this.#wait(this.writer.flush());
  }

  async #wait(writing: Promise<void>): Promise<void> {
    this.#sinceMs = this.#clock.now();
    try {
      await writing;
    } catch (error) {
      this.failed = true;
      throw error;
    } finally {
      this.#waitedMs = this.waitedMs;
      this.#sinceMs = undefined;
    }
  }
}

/** Ends fetching after `deadlineMs` without the time that the client took, and after `longestMs` in any case. */
function startDeadline(
  deadlineMs: number,
  longestMs: number,
  sink: WaitingSink,
  clock: PaceClock,
  ending: AbortController,
): () => void {
  const startMs = clock.now();
  let timer: ReturnType<typeof setTimeout>;
  const check = () => {
    const tookMs = clock.now() - startMs;
    const leftMs = Math.min(deadlineMs - (tookMs - sink.waitedMs), longestMs - tookMs);
    if (leftMs > 0) timer = setTimeout(check, Math.max(leftMs, 10));
    else ending.abort(new FetchFailure("deadline", `not there after ${Math.round(tookMs)} ms`));
  };
  check();
  return () => {
    clearTimeout(timer);
  };
}
