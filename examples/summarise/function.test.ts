import { assert, run, serve, test } from "bento/testing";

const PAGE = `<!doctype html><title>Onions</title><style>p { color: red }</style>
<p>Layers <a href="/a">upon</a> <a href="/b">layers</a>, <a href="/a">again</a>.</p>`;

test("says what a page holds", async () => {
  await using site = await serve({ "/page": PAGE });
  const { text } = await run({ args: [`${site.url}/page`] });
  assert.match(text, /^title: Onions\nwords: \d+\nlinks: 2\n$/);
});

test("wants a URL", async () => {
  await assert.rejects(run(), { name: "TypeError", message: "wanted a URL as argument" });
});
