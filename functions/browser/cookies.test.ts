import assert from "node:assert/strict";
import { test } from "node:test";
import { CookieJar, type CookieUse } from "./cookies.ts";
import { BrowserLimits } from "./limits.ts";
import { isSuffix, siteOf } from "./site.ts";

const TYPED: CookieUse = { isNavigation: true, from: undefined, isPost: false };
const url = (text: string) => new URL(text);
const linkFrom = (text: string, isPost = false): CookieUse => ({
  isNavigation: true,
  from: url(text),
  isPost,
});
const partOf = (text: string): CookieUse => ({ isNavigation: false, from: url(text), isPost: false });

/** What a jar that took `header` from `from` sends to `to`. */
function sent(from: string, header: string, to: string, use: CookieUse = TYPED): string {
  const jar = new CookieJar();
  jar.store(url(from), [header], TYPED);
  return jar.header(url(to), use);
}

test("CookieJar: cookies go back to where they may", () => {
  const home = "https://www.a.test/x/y";
  for (const [header, to, expected] of [
    ["s=1", "https://www.a.test/x/z", "s=1"],
    ["s=1", "https://www.a.test/", ""],
    ["s=1; Path=/", "https://www.a.test/", "s=1"],
    ["s=1; Path=/", "https://a.test/", ""],
    ["s=1; Path=/; Domain=a.test", "https://b.a.test/", "s=1"],
    ["s=1; Path=/; Domain=b.test", "https://b.test/", ""],
    ["s=1; Path=/; Secure", "http://www.a.test/", ""],
    ["s=1; Path=/; Max-Age=0", "https://www.a.test/", ""],
    ["s=1; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "https://www.a.test/", ""],
    ["s=1; Path=/; Expires=nonsense", "https://www.a.test/", "s=1"],
    ["__Host-s=1; Path=/; Secure", "https://www.a.test/", "__Host-s=1"],
    ["__Host-s=1; Path=/; Secure; Domain=www.a.test", "https://www.a.test/", ""],
    ["__Secure-s=1; Path=/", "https://www.a.test/", ""],
  ] as const) {
    assert.equal(sent(home, header, to), expected, `${header} -> ${to}`);
  }
  assert.equal(sent("http://www.a.test/", "s=1; Path=/; Secure", "https://www.a.test/"), "");
});

test("CookieJar: a cookie for a whole suffix is refused, so that it follows nobody from owner to owner", () => {
  for (const [from, domain, other] of [
    ["https://evil.co.uk/", "co.uk", "https://bank.co.uk/"],
    ["https://evil.github.io/", "github.io", "https://other.github.io/"],
    ["https://evil.test/", "test", "https://bank.test/"],
  ] as const) {
    assert.equal(sent(from, `s=1; Path=/; Domain=${domain}`, other), "");
    // The control: one's own domain is taken.
    const own = new URL(from).hostname;
    assert.equal(sent(from, `s=1; Path=/; Domain=${own}`, `https://sub.${own}/`), "s=1");
  }
});

test("CookieJar: parts from other sites get none and set none", () => {
  const jar = new CookieJar();
  jar.store(url("https://ads.test/"), ["seen=1; Path=/; SameSite=None; Secure"], TYPED);
  assert.equal(jar.header(url("https://ads.test/pixel"), partOf("https://a.test/")), "");
  jar.store(url("https://ads.test/"), ["track=1; Path=/"], partOf("https://a.test/"));
  assert.equal(jar.header(url("https://ads.test/"), TYPED), "seen=1");
  assert.equal(jar.header(url("https://cdn.ads.test/"), partOf("https://www.ads.test/")), "");
  assert.equal(jar.header(url("https://ads.test/"), partOf("https://www.ads.test/")), "seen=1");
});

test("CookieJar: a form of another site cannot post with the reader's cookies", () => {
  const home = "https://bank.test/";
  for (const [sameSite, link, post] of [
    ["", "s=1", ""],
    ["; SameSite=Lax", "s=1", ""],
    ["; SameSite=Strict", "", ""],
    ["; SameSite=None; Secure", "s=1", "s=1"],
    ["; SameSite=None", "s=1", ""],
  ] as const) {
    const header = `s=1; Path=/${sameSite}`;
    assert.equal(sent(home, header, home, linkFrom("https://evil.test/")), link, header);
    assert.equal(sent(home, header, home, linkFrom("https://evil.test/", true)), post, header);
    assert.equal(sent(home, header, home, linkFrom("https://www.bank.test/", true)), "s=1", header);
  }
});

test("CookieJar: holds as many as it says, the oldest go", () => {
  const jar = new CookieJar();
  const hosts = Math.ceil((BrowserLimits.cookiesMax + 1) / BrowserLimits.cookiesPerAnswerMax);
  for (let host = 0; host < hosts; host++) {
    const headers = Array.from(
      { length: BrowserLimits.cookiesPerAnswerMax + 1 },
      (_, at) => `c${at}=1; Path=/`,
    );
    jar.store(url(`https://h${host}.test/`), headers, TYPED);
  }
  const count = (host: number) =>
    jar
      .header(url(`https://h${host}.test/`), TYPED)
      .split("; ")
      .filter(Boolean).length;
  const kept = Array.from({ length: hosts }, (_, host) => count(host));
  assert.equal(
    kept.reduce((sum, one) => sum + one, 0),
    BrowserLimits.cookiesMax,
  );
  assert.equal(kept.at(-1), BrowserLimits.cookiesPerAnswerMax);
  assert.ok((kept[0] ?? 0) < BrowserLimits.cookiesPerAnswerMax);
  const long = `c=${"x".repeat(BrowserLimits.cookieBytesMax)}`;
  assert.equal(
    sent("https://a.test/", long.slice(0, -2), "https://a.test/").length,
    BrowserLimits.cookieBytesMax,
  );
  assert.equal(sent("https://a.test/", long, "https://a.test/"), "");
});

test("siteOf: what one owner has", () => {
  for (const [host, site] of [
    ["www.a.test", "a.test"],
    ["a.test", "a.test"],
    ["shop.a.co.uk", "a.co.uk"],
    ["me.github.io", "me.github.io"],
    ["x.me.github.io", "me.github.io"],
    ["github.io", "github.io"],
    ["localhost", "localhost"],
    ["127.0.0.1", "127.0.0.1"],
    ["[::1]", "[::1]"],
    ["abc.onion", "abc.onion"],
    ["www.abc.onion", "abc.onion"],
  ] as const) {
    assert.equal(siteOf(host), site);
  }
  assert.ok(isSuffix("com") && isSuffix("com.au") && !isSuffix("a.com") && !isSuffix("bund.de"));
});
