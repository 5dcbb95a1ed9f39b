import assert from "node:assert/strict";
import { test } from "node:test";
import { isStyleSheetLink, pictureAttribute } from "./references.ts";

const attributes = (of: Record<string, string>) => (name: string) => of[name];

test("pictureAttribute: what names a picture, by element", () => {
  assert.equal(pictureAttribute("video", attributes({})), "poster");
  assert.equal(pictureAttribute("td", attributes({})), "background");
  assert.equal(pictureAttribute("input", attributes({ type: "IMAGE" })), "src");
  for (const tag of ["input", "div", "constructor"]) {
    assert.equal(pictureAttribute(tag, attributes({ type: "text" })), undefined);
  }
});

test("isStyleSheetLink: style sheets that apply, and nothing else", () => {
  for (const yes of [{ rel: "stylesheet" }, { rel: "x StyleSheet", type: " text/CSS " }]) {
    assert.ok(isStyleSheetLink(attributes(yes)));
  }
  for (const no of [
    {},
    { rel: "icon" },
    { rel: "alternate stylesheet" },
    { rel: "stylesheet", type: "text/less" },
    { rel: "stylesheet", disabled: "" },
  ]) {
    assert.ok(!isStyleSheetLink(attributes(no)));
  }
});
