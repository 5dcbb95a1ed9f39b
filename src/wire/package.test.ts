import assert from "node:assert/strict";
import { test } from "node:test";
import { BoxError } from "./error-code.ts";
import { parsePackage, sourceHash } from "./package.ts";

const MANIFEST = { name: "f", image: "deno", memory: "1MiB" };

test("parsePackage: keeps the manifest as it was sent beside the parsed one", () => {
  const pack = parsePackage({ manifest: MANIFEST, source: "x" });
  assert.deepEqual(pack.manifestInput, MANIFEST);
  assert.equal(pack.manifest.memory, 2 ** 20);
});

test("parsePackage: tells a malformed package from a malformed manifest", () => {
  for (const input of [
    null,
    [],
    {},
    { manifest: MANIFEST },
    { manifest: MANIFEST, source: "" },
    { manifest: [], source: "x" },
    { manifest: MANIFEST, source: "x", more: 1 },
  ]) {
    assert.throws(
      () => parsePackage(input),
      (error) => error instanceof BoxError && error.code === "bad-request",
    );
  }
  assert.throws(
    () => parsePackage({ manifest: {}, source: "x" }),
    (error) => error instanceof BoxError && error.code === "bad-manifest",
  );
});

test("sourceHash: names image and source, not name or limits", () => {
  const hash = (manifest: object, source = "x") =>
    sourceHash(parsePackage({ manifest: { ...MANIFEST, ...manifest }, source }));
  // printf 'deno\nx' | sha256sum
  assert.equal(hash({}), "8ec3a6c815de921fb6beb46b4bcbba969b3531ba3df2bf2a1ca72dc7fa8c87c3");
  assert.equal(hash({ name: "g", memory: "2MiB" }), hash({}));
  assert.notEqual(hash({ image: "python" }), hash({}));
  assert.notEqual(hash({}, "y"), hash({}));
});
