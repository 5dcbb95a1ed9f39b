import assert from "node:assert/strict";
import { Resolver } from "node:dns/promises";
import test from "node:test";
import { DnsServer } from "./dns-server.ts";

test("DnsServer: answers A and AAAA of its zone, NXDOMAIN else, and may change its mind", async () => {
  await using server = await DnsServer.start((name, _, count) => {
    if (name === "two.test") return ["192.0.2.1", "2001:db8::1", "192.0.2.2"];
    return name === "rebind.test" ? [count === 0 ? "192.0.2.1" : "127.0.0.1"] : undefined;
  });
  const resolver = new Resolver();
  resolver.setServers([`127.0.0.1:${String(server.address.port)}`]);
  assert.deepEqual(await resolver.resolve4("TWO.test"), ["192.0.2.1", "192.0.2.2"]);
  assert.deepEqual(await resolver.resolve6("two.test"), ["2001:db8::1"]);
  assert.deepEqual(await resolver.resolve4("rebind.test"), ["192.0.2.1"]);
  assert.deepEqual(await resolver.resolve4("rebind.test"), ["127.0.0.1"]);
  await assert.rejects(resolver.resolve4("absent.test"), { code: "ENOTFOUND" });
  assert.deepEqual(server.questions, [
    "A two.test",
    "AAAA two.test",
    "A rebind.test",
    "A rebind.test",
    "A absent.test",
  ]);
});
