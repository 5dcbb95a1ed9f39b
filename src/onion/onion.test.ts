import assert from "node:assert/strict";
import { test } from "node:test";
// By the package's own name, as other programs import it.
import * as onion from "bento-tor/onion";

test("bento-tor/onion: what other programs rely on is there, and works by itself", () => {
  const names = Object.keys(onion).toSorted();
  assert.deepEqual(names, [
    "BentoError",
    "Circuit",
    "CircuitBuilder",
    "CircuitPool",
    "GuardSet",
    "Link",
    "Network",
    "OnionService",
    "PUBLIC_AUTHORITIES",
    "Paths",
    "ProtocolError",
    "authoritiesOf",
    "connectToService",
    "decodeMaterial",
    "directoryGet",
    "encodeMaterial",
    "expandKey",
    "exportIntroductionSecrets",
    "exportX25519",
    "fetchDescriptor",
    "fetchNetwork",
    "fromHex",
    "generateExpandedKey",
    "generateX25519",
    "hex",
    "importIntroductionSecrets",
    "importX25519",
    "linkOver",
    "meetClient",
    "onionAddress",
    "openGrantedLink",
    "openLink",
    "pickPath",
    "readExpandedKey",
    "readOnionAddress",
    "writeExpandedKey",
  ]);
  const key = onion.generateExpandedKey();
  const again = onion.readExpandedKey(onion.writeExpandedKey(key));
  const address = onion.onionAddress(again.publicKey);
  assert.match(address, /^[a-z2-7]{56}\.onion$/);
  assert.deepEqual(onion.readOnionAddress(address), key.publicKey);
  assert.throws(() => onion.readOnionAddress(address.replace(/^./, "!")), onion.BentoError);
});
