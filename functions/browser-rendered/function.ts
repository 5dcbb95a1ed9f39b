// Browser with a browser: the same requests, answers and shapes as functions/browser, with pages as they stand after
// their scripts. Needs the chromium image, which only some boxes offer (docs/spec/browse, docs/adr/0008-chromium.md).

import { type AnswerShape, defineFunction } from "bento/function";
import { type BrowseSettings, decodeSettings } from "../../src/wire/browse.ts";
import { browse, serve } from "../browser/browse.ts";
import { parseOptions } from "../browser/options.ts";
import { RenderedEngine } from "../browser/rendered/rendered-engine.ts";

export default defineFunction({
  /** A URL and options, for one page; or the settings of a session, whose requests come as messages. */
  async invoke(session, env, first, given) {
    const { chromium, fetch } = env;
    if (!fetch) throw new Error("Cannot browse: the box grants no connections");
    if (!chromium) throw new Error("Cannot browse: the box grants no browser");
    const around = {
      fetch,
      rendered: ({ bytesMax, userAgent }: BrowseSettings) =>
        new RenderedEngine({ chromium, bytesMax, userAgent }),
      send: (bytes: Uint8Array) => session.send(bytes),
      shape: (shape: AnswerShape) => session.shape(shape),
      signal: session.signal,
    };
    if (typeof first === "object" && first !== null) {
      await serve(
        session,
        decodeSettings(Array.isArray(first) ? first : { engine: "rendered", ...(first as object) }),
        around,
      );
    } else {
      const options = typeof given === "number" ? { pad: given } : given;
      const { request, settings } = parseOptions(first, options ?? {});
      await browse({ request, settings: { ...settings, engine: "rendered" } }, around);
    }
  },
});
