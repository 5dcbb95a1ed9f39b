import assert from "node:assert/strict";
import { test } from "node:test";
import { BentoError } from "../base/errors.ts";
import {
  BoxError,
  ERROR_CODES,
  errorOfProblem,
  isErrorCode,
  problemOf,
  problemSchema,
} from "./error-code.ts";

test("ERROR_CODES: each has a status of an error, a title and advice", () => {
  for (const [code, { status, title, advice }] of Object.entries(ERROR_CODES)) {
    assert.ok(status >= 400 && status <= 599, code);
    assert.match(title, /^[A-Z].*[^.]$/, code);
    assert.match(advice, /\.$/, code);
  }
});

test("problemOf: tells a BoxError whole", () => {
  const refusals = [{ rule: "memory", wanted: "2 GiB", limit: "at most 1 GiB" }];
  const problem = problemOf(new BoxError("policy-refused", "Cannot store function: memory", { refusals }));
  assert.deepEqual(problemSchema.parse(problem), {
    code: "policy-refused",
    title: ERROR_CODES["policy-refused"].title,
    detail: "Cannot store function: memory",
    refusals,
  });
});

test("problemOf: tells nothing of any other error", () => {
  const cause = new Error("/var/lib/bento/secret");
  for (const error of [
    cause,
    new BentoError("store-failed", "/var/lib/bento"),
    new BentoError("x", "y", { cause }),
    "text",
    undefined,
  ]) {
    assert.deepEqual(problemOf(error), { code: "internal", title: ERROR_CODES.internal.title });
  }
  assert.ok(!JSON.stringify(problemOf(new BoxError("disk-full", "full", { cause }))).includes("secret"));
});

test("errorOfProblem: is the other way round, and keeps codes it does not know", () => {
  for (const code of Object.keys(ERROR_CODES)) {
    assert.ok(isErrorCode(code));
    const error = errorOfProblem(problemOf(new BoxError(code, "detail")));
    assert.ok(error instanceof BoxError);
    assert.deepEqual([error.code, error.message, error.status], [code, "detail", ERROR_CODES[code].status]);
  }
  const unknown = errorOfProblem({ code: "from-the-future", title: "New" });
  assert.deepEqual(
    [unknown.code, unknown.message, unknown instanceof BoxError],
    ["from-the-future", "New", false],
  );
  assert.ok(!isErrorCode("__proto__") && !isErrorCode("toString"));
});
