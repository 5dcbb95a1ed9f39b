import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { html as htmlNames, parse, type DefaultTreeAdapterTypes as Tree } from "parse5";
import { HOSTILE_PAGES } from "../../../test/sites/hostile.ts";
import type { ContentRecord, FailureRecord } from "../../wire/digest.ts";
import { writePage } from "./page-writer.ts";

const PNG = Uint8Array.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 1]);
const PNG_URL = "data:image/png;base64,iVBORw0KGgoB";

function record(url: string, type: string, body: string | Uint8Array): ContentRecord {
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
  return { kind: "resource", url, finalUrl: url, status: 200, type, body: bytes };
}

function write(
  html: string,
  parts: readonly ContentRecord[] = [],
  failures: readonly FailureRecord[] = [],
): string {
  const page = { ...record("http://a.test/dir/", "text/html; charset=utf-8", html), kind: "page" as const };
  const resources = new Map(parts.map((one) => [one.url, one]));
  return new TextDecoder().decode(writePage({ page, resources, failures, receivedAtMs: 0 }));
}

/** Whatever in `html` would run or make a browser ask the network. Written apart from the sanitizer, by what browsers do. */
function findings(page: string): string[] {
  const found: string[] = [];
  for (const scriptingEnabled of [true, false]) {
    const stack: Tree.Node[] = [parse(page, { scriptingEnabled })];
    for (let node = stack.pop(); node; node = stack.pop()) {
      if ("childNodes" in node) stack.push(...node.childNodes);
      if ("content" in node) stack.push(node.content);
      if ("tagName" in node) found.push(...findingsOf(node));
    }
  }
  return found;
}

