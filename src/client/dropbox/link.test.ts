import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { BentoError } from "../../base/errors.ts";
import { newInvocationToken } from "../../wire/token.ts";
import { formatLink, isDropboxLink, parseLink } from "./link.ts";

const token = newInvocationToken();
const onion = `${"a".repeat(56)}.onion`;

test("dropbox link: one line that says box, token and key, and is read back", () => {
  for (const box of [
    { host: onion, port: 80 },
    { host: "127.0.0.1", port: 8000 },
    { host: "::1", port: 1 },
  ]) {
    for (const key of [undefined, new Uint8Array(randomBytes(32))]) {
      const text = formatLink({ box, token, key });
      assert.match(text, /^bento:dropbox\?[!-~]+$/);
      assert.ok(isDropboxLink(text));
      const link = parseLink(text);
      assert.deepEqual([link.box, link.token, link.key && new Uint8Array(link.key)], [box, token, key]);
    }
  }
});

test("dropbox link: what is not whole, or more, is refused without being repeated", () => {
  const key = randomBytes(32).toString("base64url");
  const attempts = [
    "",
    "bento:dropbox?",
    `bento:dropbox?box=${onion}`,
    `bento:dropbox?token=${token}`,
    `bento:dropbox?box=nowhere&token=${token}`,
    `bento:dropbox?box=${onion}&token=x`,
    `bento:dropbox?box=${onion}&token=${token}&key=`,
    `bento:dropbox?box=${onion}&token=${token}&key=${key}A`,
    `bento:dropbox?box=${onion}&token=${token}&key=${key}&key=${key}`,
    `bento:dropbox?box=${onion}&token=${token}&more=1`,
    `bento:other?box=${onion}&token=${token}`,
  ];
  for (const text of attempts) {
    assert.throws(
      () => parseLink(text),
      (error) => error instanceof BentoError && error.code === "bad-token" && !error.message.includes(token),
      text,
    );
  }
  assert.ok(parseLink(`bento:dropbox?token=${token}&key=${key}&box=${onion}`), "control: in any order");
});
