import assert from "node:assert/strict";
import { test } from "node:test";
import { rehearse } from "./rehearsal.ts";

test("rehearse: loads its page with all parts, and so goes through what every page takes", async () => {
  // Throws when a part was not asked for: neither the document nor its style sheets were read then.
  assert.equal(await rehearse(), undefined);
});
