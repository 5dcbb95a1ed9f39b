// What strangers' web pages hold, and the digest in which a box sends them: read by the Browser function inside its
// sandbox and by the client that writes the page.

import { brotliCompressSync } from "node:zlib";
import { concat } from "../../src/base/bytes.ts";
import { DigestReader } from "../../src/client/digest/digest-reader.ts";
import { writePage } from "../../src/client/digest/page-writer.ts";
import {
  BROWSE_DEFAULTS,
  decodeRequest,
  decodeSettings,
  encodeRequest,
  encodeSettings,
} from "../../src/wire/browse.ts";
import {
  type ContentRecord,
  DIGEST_MAGIC,
  encodeContentFrames,
  RecordDecoder,
  RecordEncoder,
} from "../../src/wire/digest.ts";
import { rewriteCss, scanCss } from "../../src/wire/page/css.ts";
import { parseDataUrl } from "../../src/wire/page/data-url.ts";
import { chooseCandidate, evaluateSizes, matchesMedia, parseSrcset } from "../../src/wire/page/srcset.ts";
import {
  decodeCss,
  decodeHtml,
  essenceOf,
  isHtml,
  resolveUrl,
  sniffFont,
  sniffImage,
} from "../../src/wire/page/text.ts";
import { fuzz, jsonOf, textOf } from "./fuzz.ts";

const css = [
  "@import url('a.css') screen; @charset 'utf-8'; p { background: url(b.png) }",
  '@font-face { src: url("f.woff2") format("woff2"), local(x) } @media (min-width: 10px) { a::after { content: "\\201c" } }',
  "/* comment */ a{color:red;;} @layer x { @import 'y'; } .a\\{b{}",
  "background-image: image-set(url(a.png) 1x, 'b.png' 2x)",
];
const html = [
  '<!DOCTYPE html><html><head><meta charset=latin1><base href="/x/"><link rel=stylesheet href=a.css></head><body><img src=b.png srcset="c.png 2x"><p style="background:url(d.png)">text</body></html>',
  "<svg><style>a{b:url(x)}</style><use href='s.svg#a'/></svg><math><mi xlink:href=javascript:1></math>",
  "<template><script>1</script></template><noscript><img src=x></noscript><iframe srcdoc='<p>'></iframe>",
  "<table><form><select><option><p></table><!-- --><plaintext>",
  "<a href=javascript:alert(1) onclick=x>l</a><meta http-equiv=refresh content='0;url=//e'><object data=x>",
];
const record = (kind: "page" | "resource", url: string, type: string, body: string): ContentRecord => ({
  kind,
  url,
  finalUrl: url,
  status: 200,
  type,
  body: Buffer.from(body),
});
const encoder = new RecordEncoder();
const records = concat([
  ...encoder.encode(record("page", "http://a.test/", "text/html", html[0] ?? "")),
  ...encoder.encode({ kind: "styled", resources: 3 }),
  ...encoder.encode(record("resource", "http://a.test/a.css", "text/css", css[0] ?? "")),
  ...encoder.encode({ kind: "failure", url: "http://a.test/b.png", reason: "timeout", detail: "" }),
  encoder.end(),
]);
const digest = concat([DIGEST_MAGIC, ...encodeContentFrames(brotliCompressSync(records))]);
const request = encodeRequest({
  id: 1,
  url: "http://a.test/",
  method: "POST",
  body: { type: "text/plain", bytes: Uint8Array.of(1, 2, 3) },
  referrer: "http://b.test/",
  stop: true,
});
const settings = {
  ...BROWSE_DEFAULTS,
  shape: { kind: "bucket", bytes: [4096, 8192], rate: 65_536 },
} as const;

fuzz([
  {
    name: "CSS",
    seeds: css,
    words: ["url(", "@import ", "@media ", "{", "}", "\\", "/*", "*/", '"', "'", "<!--", "</style", "calc(("],
    parse: (bytes) => {
      const text = textOf(bytes);
      const inline = text.length % 2 === 0;
      const scan = scanCss(text, { inline });
      rewriteCss(text, scan, () => "url(data:,)");
    },
  },
  {
    name: "srcset, sizes and media",
    seeds: [
      "a.png 1x, b.png 2x",
      "a 100w,b 200w 50h",
      "(min-width: 600px) 50vw, 100vw",
      "screen and (max-width: 30em), print",
      "calc(100vw - (2 * 3px))",
    ],
    words: [",", " 1x", "100w", "(", ")", "vw", "calc(", "not all and "],
    parse: (bytes) => {
      const text = textOf(bytes);
      chooseCandidate(parseSrcset(text), text);
      evaluateSizes(text);
      matchesMedia(text);
    },
  },
  {
    name: "types, encodings and URLs",
    seeds: [
      "data:text/css;charset=utf-8;base64,YQ==",
      "data:,x%2",
      'text/html; charset="shift_jis"',
      "<meta charset=utf-16le>",
      '\ufeff@charset "latin1";',
      "http://[::1%25]/",
      'GIF89a\x89PNG\r\n\x1a\n<svg xmlns="http://www.w3.org/2000/svg">',
      "wOF2OTTO\0\x01\0\0",
    ],
    words: ["charset=", ";base64,", "%", "\x89PNG\r\n\x1a\n", "RIFF....WEBP", "<svg"],
    parse: (bytes) => {
      const text = textOf(bytes);
      parseDataUrl(text);
      decodeHtml(bytes, text);
      decodeCss(bytes, text);
      essenceOf(text);
      isHtml(text, bytes);
      resolveUrl(text, "http://a.test/");
      sniffImage(bytes);
      sniffFont(bytes);
    },
  },
  {
    name: "RecordDecoder",
    seeds: [records],
    parse: (_, chunks) => {
      const decoder = new RecordDecoder(1 << 20);
      for (const chunk of chunks) decoder.push(chunk);
    },
  },
  {
    name: "decodeRequest",
    seeds: [request],
    parse: (bytes) => {
      decodeRequest(bytes);
      // At the only lengths that are looked into.
      const whole = new Uint8Array(2048);
      whole.set(bytes.subarray(0, 2048));
      decodeRequest(whole);
    },
  },
  {
    name: "decodeSettings",
    seeds: [JSON.stringify(encodeSettings(settings))],
    parse: (bytes) => {
      decodeSettings(jsonOf(bytes));
    },
  },
  {
    name: "DigestReader",
    seeds: [digest, concat([digest, new Uint8Array(100)])],
    parse: async (_, chunks) => {
      using reader = new DigestReader(1 << 20);
      for (const chunk of chunks) await reader.push(chunk);
      await reader.end();
    },
  },
  {
    name: "writePage",
    seeds: [...html, ...css.map((text) => `<style>${text}</style>`)],
    words: [
      "<svg>",
      "<math>",
      "<template>",
      "<table>",
      "</p>",
      "<!--",
      "-->",
      "<style>",
      "<noscript>",
      "<plaintext>",
      " onload=",
      "srcdoc=",
      "<b><i>",
    ],
    parse: (bytes) => {
      const body = textOf(bytes);
      const page = record("page", "http://a.test/", "text/html", body);
      const sheet = record("resource", "http://a.test/a.css", "text/css", body);
      writePage({ page, resources: new Map([[sheet.url, sheet]]), failures: [], receivedAtMs: 0 });
    },
  },
]);
