import assert from "node:assert/strict";
import { Resolver } from "node:dns/promises";
import test from "node:test";
import * as fc from "fast-check";
import { ProtocolError } from "../base/errors.ts";
import { answerQuery, DnsServer } from "./dns.ts";

test("DnsServer: answers A and AAAA of its zone, NXDOMAIN else, and may change its mind", async () => {
  let asked = 0;
  await using server = await DnsServer.start({
    address: "127.0.0.1",
    port: 0,
    zone: (name, type) => {
      if (name === "two.test") return type === "A" ? ["192.0.2.1", "192.0.2.2"] : ["2001:db8::1"];
      if (name === "rebind.test") return [asked++ === 0 ? "192.0.2.1" : "127.0.0.1"];
      return undefined;
    },
  });
  const resolver = new Resolver();
  resolver.setServers([`127.0.0.1:${String(server.port)}`]);
  assert.deepEqual(await resolver.resolve4("TWO.test"), ["192.0.2.1", "192.0.2.2"]);
  assert.deepEqual(await resolver.resolve6("two.test"), ["2001:db8::1"]);
  assert.deepEqual(await resolver.resolve4("rebind.test"), ["192.0.2.1"]);
  assert.deepEqual(await resolver.resolve4("rebind.test"), ["127.0.0.1"]);
  await assert.rejects(resolver.resolve4("absent.test"), { code: "ENOTFOUND" });
});

test("answerQuery: garbage gives an answer or a ProtocolError", () => {
  const zone = () => ["192.0.2.1"];
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      bytes[2] = 1;
      bytes[4] = 0;
      bytes[5] = 1;
      try {
        assert.ok(answerQuery(bytes, zone).length >= 12);
      } catch (error) {
        assert.ok(error instanceof ProtocolError);
      }
    }),
  );
});
