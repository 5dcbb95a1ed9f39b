// The local page's visits through one browser session at a box: one instance, one jar of cookies, one answer after another.

import type { BrowseSession } from "../browse/browse-session.ts";
import { type LinkTo, linksOf } from "./local-page-server.ts";
import type { Visitor } from "./visits.ts";

export function pageVisitor(session: BrowseSession, linkTo: LinkTo): Visitor {
  return {
    visit: ({ url, method, body, referrer }, options) =>
      session.visit(
        { url, method, body, referrer, stop: session.pending > 0 },
        { ...options, links: linksOf(linkTo, url) },
      ),
  };
}
