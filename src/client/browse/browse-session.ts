// Pages through one browser function at a box: one instance, one jar of cookies, one digest after another (spec/browse).
// Whatever the caller does (stops looking, renders slowly, closes), answers are read to their end at the same pace, so
// that the link shows requests of four sizes and answers of K sizes and nothing else. The box is untrusted.

import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import type { Outcome } from "../../wire/api.ts";
import { type BrowseRequest, type BrowseSettings, encodeRequest, encodeSettings } from "../../wire/browse.ts";
import { bucketFor } from "../../wire/buckets.ts";
import type { PackageInput } from "../../wire/package.ts";
import type { BoxClient, Session, StoredFunction } from "../client.ts";
import type { PageLinks } from "../digest/links.ts";
import { PageThread } from "../digest/page-thread.ts";
import { type Page, type PageProgress, PageReceiver, type ReceiveOptions } from "../digest/receive-page.ts";
import { encodeForm, type Form, formUrl } from "./form.ts";

export interface BrowseSessionOptions {
  readonly client: BoxClient;
  /** The browser function, as loadBrowser gives it. */
  readonly package: PackageInput;
  readonly settings: BrowseSettings;
  readonly clock?: Clock | undefined;
}

export interface VisitRequest {
  readonly url: string;
  readonly method?: BrowseRequest["method"] | undefined;
  /** Sent as the query of a GET, or as the body of a POST. */
  readonly form?: Form | undefined;
  /** A form as a browser has encoded it already, for a POST. */
  readonly body?: BrowseRequest["body"] | undefined;
  /** The page whose link or form this is. */
  readonly referrer?: string | undefined;
  /** Pages that are still under way are no longer wanted. */
  readonly stop?: boolean | undefined;
}

export interface VisitOptions {
  readonly onProgress?: ((progress: VisitProgress) => void) | undefined;
  /** The page as a file, as soon as it can be shown: before its padding has come. */
  readonly onShowable?: ReceiveOptions["onShowable"];
  /** False: only the complete page is shown, and comes sooner. */
  readonly showsStyled?: boolean | undefined;
  /** Stops waiting. The answer is read to its end all the same. */
  readonly signal?: AbortSignal | undefined;
  /** Where links and forms of the written page lead; a self-contained file without. */
  readonly links?: PageLinks | undefined;
  /** No more pages after this one: says so in the same round trip. */
  readonly last?: boolean | undefined;
}

export interface VisitProgress extends PageProgress {
  /** Of this answer, padding and all. */
  readonly bytes: number;
  /** Shaped answers: the size at which it ends, as far as can be said now. */
  readonly size: number | undefined;
}

export interface Visited extends Page {
  /** Shaped answers: whether its size was one of those agreed on. Always true for others. */
  readonly isShaped: boolean;
}

interface Answer {
  readonly receiver: PageReceiver;
  readonly thread: PageThread;
  readonly done: PromiseWithResolvers<Visited>;
  readonly isLast: boolean;
  bytes: number;
}

/** One instance of the function, from its start to its end. */
interface Run {
  readonly session: Promise<Session>;
  isInputEnded: boolean;
}

/** How long the box has to remove the function in the end: milliseconds. */
const CLEAN_UP_MS = 10_000;

export class BrowseSession implements AsyncDisposable {
  readonly #options: BrowseSessionOptions;
  #run: Run | undefined;
  #lastEnd: Promise<Outcome> | undefined;
  #answers: Answer[] = [];
  #nextId = 1;
  /** The next visit's, started when nothing else is to be done: what it needs takes as long to load as a page to come. */
  #spareThread: PageThread | undefined = new PageThread();
  #isClosed = false;

  constructor(options: BrowseSessionOptions) {
    this.#options = options;
  }

  /** Answers that have not come to their end. */
  get pending(): number {
    return this.#answers.length;
  }

  /**
   * The page of `request`, once its answer has ended. The first visit starts the instance; so does one after the
   * instance has ended, with no cookies. Throws BoxError when the box refuses, BentoError "session-ended" when the instance
   * ended before this answer began, ProtocolError for an answer that is no digest, RangeError for a request that is too
   * long, the signal's reason.
   */
  async visit(request: VisitRequest, options: VisitOptions = {}): Promise<Visited> {
    options.signal?.throwIfAborted();
    const message = encodeRequest(this.#requestOf(request));
    const answer = this.#expect(options);
    try {
      await this.#send(message, options);
    } catch (error) {
      this.#answers = this.#answers.filter((one) => one !== answer);
      drop(answer);
      answer.done.reject(error);
    }
    return untilAborted(answer.done.promise, options.signal);
  }

  /** How the last instance ended; undefined when none was started. Waits for its end. */
  async outcome(): Promise<Outcome | undefined> {
    return this.#lastEnd;
  }

  /** Ends the session quietly: reads what is under way to its end; then the function is removed from the box. */
  async close(): Promise<void> {
    this.#dropSpare();
    const run = this.#run;
    const session = await run?.session.catch(() => undefined);
    if (run && session && !run.isInputEnded) {
      run.isInputEnded = true;
      await session.endInput().catch(() => undefined);
    }
    await this.#lastEnd?.catch(() => undefined);
  }

  /** Ends the session at once. An observer of the link sees that it was not read to its end. */
  async abandon(): Promise<void> {
    this.#dropSpare();
    const session = await this.#run?.session.catch(() => undefined);
    await session?.detach();
    await this.#lastEnd?.catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #dropSpare(): void {
    this.#isClosed = true;
    this.#spareThread?.[Symbol.dispose]();
    this.#spareThread = undefined;
  }

  #requestOf({ url, method = "GET", form, body, referrer, stop = false }: VisitRequest): BrowseRequest {
    const isPost = method === "POST";
    return {
      id: this.#nextId++,
      url: form && !isPost ? formUrl(url, form) : url,
      method,
      body: isPost ? (body ?? encodeForm(form ?? { fields: [] })) : undefined,
      referrer,
      stop,
    };
  }

