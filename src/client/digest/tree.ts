// parse5's tree as the page writer uses it: names, attributes, replacing of children. No rule of safety lies here.

import { defaultTreeAdapter, html, type DefaultTreeAdapterTypes as Tree } from "parse5";

export type Element = Tree.Element;
export type ParentNode = Tree.ParentNode;
export type ChildNode = Tree.ChildNode;
export type Document = Tree.Document;

export const { NS } = html;

export function isElement(node: Tree.Node): node is Element {
  return "tagName" in node;
}

export function isText(node: Tree.Node): node is Tree.TextNode {
  return node.nodeName === "#text";
}

/** Where the children lie: a template keeps them in a fragment of its own. */
export function childrenOf(node: ParentNode): ChildNode[] {
  return "content" in node ? node.content.childNodes : node.childNodes;
}

/** Value of an attribute without namespace. */
export function getAttribute(element: Element, name: string): string | undefined {
  return element.attrs.find((one) => one.name === name && !one.prefix)?.value;
}

export function setAttribute(element: Element, name: string, value: string): void {
  const found = element.attrs.find((one) => one.name === name && !one.prefix);
  if (found) found.value = value;
  else element.attrs.push({ name, value });
}

export function removeAttribute(element: Element, name: string): void {
  element.attrs = element.attrs.filter((one) => one.name !== name || one.prefix);
}

export function createElement(
  tagName: string,
  attributes: Readonly<Record<string, string>> = {},
  text = "",
): Element {
  const attrs = Object.entries(attributes).map(([name, value]) => ({ name, value }));
  const element = defaultTreeAdapter.createElement(tagName, NS.HTML, attrs);
  if (text !== "") defaultTreeAdapter.insertText(element, text);
  return element;
}

export function append(parent: ParentNode, child: ChildNode): void {
  defaultTreeAdapter.appendChild(parent, child);
}

/** All elements below `root`, templates included, in document order. No recursion: trees may be deep. */
export function* elementsOf(root: ParentNode): Generator<Element> {
  const stack: ChildNode[] = [...childrenOf(root)].reverse();
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (!isElement(node)) continue;
    yield node;
    const children = childrenOf(node);
    for (let at = children.length - 1; at >= 0; at--) {
      const child = children[at];
      if (child) stack.push(child);
    }
  }
}

/** The text below `root`, as far as `lengthMax` characters. */
export function textOf(root: ParentNode, lengthMax: number): string {
  const parts: string[] = [];
  let length = 0;
  const stack: ChildNode[] = [...childrenOf(root)].reverse();
  for (let node = stack.pop(); node && length < lengthMax; node = stack.pop()) {
    if (isText(node)) {
      parts.push(node.value);
      length += node.value.length;
    } else if (isElement(node) && node.tagName !== "style" && node.tagName !== "script") {
      for (const child of [...childrenOf(node)].reverse()) stack.push(child);
    }
  }
  return parts.join("").slice(0, lengthMax);
}

/** The first child element with this name. */
export function childNamed(parent: ParentNode, tagName: string): Element | undefined {
  return childrenOf(parent).find((node): node is Element => isElement(node) && node.tagName === tagName);
}
