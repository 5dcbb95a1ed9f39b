// The directory authorities of the public Tor network, for clients that are told no others: what a consensus must be
// signed by. Addresses are left out: documents come from any directory cache.
// Source: the list that tor 0.4.9.11 carries (src/app/config/auth_dirs.inc), which changes about once a year.

import { BentoError } from "../../base/errors.ts";
import type { Authority } from "./consensus.ts";

export const PUBLIC_AUTHORITIES: readonly Authority[] = [
  { identity: "F533C81CEF0BC0267857C99B2F471ADF249FA232" }, // moria1
  { identity: "2F3DF9CA0E5D36F2685A2DA67184EB8DCB8CBA8C" }, // tor26
  { identity: "E8A9C45EDE6D711294FADF8E7951F4DE6CA56B58" }, // dizum
  { identity: "ED03BB616EB2F60BEC80151114BB25CEF515B226" }, // gabelmoo
  { identity: "0232AF901C31A04EE9848595AF9BB7620D4C5B2E" }, // dannenberg
  { identity: "49015F787433103580E3B66A1707A00E60F2D15B" }, // maatuska
  { identity: "23D15D965BC35114467363C165C4F724B64B4F66" }, // longclaw
  { identity: "27102BC123E7AF1D4741AE047E160C91ADC76B21" }, // bastet
  { identity: "70849B868D606BAECFB6128C5E3D782029AA394F" }, // faravahar
];

/**
 * From the identities that a network's owner names, 40 hexadecimal digits each; none: those of the public network.
 * Throws BentoError `onion-authorities` for anything else.
 */
export function authoritiesOf(identities: readonly string[]): readonly Authority[] {
  if (identities.length === 0) return PUBLIC_AUTHORITIES;
  return identities.map((identity) => {
    if (!/^[0-9A-Fa-f]{40}$/u.test(identity))
      throw new BentoError(
        "onion-authorities",
        `Cannot trust authority: found "${identity.slice(0, 50)}", expected 40 hexadecimal digits`,
      );
    return { identity: identity.toUpperCase() };
  });
}
