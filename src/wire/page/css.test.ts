import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { type CssReference, rewriteCss, scanCss } from "./css.ts";

const urlsOf = (source: string, kind: CssReference["kind"] = "image") =>
  scanCss(source).references.flatMap((reference) =>
    reference.kind === kind && reference.kind !== "drop" ? [reference.url] : [],
  );

test("scanCss: finds url() in every spelling", () => {
  assert.deepEqual(
    urlsOf(
      `a{background:url(a.png)} b{background:URL("b.png")} c{background:u\\72l( 'c.png' )} d{x:image-set("d1.png" 1x, url(d2.png) 2x type("image/png"))} e{--v:url(e.png)} f{mask:src("f.svg")}`,
    ),
    ["a.png", "b.png", "c.png", "d1.png", "d2.png", "e.png", "f.svg"],
  );
});

test("scanCss: leaves comments, plain strings and fragments alone", () => {
  assert.deepEqual(urlsOf(`/* url(a.png) */ a{content:"url(b.png)";fill:url(#c);mask:url( "#d" )}`), []);
  assert.deepEqual(scanCss("url(#c)", { inline: true }).references, []);
});

test("scanCss: reads @import with layer, supports and media", () => {
  const [first, second, third] = scanCss(
    `@charset "utf-8"; @import 'a.css'; @layer x; @import url("b.css") layer(base.y) supports(display: grid) screen and (min-width: 10em), print; @import url(c.css) layer print`,
  ).references.filter((reference) => reference.kind === "import");
  assert.deepEqual([first?.url, first?.media, first?.layer], ["a.css", "", undefined]);
  assert.deepEqual(
    [second?.url, second?.layer, second?.supports, second?.media],
    ["b.css", "base.y", "display: grid", "screen and (min-width: 10em), print"],
  );
  assert.deepEqual([third?.url, third?.layer, third?.media], ["c.css", "", "print"]);
});

test("scanCss: ignores an @import after rules, nested, or in a style attribute", () => {
  assert.deepEqual(urlsOf(`a{} @import "b.css";`, "import"), []);
  assert.deepEqual(urlsOf(`@media screen { @import "b.css"; }`, "import"), []);
  assert.deepEqual(scanCss(`@import "b.css"`, { inline: true }).references, []);
});

test("scanCss: gives the sources of the last src of a font face with formats and range", () => {
  const { fontFaces } = scanCss(
    `@font-face{font-family:A;src:url(a.eot);src:url(a.eot?#iefix) format("embedded-opentype"),url('a.woff2') format(woff2);unicode-range:U+00-FF, U+131}`,
  );
  assert.deepEqual(fontFaces, [
    {
      sources: [
        { url: "a.eot?#iefix", format: "embedded-opentype" },
        { url: "a.woff2", format: "woff2" },
      ],
      unicodeRange: "U+00-FF, U+131",
    },
  ]);
});

test("rewriteCss: replaces in place and drops what has no place", () => {
  const source = `@charset "x"; @namespace svg url(http://a/); a{b:url( "c" ) d}`;
  assert.equal(rewriteCss(source, scanCss(source), () => "X").trim(), "a{b:X d}");
});

test("rewriteCss: closes what the text leaves open", () => {
  const close = (source: string) => rewriteCss(source, scanCss(source), () => "U");
  assert.equal(close("@media x{a{b:(c"), "@media x{a{b:(c)}}");
  assert.equal(close("a{/* b"), "a{/* b*/}");
  assert.equal(close('a{content:"b'), 'a{content:"b"}');
  assert.equal(close('a{b:url("c'), "a{b:U}");
  assert.equal(close("a{b:url(c"), "a{b:U}");
  assert.equal(close("a{b:c\\"), "a{b:c\\\n}");
  assert.equal(close('@import "x" /* y'), "U");
  assert.equal(close('a{b:image-set("#c)'), "a{b:image-set(U)}");
  assert.equal(close('a{b:url("#cURL(d)'), "a{b:U}");
  assert.equal(close(`a{b:url("#c") url( '#d' ) url(#e)}`), `a{b:url("#c") url( '#d' ) url(#e)}`);
});

test("scanCss: references are in order, apart, and nothing is open after rewriting, for any text", () => {
  const words =
    "url( URL(a) \" ' ( ) { } [ ] ; : src @import @font-face @media /* */ \\ a format( image-set( src( unicode-range <!-- --> #b \0 é";
  const piece = fc.constantFrom(" ", "\n", ...words.split(" "));
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => {
      const source = pieces.join("");
      const scan = scanCss(source);
      let at = 0;
      for (const reference of scan.references) {
        assert.ok(reference.start >= at && reference.end >= reference.start, source);
        at = reference.end;
      }
      assert.ok(at <= source.length);
      const rewritten = rewriteCss(source, scan, () => 'url("data:,")');
      // Text put behind is read for itself: nothing swallows it.
      const after = scanCss(`${rewritten};{}z{background:url(probe)}`);
      assert.ok(
        after.references.some((reference) => reference.kind === "image" && reference.url === "probe"),
        JSON.stringify([source, rewritten]),
      );
      assert.equal(after.closers, "");
      for (const reference of after.references) {
        if (reference.kind !== "drop" && reference.url !== "probe") assert.equal(reference.url, "data:,");
      }
    }),
    { numRuns: 2000 },
  );
});
