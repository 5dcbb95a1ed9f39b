import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeTor } from "../../test/support/fake-tor.ts";
import { ExitAddressDialer } from "./exit-address.ts";

test("ExitAddressDialer: meanwhile hands others' streams back to tor, and leaves those of tor itself alone", async () => {
  await using tor = await FakeTor.start();
  await using dialer = new ExitAddressDialer(await tor.connect(), tor.socks);
  const target = { fingerprint: tor.relays[5]?.fingerprint ?? "", address: "127.3.5.1", port: 5005 };
  const signal = AbortSignal.timeout(20_000);
  const connecting = dialer.connect(target, { isolation: { username: "a", password: "b" }, signal });
  while (!tor.leavesUnattached) await new Promise((resolve) => setImmediate(resolve));
  tor.directoryStream();
  const other = tor.foreignStream();
  (await connecting).destroy();
  const attached = tor.commands.map(({ line }) => line).filter((line) => line.startsWith("ATTACHSTREAM"));
  const [circuit] = tor.circuits.keys();
  assert.equal(attached.length, 2);
  assert.deepEqual(attached[0], `ATTACHSTREAM ${other} 0`);
  assert.match(attached[1] ?? "", new RegExp(`^ATTACHSTREAM [0-9]+ ${circuit ?? ""}$`, "u"));
});
