// Browser: fetches a web page with everything it needs, at the box, and sends it back as one padded stream, so that
// an observer of the client's link sees one request and one answer of a common size (docs/spec/digest).

import { defineFunction } from "bento/function";
import { browse } from "./browse.ts";
import { parseOptions } from "./options.ts";

export default defineFunction({
  /** `url`, then the padding in bytes or `{pad, deadlineMs, bytesMax, scripts, userAgent}`. */
  async invoke(session, env, url, given) {
    const options = parseOptions(url, given ?? {});
    if (!env.fetch) throw new Error("Cannot browse: the box grants no connections");
    await browse(options, env.fetch, (bytes) => session.send(bytes), session.signal);
  },
});
