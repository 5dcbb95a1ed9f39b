// Secrets that follow from an onion service's address and a time period.
// Spec: rend-spec-v3 2.1 [SUBCRED].

import { utf8 } from "../../base/bytes.ts";
import { sha3 } from "../crypto/primitives.ts";

/** N_hs_subcred: known to whoever knows the address, different in each period. 32 bytes. */
export function subcredentialOf(publicKey: Uint8Array, blindedKey: Uint8Array): Uint8Array {
  const credential = sha3(utf8("credential"), publicKey);
  return sha3(utf8("subcredential"), credential, blindedKey);
}