function findingsOf(element: Tree.Element): string[] {
  const found: string[] = [];
  const { tagName } = element;
  const isHtml = element.namespaceURI === htmlNames.NS.HTML;
  // In MathML these names mean nothing.
  const active = isHtml
    ? /^(script|base|iframe|frame|object|embed|applet|portal|noscript)$/
    : /^(script|foreignObject)$/;
  if (active.test(tagName)) found.push(tagName);
  const attributes = new Map(
    element.attrs.map((one) => [`${one.prefix ? `${one.prefix}:` : ""}${one.name}`, one.value]),
  );
  if (tagName === "link" && !(attributes.get("rel") === "icon" && attributes.get("href") === "data:,"))
    found.push("link");
  const pragma = attributes.get("http-equiv");
  if (tagName === "meta" && pragma !== undefined && pragma !== "Content-Security-Policy")
    found.push(`meta ${pragma}`);
  const isLink = tagName === "a" || tagName === "area";
  for (const [name, value] of attributes) {
    if (/^on/i.test(name)) found.push(name);
    const mayLoad =
      /^(src|srcset|href|xlink:href|poster|background|data|action|formaction|ping|manifest|srcdoc|imagesrcset|attributionsrc|lowsrc|dynsrc|longdesc)$/i;
    if (!mayLoad.test(name)) {
      if (name !== "title" && name !== "content" && hasLoadingCss(value)) found.push(`${name}=${value}`);
    } else if (isLink && name === "href") {
      if (!/^(https?:|mailto:|tel:|#)/.test(value)) found.push(`link to ${value}`);
    } else if (!/^(data:|#)/.test(value) || /^data:(?!image\/|,)/.test(value)) found.push(`${name}=${value}`);
    if (name === "srcset" && /(^|,)\s*(?!data:)[^\s,]+\s/.test(value.replace(/data:\S+/g, "data:")))
      found.push(`srcset ${value}`);
  }
  const text = element.childNodes.map((one) => ("value" in one ? one.value : "")).join("");
  if (tagName === "style" && hasLoadingCss(text)) found.push(`style ${text}`);
  return found;
}

/** From left to right over comments and strings, which load nothing, to functions that load. */
function hasLoadingCss(css: string): boolean {
  const plain = css.replace(/\\0{0,4}([46-7][0-9a-f])\s?/gi, (_all, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
  const token =
    /\/\*[^]*?(?:\*\/|$)|"(?:\\[^]|[^"\\\n])*(?:"|$|(?=\n))|'(?:\\[^]|[^'\\\n])*(?:'|$|(?=\n))|(?<rule>(?<=(?:^|[;}]|\*\/)\s*)@import)|(?:url|src|image-set|image)\(\s*(?<argument>["']?[^)]*)/gi;
  return [...plain.matchAll(token)].some((match) => {
    if (match.groups?.["rule"] !== undefined) return true;
    const argument = match.groups?.["argument"];
    return argument !== undefined && argument !== "" && !/^(["']?\s*(data:|#)|url\("data:)/i.test(argument);
  });
}

test("findings: sees what it is there to see", () => {
  for (const bad of [
    "<script>1</script>",
    "<p onclick=x>",
    "<img src=http://e/>",
    "<p style='background:url(http://e/)'>",
    "<style>@import 'x'</style>",
    "<style>a{b:u\\72l(http://e)}</style>",
    "<link rel=dns-prefetch href=//e>",
    "<a href=javascript:1>",
    "<svg><image xlink:href=http://e/ /></svg>",
    "<img srcset='data:image/png,x 1x, http://e/ 2x'>",
  ]) {
    assert.notDeepEqual(findings(bad), [], bad);
  }
});

for (const [name, html] of Object.entries(HOSTILE_PAGES)) {
  test(`writePage: leaves nothing that runs or loads of "${name}"`, () => {
    assert.deepEqual(findings(write(html)), []);
  });
}

test("writePage: leaves nothing that runs or loads, for any soup of tags", () => {
  // One a line.
  const words = `<svg>
</svg>
<math>
</math>
<mtext>
<mglyph>
<style>
</style>
<title>
</title>
<textarea>
</textarea>
<noscript>
</noscript>
<table>
<td>
<tr>
</table>
<form>
</form>
<select>
</select>
<option>
<p>
</p>
<a href=http://e/1>
</a>
<b x=1>
</b>
<template>
<template shadowrootmode=open>
</template>
<xmp>
</xmp>
<plaintext>
<iframe>
</iframe>
<noembed>
</noembed>
<frameset>
<frame src=http://e/2>
<body>
<html>
<head>
</head>
<desc>
</desc>
<foreignObject>
</foreignObject>
<annotation-xml encoding=text/html>
</annotation-xml>
<img src=http://e/3 onerror=ran=1>
<script>
</script>
<!--
-->
<![CDATA[
]]>
<link rel=stylesheet href=http://e/4>
<link rel=preconnect href=http://e/5>
<object data=http://e/6>
</object>
<picture>
<source srcset=http://e/7>
</picture>
&lt;img&#32;src=http://e/8&gt;
@import'http://e/9';
a{b:url(http://e/10)}
"
'
>
<
<br>
<pre>
<image href=http://e/11>
<use href=http://e/12#a>
<set attributeName=href to=javascript:1>
<input type=image src=http://e/13>
<video poster=http://e/14>
</video>
<p style=a:url(http://e/15)>
<meta http-equiv=refresh content=0;url=http://e/16>
<base href=http://e/17>
text`;
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...words.split("\n")), { maxLength: 30 }), (tags) => {
      const html = tags.join("");
      assert.deepEqual(findings(write(html)), [], html);
    }),
    { numRuns: 1500 },
  );
});

test("writePage: puts pictures, style sheets and imports in place", () => {
  const written = write(
    `<link rel=stylesheet href=a.css media="(min-width: 1px)"><img src="p.png#x"><p style="background:url(p.png)">`,
    [
      record(
        "http://a.test/dir/a.css",
        "text/css",
        `@import "sub/b.css" layer(l) supports(display:grid) print; a{b:url(p.png)}`,
      ),
      record("http://a.test/dir/sub/b.css", "text/css", `c{d:url(../p.png)`),
      record("http://a.test/dir/p.png", "image/png", PNG),
    ],
  );
  assert.match(
    written,
    /<style media="\(min-width: 1px\)">@media print \{\s*@supports \(display:grid\) \{\s*@layer l \{/,
  );
  assert.equal(written.split(PNG_URL).length - 1, 4);
  assert.deepEqual(findings(written), []);
});

test("writePage: makes links absolute and keeps those within the page", () => {
  const written = write(
    `<a href="../x?y#z">1</a><a href="#here">2</a><a href="javascript:x()">3</a><a href=mailto:m@a>4</a><a href=file:///etc>5</a>`,
  );
  assert.match(written, /<a href="http:\/\/a.test\/x\?y#z" rel="noreferrer noopener">1/);
  assert.match(written, /<a href="#here" rel="noreferrer noopener">2/);
  assert.match(written, /<a href="#" rel="noreferrer noopener">3/);
  assert.match(written, /<a href="mailto:m@a" rel="noreferrer noopener">4/);
  assert.match(written, /<a>5/);
});

test("writePage: takes nothing for a picture that is none", () => {
  const written = write("<img src=p.png><style>@font-face{src:url(f.woff2)}</style>", [
    record("http://a.test/dir/p.png", "image/png", "<script>ran=1</script>"),
    record("http://a.test/dir/f.woff2", "font/woff2", "no font"),
  ]);
  assert.match(written, /<img src="data:,">/);
  assert.match(written, /src:url\("data:,"\)/);
});

test("writePage: names what is missing in a comment that nothing can leave", () => {
  const failure: FailureRecord = {
    kind: "failure",
    url: "http://a/--><script>1</script>",
    reason: "network",
    detail: "-->",
  };
  const written = write("<p>x", [], [failure]);
  assert.match(written, /missing: http:\/\/a\//);
  assert.deepEqual(findings(written), []);
});

test("writePage: keeps the layout mode and leading newlines of the original", () => {
  assert.match(write("<p>quirks"), /^<html>/);
  assert.match(write("<!DOCTYPE html><pre>\n\nx</pre>"), /^<!DOCTYPE html><html>[^]*<pre>\n\nx<\/pre>/);
});

const LINKS = {
  linkTo: (url: string) => `http://local.test/page?${encodeURIComponent(url)}"><script>`,
  formAction: ({ url, method }: { url: string; method: string }) => `/${method}/${url}`,
  formSource: "'self'",
};

function writeLinked(html: string): string {
  const page = { ...record("http://a.test/dir/", "text/html; charset=utf-8", html), kind: "page" as const };
  const content = { page, resources: new Map(), failures: [], receivedAtMs: 0 };
  return new TextDecoder().decode(writePage(content, LINKS));
}

test("writePage: with links, links and forms lead where the server says, and nowhere else", () => {
  const page = writeLinked(
    "<a href=x?y#z>1</a><a href=#here>2</a><a href=mailto:a@b>3</a><a href=javascript:x>4</a>" +
      "<map><area href=//b.test/></map><svg><a href=s><text>5</text></a></svg>" +
      "<form action=/f?q method=POST enctype=multipart/form-data target=_top><button formaction=g formmethod=post>6</button>" +
      "<input type=submit formaction=javascript:x></form><form><input name=q></form><form method=dialog action=h></form><form action=javascript:x></form>",
  );
  const link = (url: string) =>
    `href="http://local.test/page?${encodeURIComponent(url)}&quot;&gt;&lt;script&gt;" rel="noreferrer noopener" target="_top"`;
  for (const url of ["http://a.test/dir/x?y#z", "http://b.test/", "http://a.test/dir/s"]) {
    assert.ok(page.includes(link(url)), `${url} in ${page}`);
  }
  assert.ok(page.includes('href="#here"') && page.includes('href="mailto:a@b"'));
  assert.ok(
    page.includes(
      '<form action="/post/http://a.test/f?q" target="_top" method="post" enctype="multipart/form-data">',
    ),
  );
  assert.ok(page.includes('formaction="/post/http://a.test/dir/g" formmethod="post"'));
  assert.ok(page.includes('<form action="/get/http://a.test/dir/" target="_top">'));
  assert.equal(page.split('<form method="dialog"></form>').length, 3);
  assert.match(page, /form-action 'self'"/);
  assert.ok(!/javascript:|bento-link/.test(page));
  assert.ok(!/href="#here"[^>]*target/.test(page), "what stays on the page stays in its frame");
});

test("writePage: without links forms lead nowhere", () => {
  const page = write("<form action=/f method=post><button formaction=g>x</button></form>");
  assert.match(page, /form-action 'none'"/);
  assert.ok(page.includes("<form><button>x</button></form>"), page);
});

for (const [name, html] of Object.entries(HOSTILE_PAGES)) {
  test(`writePage: with links, leaves nothing that runs or loads of "${name}"`, () => {
    const page = writeLinked(html);
    // What is left to find are the links of the server itself, which is what they are for.
    assert.deepEqual(
      findings(page).filter((one) => !/^(action|formaction)/.test(one)),
      [],
    );
  });
}
