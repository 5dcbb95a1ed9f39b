// Fetches a page at the box, and sends a few lines about it in place of the page.

import { defineFunction } from "bento/function";

const PAGE_BYTES_MAX = 2 * 2 ** 20;

export default defineFunction({
  async invoke(session, env, url) {
    if (!env.fetch) throw new Error("no connections were granted");
    if (typeof url !== "string") throw new TypeError("wanted a URL as argument");
    const response = await env.fetch(url, { signal: session.signal });
    const page = await textOf(response);
    const words = page
      .replaceAll(/<(script|style)\b[\s\S]*?<\/\1\s*>/gi, " ")
      .replaceAll(/<[^>]*>/g, " ")
      .split(/\s+/)
      .filter((word) => word !== "");
    const title = /<title[^>]*>([\s\S]*?)<\/title>/i.exec(page)?.[1]?.trim() ?? "(none)";
    const links = new Set(page.match(/(?<=<a\b[^>]*\bhref=["'])[^"']+/gi));
    env.log.info(`status ${response.status}, ${page.length} characters`);
    await session.send(`title: ${title}\nwords: ${words.length}\nlinks: ${links.size}\n`);
  },
});

/** A page decides how long it is: not more than this is kept. */
async function textOf(response: Response): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  let bytes = 0;
  for await (const part of response.body ?? []) {
    bytes += part.length;
    text += decoder.decode(part, { stream: true });
    if (bytes > PAGE_BYTES_MAX) break;
  }
  return text;
}
