import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeForm, formUrl } from "./form.ts";

const FIELDS = [
  ["q", "a b&c=é"],
  ["text", "one\ntwo"],
  ['na"me\n', ""],
] as const;
const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

test("formUrl: the fields take the place of the query, as browsers do", () => {
  assert.equal(
    formUrl("http://a.test/s?old=1#part", { fields: FIELDS.slice(0, 2) }),
    "http://a.test/s?q=a+b%26c%3D%C3%A9&text=one%0D%0Atwo#part",
  );
});

test("encodeForm: urlencoded, multipart and plain", async () => {
  const urlencoded = encodeForm({ fields: FIELDS });
  assert.equal(urlencoded.type, "application/x-www-form-urlencoded");
  assert.equal(textOf(urlencoded.bytes), "q=a+b%26c%3D%C3%A9&text=one%0D%0Atwo&na%22me%0D%0A=");
  const multipart = encodeForm({ fields: FIELDS, enctype: "multipart/form-data" });
  // Read back by somebody else's parser.
  const headers = { "content-type": multipart.type };
  const read = await new Response(Uint8Array.from(multipart.bytes), { headers }).formData();
  assert.deepEqual(
    [...read].map(([, value]) => value),
    ["a b&c=é", "one\r\ntwo", ""],
  );
  assert.equal([...read.keys()].length, 3);
  const plain = encodeForm({ fields: FIELDS.slice(0, 1), enctype: "text/plain" });
  assert.deepEqual([plain.type, textOf(plain.bytes)], ["text/plain", "q=a b&c=é\r\n"]);
});

test("encodeForm: no name or value can end its part", () => {
  const evil = '"; filename="x\r\nContent-Type: text/html\r\n\r\n--';
  const { type, bytes } = encodeForm({
    fields: [[evil, `${evil}----bento`]],
    enctype: "multipart/form-data",
  });
  const boundary = type.split("boundary=")[1] ?? "";
  assert.equal(textOf(bytes).split(`--${boundary}`).length, 3);
  const [head = ""] = textOf(bytes).split("\r\n\r\n");
  assert.deepEqual(head.split("\r\n").length, 2, head);
  assert.equal(head.split('"').length, 3, head);
});
