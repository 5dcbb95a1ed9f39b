// Browser apart from where it runs: the sandbox gives it the box's `fetch` and the session, tests give it their own.
// `browse` answers one request from the arguments, `serve` those that come as messages until the client ends its input.

import type { AnswerShape, Answers } from "bento/function";
import { Changes } from "../../src/base/changes.ts";
import {
  BrowseLimits,
  type BrowseRequest,
  type BrowseSettings,
  decodeRequest,
} from "../../src/wire/browse.ts";
import type { PaceClock } from "../../src/wire/pace.ts";
import { answer } from "./answer.ts";
import type { Engine, PageRequest } from "./engine.ts";
import { FetchFailure, failureOf } from "./failure.ts";
import type { BrowseOptions } from "./options.ts";
import type { Send } from "./output.ts";
import { StaticEngine } from "./static-engine.ts";

export interface Surroundings {
  readonly fetch: typeof globalThis.fetch;
  readonly send: Send;
  /** Where the box sends answers of a few sizes. */
  readonly shape?: (shape: AnswerShape) => Promise<Answers>;
  readonly signal: AbortSignal;
  readonly clock?: PaceClock;
  /** Where the function has a browser: the engine that drives it. */
  readonly rendered?: (settings: BrowseSettings) => Engine;
}

export function openEngine(
  settings: BrowseSettings,
  around: Pick<Surroundings, "fetch" | "rendered">,
): Engine {
  if (settings.engine === "static") return new StaticEngine({ ...settings, fetch: around.fetch });
  if (around.rendered) return around.rendered(settings);
  throw new Error("Cannot browse: this box runs no browser for functions; ask for the static engine");
}

/** Before anything else: from then on, nothing that happens here changes when something leaves. */
async function answersOf(
  { shape }: BrowseSettings,
  begins: AnswerShape["begins"],
  around: Surroundings,
): Promise<Answers | undefined> {
  if (shape.kind !== "bucket") return undefined;
  return await around.shape?.({ bytes: shape.bytes, rate: shape.rate, begins });
}

/** Fetches and sends. A page that cannot be had is a digest, too: padded like any other. */
export async function browse({ request, settings }: BrowseOptions, around: Surroundings): Promise<void> {
  const answers = await answersOf(settings, "now", around);
  await using engine = openEngine(settings, around);
  await answer({
    ...around,
    settings,
    answers,
    url: request.url.href,
    load: (visit) => engine.load(request, visit),
  });
}

/** A request that waits for its turn. */
interface Waiting {
  readonly request: BrowseRequest | { readonly failure: FetchFailure };
  readonly stop: AbortController;
}

/** Answers each message with one digest, in order, until `messages` ends. */
export async function serve(
  messages: AsyncIterable<Uint8Array>,
  settings: BrowseSettings,
  around: Surroundings,
): Promise<void> {
  const answers = await answersOf(settings, "input", around);
  await using engine = openEngine(settings, around);
  const queue = new RequestQueue();
  const reading = queue.fill(messages);
  for (let next = await queue.next(); next; next = await queue.next()) {
    const { request, stop } = next;
    const url = "url" in request ? request.url : "";
    await answer({
      ...around,
      settings,
      answers,
      url,
      stop: stop.signal,
      load: async (visit) => {
        if ("failure" in request) throw request.failure;
        if (stop.signal.aborted) throw failureOf(stop.signal.reason);
        await engine.load(pageRequest(request), visit);
      },
    });
    queue.done(next);
  }
  await reading;
}

function pageRequest({ url, method, body, referrer }: BrowseRequest): PageRequest {
  const parsed = new URL(url);
  parsed.hash = "";
  return {
    url: parsed,
    method,
    body,
    referrer: referrer === undefined ? undefined : (URL.parse(referrer) ?? undefined),
  };
}

/** Requests between their arrival and their answer. When too many wait, it reads no more. */
class RequestQueue {
  #waiting: Waiting[] = [];
  #current: Waiting | undefined;
  #isEnded = false;
  readonly #changes = new Changes();

  async fill(messages: AsyncIterable<Uint8Array>): Promise<void> {
    try {
      for await (const message of messages) {
        const request = parse(message);
        if ("stop" in request && request.stop) this.#stopEarlier();
        this.#waiting.push({ request, stop: new AbortController() });
        this.#changes.notify();
        while (this.#waiting.length >= BrowseLimits.requestsWaitingMax) await this.#changes.next;
      }
    } finally {
      this.#isEnded = true;
      this.#changes.notify();
    }
  }

  async next(): Promise<Waiting | undefined> {
    while (this.#waiting.length === 0 && !this.#isEnded) await this.#changes.next;
    this.#current = this.#waiting.shift();
    this.#changes.notify();
    return this.#current;
  }

  done(one: Waiting): void {
    if (this.#current === one) this.#current = undefined;
  }

  #stopEarlier(): void {
    for (const one of [this.#current, ...this.#waiting]) {
      one?.stop.abort(new FetchFailure("stopped", "the client asked for another page"));
    }
  }
}

function parse(message: Uint8Array): Waiting["request"] {
  try {
    return decodeRequest(message);
  } catch (error) {
    return { failure: new FetchFailure("other", error instanceof Error ? error.message : "not a request") };
  }
}