  #expect(options: VisitOptions): Answer {
    const { onProgress, onShowable, showsStyled, links } = options;
    const clock = this.#options.clock ?? systemClock;
    const isAborted = () => options.signal?.aborted ?? false;
    const thread = this.#spareThread ?? new PageThread();
    this.#spareThread = undefined;
    const answer: Answer = {
      thread,
      done: Promise.withResolvers(),
      isLast: options.last ?? false,
      bytes: 0,
      receiver: new PageReceiver({
        clock,
        onDocument: (page) => {
          if (!isAborted()) thread.readAhead(page);
        },
        render: async (content) => (isAborted() ? new Uint8Array() : thread.render(content, links)),
        onShowable:
          onShowable &&
          ((html, stage, isPage) => {
            if (!isAborted()) onShowable(html, stage, isPage);
          }),
        showsStyled,
        onProgress:
          onProgress &&
          ((progress) => {
            if (!isAborted())
              onProgress({ ...progress, bytes: answer.bytes, size: this.#sizeOf(answer.bytes) });
          }),
      }),
    };
    answer.done.promise.catch(() => undefined);
    this.#answers.push(answer);
    return answer;
  }

  #sizeOf(bytes: number): number | undefined {
    const { shape } = this.#options.settings;
    return shape.kind === "bucket" ? bucketFor(shape.bytes, bytes) : undefined;
  }

  async #send(message: Uint8Array, { last = false }: VisitOptions): Promise<void> {
    const running = this.#run;
    if (running) {
      if (running.isInputEnded) {
        throw new BentoError("session-ended", "Cannot get page: the session was told that there are no more");
      }
      running.isInputEnded = last;
      const session = await running.session;
      await session.send(message);
      if (last) await session.endInput();
      return;
    }
    const run: Run = { session: this.#start(message, last), isInputEnded: last };
    this.#run = run;
    try {
      const session = await run.session;
      this.#lastEnd = this.#pump(session, run);
      this.#lastEnd.catch(() => undefined);
    } catch (error) {
      this.#run = undefined;
      throw error;
    }
  }

  async #start(message: Uint8Array, last: boolean): Promise<Session> {
    const { client, settings, package: pack } = this.#options;
    const argument = encodeSettings(settings, JSON.stringify(pack.manifest));
    return client.run(
      { package: pack },
      { args: [argument] },
      // No signal: what the caller gives up is still read to its end.
      { input: [message], endInput: last, steadyAcks: true },
    );
  }

  /** Reads all output there is, as it comes, whoever still waits for it; then removes the function. */
  async #pump(session: Session, run: Run): Promise<Outcome> {
    try {
      for await (const { bytes } of session.chunks()) await this.#take(bytes);
      const outcome = await session.ended;
      this.#ended(run, undefined);
      return outcome;
    } catch (error) {
      await session.detach();
      this.#ended(run, error);
      throw error;
    } finally {
      await this.#remove(session);
    }
  }

  async #take(bytes: Uint8Array): Promise<void> {
    // The end of a message may come by itself.
    if (bytes.length === 0) return;
    const [answer] = this.#answers;
    if (!answer) throw new ProtocolError("digest", "Cannot read digest: found output that was not asked for");
    answer.bytes += bytes.length;
    await answer.receiver.push(bytes);
    if (answer.receiver.isEnded) this.#finish(answer);
  }

  /** Not awaited by the pump: the page may still be written. */
  #finish(answer: Answer): void {
    this.#answers = this.#answers.filter((one) => one !== answer);
    const { shape } = this.#options.settings;
    const isShaped = shape.kind !== "bucket" || shape.bytes.includes(answer.bytes);
    const page = answer.receiver.finish();
    answer.done.resolve(page.then((done) => ({ ...done, isShaped })));
    const dispose = () => {
      drop(answer);
      const mayGoOn = !this.#isClosed && !answer.isLast && this.#answers.length === 0;
      if (mayGoOn) this.#spareThread ??= new PageThread();
    };
    page.then(dispose, dispose);
  }

  /** An answer that had begun is what came of it; the others will not come. */
  #ended(run: Run, error: unknown): void {
    if (this.#run === run) this.#run = undefined;
    const [first, ...others] = this.#answers;
    if (first && first.bytes > 0 && error === undefined) this.#finish(first);
    else if (first) others.unshift(first);
    this.#answers = [];
    const reason =
      error ??
      new BentoError("session-ended", "Cannot get page: the browser function at the box has ended", {
        advice: "Ask again: a new one will be started, without cookies.",
      });
    for (const answer of others) {
      drop(answer);
      answer.done.reject(reason);
    }
  }

  async #remove(session: Session): Promise<void> {
    const stored = session.stored as StoredFunction | undefined;
    if (!stored) return;
    try {
      await this.#options.client.shutdown(stored.shutdownToken, { signal: AbortSignal.timeout(CLEAN_UP_MS) });
    } catch {
      // The pages are here; what stays behind on the box expires there by itself.
    }
  }
}

function drop({ receiver, thread }: Answer): void {
  receiver[Symbol.dispose]();
  thread[Symbol.dispose]();
}

async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  const aborted = Promise.withResolvers<never>();
  const onAbort = () => {
    aborted.reject(signal.reason);
  };
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
