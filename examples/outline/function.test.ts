import { assert, run, test } from "bento/testing";

test("indents headings by their level", async () => {
  const page = "<h1>Onions</h1><p>...</p><h2>Red &amp; white</h2><h2>Spring\n<em>ones</em></h2>";
  assert.equal((await run({ input: [page] })).text, "Onions\n  Red & white\n  Spring ones\n");
});

test("a page may come in any pieces", async () => {
  assert.equal(
    (await run({ input: ["<h", "1>Zwie", new TextEncoder().encode("beln</h1>")] })).text,
    "Zwiebeln\n",
  );
});
