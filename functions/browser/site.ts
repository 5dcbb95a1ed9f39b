// Which hosts belong together. Browsers ask the Public Suffix List, which is larger than this whole function; here the
// shapes of suffixes are known and the most common ones that look like names. Where it takes two
// owners for one, a wide cookie can pass between their hosts within one session, and never beyond it.

/** Second labels that are suffixes below a country: `co.uk`, `com.au`. Shorter than three letters count anyway. */
const SECOND_LEVEL = /^(?:\w{1,2}|com|net|org|edu|gov|mil|gob|gouv|nom|sch|asso|govt|info|muni|presse)$/;

/** Places where strangers have neighbouring names. */
const SHARED = new Set(
  (
    "github.io gitlab.io codeberg.page pages.dev workers.dev netlify.app vercel.app web.app firebaseapp.com herokuapp.com " +
    "appspot.com blogspot.com wordpress.com tumblr.com neocities.org sourceforge.io readthedocs.io fly.dev onrender.com " +
    "surge.sh glitch.me cloudfront.net azurewebsites.net azurestaticapps.net deno.dev myshopify.com wixsite.com " +
    "weebly.com bitbucket.io translate.goog r2.dev"
  ).split(" "),
);

/** Whether names below `host` belong to different owners. */
export function isSuffix(host: string): boolean {
  const labels = host.split(".");
  if (labels.length < 2) return true;
  const [second = "", first = ""] = labels.slice(-2);
  return SHARED.has(host) || (labels.length === 2 && first.length === 2 && SECOND_LEVEL.test(second));
}

/** The name below the suffix, which the hosts of one owner share: `shop.a.co.uk` -> `a.co.uk`. */
export function siteOf(host: string): string {
  if (/^[\d.]+$|:/.test(host)) return host;
  const labels = host.split(".");
  for (let from = labels.length - 2; from >= 0; from--) {
    const name = labels.slice(from).join(".");
    if (!isSuffix(name)) return name;
  }
  return host;
}
