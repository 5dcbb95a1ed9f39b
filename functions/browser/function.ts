// Browser: fetches web pages with everything they need, at the box, and sends them back so that an observer of the
// client's link sees answers of a few sizes and durations, the same for every page (docs/spec/browse).

import { type AnswerShape, defineFunction } from "bento/function";
import { decodeSettings } from "../../src/wire/browse.ts";
import { browse, serve } from "./browse.ts";
import { parseOptions } from "./options.ts";
import { rehearse } from "./rehearsal.ts";

export default defineFunction({
  prepare: rehearse,
  /** A URL and options, for one page; or the settings of a session, whose requests come as messages. */
  async invoke(session, env, first, given) {
    if (!env.fetch) throw new Error("Cannot browse: the box grants no connections");
    const around = {
      fetch: env.fetch,
      send: (bytes: Uint8Array) => session.send(bytes),
      shape: (shape: AnswerShape) => session.shape(shape),
      signal: session.signal,
    };
    if (typeof first === "object" && first !== null) await serve(session, decodeSettings(first), around);
    else await browse(parseOptions(first, given ?? {}), around);
  },
});
