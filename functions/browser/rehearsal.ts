// A page that never was, from request to last byte: what an instance does ahead of need, so that whoever comes first does not
// wait until the runtime has read and compiled the parsers and started the compressor. Leaves nothing behind.

import { BROWSE_DEFAULTS, decodeSettings, encodeRequest, encodeSettings } from "../../src/wire/browse.ts";
import { serve } from "./browse.ts";

const PAGE = "http://page.invalid/";
const FILES: Readonly<Record<string, readonly [type: string, text: string]>> = {
  [PAGE]: [
    "text/html; charset=utf-8",
    `<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>A page &amp; its parts</title>
<link rel=stylesheet href=style.css><style>p{background:url("picture.png")}</style><script>1 < 2</script></head>
<body><h1>Words</h1><!-- note --><p class="a b">Text &mdash; and <a href="/next?a=1#b">more</a><br>
<img src=picture.png srcset="picture.png 1x, picture.png 2x" alt=""><table><tr><td>1<td>2</table>
<form action=send method=post><input name=q><select><option>1</select></form><svg><path d="M0 0"/></svg></body></html>`,
  ],
  [`${PAGE}style.css`]: [
    "text/css",
    `@import "more.css"; @media screen { .a > b:not(.c)::before { content: "x"; background: url(picture.png) } }
@font-face { font-family: f; src: url(font.woff2) format("woff2"); unicode-range: U+0-FF }`,
  ],
  [`${PAGE}more.css`]: ["text/css", "p { color: #123; margin: 0 auto }"],
  [`${PAGE}font.woff2`]: ["font/woff2", "font"],
  [`${PAGE}picture.png`]: ["image/png", "picture"],
};

/** Times: what has run a few times is compiled better. More brings little. */
const ROUNDS = 4;

export async function rehearse(): Promise<void> {
  for (let round = 0; round < ROUNDS; round++) await loadOnce();
}

/** Throws when not all of the page was asked for: then it was for nothing, and the box's operator is told. */
async function loadOnce(): Promise<void> {
  const settings = decodeSettings(encodeSettings({ ...BROWSE_DEFAULTS, shape: { kind: "none", pad: 0 } }));
  const request = {
    id: 1,
    url: PAGE,
    method: "GET",
    body: undefined,
    referrer: undefined,
    stop: false,
  } as const;
  const left = new Map(Object.entries(FILES));
  await serve(only(encodeRequest(request)), settings, {
    fetch: async (url) => {
      const [type, text] = (typeof url === "string" ? left.get(url) : undefined) ?? ["text/plain", ""];
      if (typeof url === "string") left.delete(url);
      return new Response(bodyOf(text), { headers: { "content-type": type } });
    },
    send: async () => undefined,
    signal: new AbortController().signal,
  });
  if (left.size > 0) throw new Error(`Cannot prepare: ${left.size} parts of a page were not fetched`);
}

/** As the network gives it, which a Response made of text does not. */
function bodyOf(text: string): ReadableStream<Uint8Array> {
  return new ReadableStream({
    type: "bytes",
    start(controller) {
      controller.enqueue(new TextEncoder().encode(text));
      controller.close();
    },
  });
}

async function* only(message: Uint8Array): AsyncGenerator<Uint8Array> {
  yield message;
}
