import assert from "node:assert/strict";
import { readFile, realpath } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { test } from "node:test";
import { authoritiesOf, PUBLIC_AUTHORITIES } from "./authorities.ts";

/** The program that people have installed, as text; undefined: none. */
async function installedTor(): Promise<string | undefined> {
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    try {
      return await readFile(await realpath(join(folder, "tor")), "latin1");
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

test("the public network's authorities are those that the installed tor carries", async (t) => {
  const program = await installedTor();
  // A script that starts a tor elsewhere carries none either.
  const carried = [...(program ?? "").matchAll(/v3ident=([0-9A-F]{40})/gu)].map((match) => match[1] ?? "");
  if (carried.length === 0) {
    t.skip("no tor with a list of authorities is installed");
    return;
  }
  assert.deepEqual(PUBLIC_AUTHORITIES.map(({ identity }) => identity).sort(), carried.sort());
});

test("authoritiesOf: none named means the public ones; what is no identity is refused", () => {
  assert.equal(authoritiesOf([]), PUBLIC_AUTHORITIES);
  assert.equal(new Set(PUBLIC_AUTHORITIES.map(({ identity }) => identity)).size, PUBLIC_AUTHORITIES.length);
  for (const { identity } of PUBLIC_AUTHORITIES) assert.match(identity, /^[0-9A-F]{40}$/u);
  const named = authoritiesOf(["f533c81cef0bc0267857c99b2f471adf249fa232"]);
  assert.deepEqual(named, [{ identity: "F533C81CEF0BC0267857C99B2F471ADF249FA232" }]);
  for (const wrong of ["", "F533", "G".repeat(40), `${"A".repeat(40)} `])
    assert.throws(() => authoritiesOf([wrong]), { code: "onion-authorities" });
});
