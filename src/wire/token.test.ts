import assert from "node:assert/strict";
import { test } from "node:test";
import { BentoError } from "../base/errors.ts";
import {
  hashToken,
  newInstanceId,
  newInvocationToken,
  newShutdownToken,
  parseInstanceId,
  parseInvocationToken,
  parseShutdownToken,
} from "./token.ts";

const UUID = "0b2f4a52-6c1d-4f3e-9a77-0123456789ab";
const END = `end-${"A".repeat(43)}`;

test("tokens: what is made can be parsed, by its own kind only", () => {
  const invocation = newInvocationToken();
  const shutdown = newShutdownToken();
  assert.equal(parseInvocationToken(invocation), invocation);
  assert.equal(parseShutdownToken(shutdown), shutdown);
  const instance = newInstanceId();
  assert.equal(parseInstanceId(instance), instance);
  assert.throws(() => parseInvocationToken(shutdown), BentoError);
  assert.throws(() => parseShutdownToken(invocation), BentoError);
});

test("tokens: no two are alike", () => {
  assert.equal(new Set(Array.from({ length: 1000 }, newInvocationToken)).size, 1000);
  assert.equal(new Set(Array.from({ length: 1000 }, newShutdownToken)).size, 1000);
});

test("parseInvocationToken: takes capitals, as people copy them, and only UUIDs of version 4", () => {
  assert.equal(parseInvocationToken(UUID.toUpperCase()), UUID);
  const bad = [
    "",
    UUID.slice(1),
    `${UUID}0`,
    ` ${UUID}`,
    `${UUID}\n`,
    UUID.replace("-4", "-1"),
    UUID.replace("-9", "-c"),
    UUID.replaceAll("-", ""),
    UUID.replace("0b", "0g"),
  ];
  for (const text of bad) assert.throws(() => parseInvocationToken(text), BentoError, JSON.stringify(text));
});

test("parseShutdownToken: takes 43 base64url characters and nothing else", () => {
  assert.equal(parseShutdownToken(END), END);
  for (const text of [
    END.slice(0, -1),
    `${END}A`,
    END.replace("end-", "END-"),
    END.replace("A", "+"),
    `${END}\n`,
  ]) {
    assert.throws(() => parseShutdownToken(text), BentoError, JSON.stringify(text));
  }
});

test("parse*: an error never repeats the token", () => {
  const secret = `${UUID}x`;
  for (const parse of [parseInvocationToken, parseShutdownToken, parseInstanceId]) {
    assert.throws(
      () => parse(secret),
      (error) =>
        error instanceof BentoError &&
        error.code === "bad-token" &&
        !JSON.stringify(error).includes("0b2f") &&
        !error.message.includes("0b2f"),
    );
  }
});

test("hashToken: is SHA-256 of the text", () => {
  // printf %s 0b2f4a52-6c1d-4f3e-9a77-0123456789ab | sha256sum
  assert.equal(
    hashToken(parseInvocationToken(UUID.toUpperCase())),
    "21fd094ad6d824395acaef106766ae9bcea367207705d5c05693c868c113a118",
  );
});
