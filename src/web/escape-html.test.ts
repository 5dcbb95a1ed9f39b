import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { parseFragment, type DefaultTreeAdapterTypes as Tree } from "parse5";
import { escapeHtml } from "./escape-html.ts";

test("escapeHtml: what ends text, an attribute or a reference is written as a reference", () => {
  assert.equal(
    escapeHtml(`<b title="a" id='c'>&amp;</b>`),
    "&lt;b title=&quot;a&quot; id=&#39;c&#39;&gt;&amp;amp;&lt;/b&gt;",
  );
  assert.equal(escapeHtml("Größe 𝄞 ;#=`"), "Größe 𝄞 ;#=`");
});

/** Without what a parser changes in any text: carriage returns, U+0000, lone surrogates. */
const anything = fc
  .string({
    unit: fc.oneof(
      fc.constantFrom("&", "<", ">", '"', "'", "/", "=", "#", ";", " ", "!", "-"),
      fc.string({ unit: "grapheme", maxLength: 4 }),
    ),
  })
  .filter((text) => !/[\r\0]/.test(text) && text.isWellFormed());

test("escapeHtml: an HTML parser reads the same text again, and no markup", () => {
  fc.assert(
    fc.property(anything, (text) => {
      const escaped = escapeHtml(text);
      const { childNodes } = parseFragment(`<p a="${escaped}" b='${escaped}'>${escaped}</p>`);
      assert.equal(childNodes.length, 1);
      const [p] = childNodes as [Tree.Element];
      assert.deepEqual(p.attrs, [
        { name: "a", value: text },
        { name: "b", value: text },
      ]);
      const texts = p.childNodes.map((node) =>
        node.nodeName === "#text" ? (node as Tree.TextNode).value : node,
      );
      assert.deepEqual(texts, text === "" ? [] : [text]);
    }),
  );
});

test("escapeHtml: without it the parser would see an element", () => {
  const text = `"><img src=x onerror='ran=true'>`;
  const holdsImage = (value: string) => {
    const [p] = parseFragment(`<p a="${value}">`).childNodes as [Tree.Element];
    return p.childNodes.some(({ nodeName }) => nodeName === "img");
  };
  assert.ok(holdsImage(text));
  assert.ok(!holdsImage(escapeHtml(text)));
});
