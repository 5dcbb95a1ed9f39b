import assert from "node:assert/strict";
import { test } from "node:test";
import { BoxError } from "./error-code.ts";
import { parsePackage, parseSentPackage, sourceHash } from "./package.ts";

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

test("parseSentPackage: a hash stands for a source that the box comes with, and for no other", () => {
  const known = new Map([[sourceHash({ manifest: { image: "deno" }, source: "x" }), "x"]]);
  const [hash = ""] = known.keys();
  const parse = (input: unknown) => parseSentPackage(input, (one) => known.get(one));
  assert.deepEqual(
    parse({ manifest: MANIFEST, sourceHash: hash }),
    parsePackage({ manifest: MANIFEST, source: "x" }),
  );
  // What is sent whole is taken as it is, whether the box comes with it or not.
  for (const source of ["x", "y"]) assert.equal(parse({ manifest: MANIFEST, source }).source, source);
  const refused = (input: unknown, code: string) =>
    assert.throws(
      () => parse(input),
      (error) => error instanceof BoxError && error.code === code,
      JSON.stringify(input),
    );
  refused(
    { manifest: MANIFEST, sourceHash: sourceHash({ manifest: { image: "deno" }, source: "y" }) },
    "unknown-source",
  );
  refused({ manifest: { ...MANIFEST, image: "python" }, sourceHash: hash }, "unknown-source");
  for (const wrong of ["", hash.slice(1), `${hash}0`, hash.toUpperCase(), 1, null, "__proto__"])
    refused({ manifest: MANIFEST, sourceHash: wrong }, "bad-request");
  refused({ manifest: MANIFEST, sourceHash: hash, source: "x" }, "bad-request");
  refused({ sourceHash: hash }, "bad-request");
  refused({ manifest: {}, sourceHash: hash }, "bad-manifest");
});
