// The engine with a browser: Chromium loads the page and runs its scripts, then the document as it stands goes through the
// same visit as a page of the static engine, whose requests are answered from what the browser has already loaded. So
// one piece of code decides what belongs to a page, in which order it goes and what it may cost.

import type { Chromium, ChromiumProcess } from "bento/function";
import { CookieJar } from "../cookies.ts";
import type { Engine, PageRequest, Visit } from "../engine.ts";
import { FetchFailure, failureOf, failureRecord } from "../failure.ts";
import { HeldBytes } from "../held-bytes.ts";
import { BrowserLimits } from "../limits.ts";
import { StaticVisit } from "../visit.ts";
import { Cdp, CdpError, type CdpObject, textOf } from "./cdp.ts";
import { RenderedLimits as Limits } from "./limits.ts";
import { LoadedPage } from "./loaded-page.ts";
import { Tab } from "./tab.ts";

export interface RenderedEngineOptions {
  readonly chromium: Chromium;
  readonly bytesMax: number;
  /** Undefined: what most users of this browser have. */
  readonly userAgent: string | undefined;
}

interface RunningBrowser {
  readonly process: ChromiumProcess;
  readonly cdp: Cdp;
  readonly userAgent: CdpObject;
}

export class RenderedEngine implements Engine {
  readonly #options: RenderedEngineOptions;
  /** Cookies and what pages store are in the browser's memory, and end with it. */
  #browser: Promise<RunningBrowser> | undefined;

  constructor(options: RenderedEngineOptions) {
    this.#options = options;
    // At once: the first request is still on its way. Who loads learns what went wrong.
    this.#browser = launch(options);
    this.#browser.catch(() => undefined);
  }

  async load(request: PageRequest, visit: Visit): Promise<void> {
    const { cdp, userAgent } = await this.#running();
    const { sink, signal } = visit;
    // The answer ends soon after `signal`; what is there by then is still read out.
    const late = graceAfter(signal, Limits.captureMs);
    let tab: Tab | undefined;
    try {
      tab = await Tab.open(cdp, userAgent, signal);
      await tab.go(request, signal);
      await tab.settle(signal);
      const page = await LoadedPage.of(tab, late.signal);
      let bytesLeft = this.#options.bytesMax;
      const context = {
        fetch: page.fetch,
        cookies: new CookieJar(),
        held: new HeldBytes(BrowserLimits.heldBytesMax),
        userAgent: "",
        signal: late.signal,
        isPatient: true,
        takeTotal: (bytes: number) => {
          bytesLeft -= bytes;
          return bytesLeft >= 0;
        },
      };
      const whole = { ...request, method: "GET", body: undefined, referrer: undefined } as const;
      await new StaticVisit(context, whole, false, sink).run();
    } catch (error) {
      const { reason, message } = reasonOf(error, signal);
      await sink.record(failureRecord(request.url.href, reason, message));
    } finally {
      late.stop();
      await tab?.[Symbol.asyncDispose]();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const browser = this.#browser;
    this.#browser = undefined;
    await (await browser?.catch(() => undefined))?.process.close();
  }

  /** The browser, started again if a page has ended it: with its cookies gone. */
  async #running(): Promise<RunningBrowser> {
    const browser = await this.#browser?.catch(() => undefined);
    if (browser && !browser.cdp.ended.aborted) return browser;
    await browser?.process.close();
    this.#browser = launch(this.#options);
    this.#browser.catch(() => undefined);
    return await this.#browser;
  }
}

async function launch({ chromium, userAgent }: RenderedEngineOptions): Promise<RunningBrowser> {
  const process = await chromium.launch();
  const cdp = new Cdp(process);
  try {
    const signal = AbortSignal.timeout(Limits.launchMs);
    const version = textOf(await cdp.send("Browser.getVersion", {}, { signal }), "product") ?? "";
    await cdp.send("Browser.setDownloadBehavior", { behavior: "deny" }, { signal });
    return { process, cdp, userAgent: userAgentOf(userAgent, version) };
  } catch (cause) {
    await process.close();
    throw new FetchFailure("other", "the browser at the box does not start", { cause });
  }
}

/** `HeadlessChrome/156.0.8078.79`. Servers turn away what calls itself headless; on Windows most users are. */
function userAgentOf(userAgent: string | undefined, product: string): CdpObject {
  const major = /\/(\d{1,4})\./.exec(product)?.[1] ?? "140";
  if (userAgent !== undefined) return { userAgent, acceptLanguage: "en-US,en" };
  const brands = ["Chromium", "Google Chrome"].map((brand) => ({ brand, version: major }));
  return {
    userAgent: `Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/${major}.0.0.0 Safari/537.36`,
    acceptLanguage: "en-US,en",
    platform: "Win32",
    userAgentMetadata: {
      brands,
      platform: "Windows",
      platformVersion: "10.0.0",
      architecture: "x86",
      model: "",
      mobile: false,
    },
  };
}

/** Aborts `ms` after `signal` does, for the same reason. */
function graceAfter(signal: AbortSignal, ms: number): { readonly signal: AbortSignal; stop(): void } {
  const late = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const begin = () => {
    timer = setTimeout(() => {
      late.abort(signal.reason);
    }, ms);
  };
  if (signal.aborted) begin();
  else signal.addEventListener("abort", begin, { once: true });
  return {
    signal: late.signal,
    stop() {
      clearTimeout(timer);
      signal.removeEventListener("abort", begin);
    },
  };
}

function reasonOf(error: unknown, signal: AbortSignal): FetchFailure {
  if (signal.aborted && !(error instanceof FetchFailure)) return failureOf(signal.reason);
  if (error instanceof CdpError) return new FetchFailure("other", error.message, { cause: error });
  return failureOf(error);
}
