// The engine without a browser: reads documents and style sheets itself and runs nothing. One jar of cookies for all
// pages of the session.

import { CookieJar } from "./cookies.ts";
import type { Engine, PageRequest, Visit } from "./engine.ts";
import { HeldBytes } from "./held-bytes.ts";
import { BrowserLimits as Limits } from "./limits.ts";
import { USER_AGENT } from "./options.ts";
import { StaticVisit } from "./visit.ts";

export interface StaticEngineOptions {
  readonly fetch: typeof globalThis.fetch;
  readonly bytesMax: number;
  readonly scripts: boolean;
  readonly userAgent: string | undefined;
}

export class StaticEngine implements Engine {
  readonly #options: StaticEngineOptions;
  readonly #cookies = new CookieJar();

  constructor(options: StaticEngineOptions) {
    this.#options = options;
  }

  async load(request: PageRequest, { sink, signal }: Visit): Promise<void> {
    const { fetch, scripts, userAgent = USER_AGENT } = this.#options;
    let bytesLeft = this.#options.bytesMax;
    const context = {
      fetch,
      cookies: this.#cookies,
      held: new HeldBytes(Limits.heldBytesMax),
      userAgent,
      signal,
      takeTotal: (bytes: number) => {
        bytesLeft -= bytes;
        return bytesLeft >= 0;
      },
    };
    await new StaticVisit(context, request, scripts, sink).run();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing outlives a load but cookies, which go with the object.
  }
}
