// The headings of an HTML page that the client sends, as an outline. Parsed by an npm package, which is bundled.

import { defineFunction } from "bento/function";
import { type DefaultTreeAdapterTypes, parse } from "parse5";

type Node = DefaultTreeAdapterTypes.Node;

export default defineFunction({
  async invoke(session) {
    const decoder = new TextDecoder();
    let page = "";
    for await (const message of session) page += decoder.decode(message, { stream: true });
    for (const { level, text } of headingsOf(parse(page))) {
      await session.send(`${"  ".repeat(level - 1)}${text}\n`);
    }
  },
});

function* headingsOf(node: Node): Generator<{ level: number; text: string }> {
  const level = /^h([1-6])$/.exec(node.nodeName)?.[1];
  if (level !== undefined) yield { level: Number(level), text: textOf(node).replaceAll(/\s+/g, " ").trim() };
  else if ("childNodes" in node) for (const child of node.childNodes) yield* headingsOf(child);
}

function textOf(node: Node): string {
  if ("value" in node) return node.value;
  return "childNodes" in node ? node.childNodes.map(textOf).join("") : "";
}
