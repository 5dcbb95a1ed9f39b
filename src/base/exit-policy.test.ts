import assert from "node:assert/strict";
import test from "node:test";
import * as fc from "fast-check";
import { ProtocolError } from "./errors.ts";
import { allows, leaves, POLICY_RULES_MAX, parseExitPolicy } from "./exit-policy.ts";
import { formatIp, type IpAddress, parseIp } from "./ip-address.ts";

function ip(text: string): IpAddress {
  const address = parseIp(text);
  assert.ok(address, text);
  return address;
}

function check(policy: string, address: string, port: number): boolean {
  return allows(parseExitPolicy(policy), ip(address), port);
}

test("allows: the first rule that matches decides", () => {
  const policy = "reject 10.0.0.0/8:*, accept *:80\naccept *:443-445\nreject *:*";
  assert.equal(check(policy, "10.1.2.3", 80), false);
  assert.equal(check(policy, "11.1.2.3", 80), true);
  assert.equal(check(policy, "2606::1", 80), true);
  assert.equal(check(policy, "11.1.2.3", 442), false);
  assert.equal(check(policy, "11.1.2.3", 443), true);
  assert.equal(check(policy, "11.1.2.3", 445), true);
  assert.equal(check(policy, "11.1.2.3", 446), false);
});

test("allows: versions are told apart by *4, *6, accept6 and reject6", () => {
  assert.equal(check("reject *6:*,accept *:*", "2606::1", 80), false);
  assert.equal(check("reject *6:*,accept *:*", "1.2.3.4", 80), true);
  assert.equal(check("accept *4:*,reject *:*", "2606::1", 80), false);
  assert.equal(check("accept6 *:80,reject *:*", "1.2.3.4", 80), false);
  assert.equal(check("accept6 *:80,reject *:*", "2606::1", 80), true);
  assert.equal(check("reject6 *4:*,accept *:*", "1.2.3.4", 80), true);
  assert.equal(check("accept6 [2606::]/16:80,reject *:*", "2606:1::", 80), true);
});

test("allows: private covers both versions", () => {
  for (const address of ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.1.1", "::1", "fd00::1", "fe80::1"])
    assert.equal(check("reject private:*,accept *:*", address, 80), false, address);
  assert.equal(check("reject private:*,accept *:*", "1.2.3.4", 80), true);
});

test("allows: an IPv6 spelling does not get around a rule on IPv4", () => {
  for (const address of ["::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1", "::10.0.0.1"])
    assert.equal(check("reject 10.0.0.0/8:*,accept *:*", address, 80), false, address);
  assert.equal(check("accept 10.0.0.1:80,reject *:*", "::ffff:10.0.0.1", 80), true);
});

test("allows: no rule, no port, no connection", () => {
  assert.equal(check("", "1.2.3.4", 80), false);
  assert.equal(check("accept *:80", "1.2.3.4", 81), false);
  for (const port of [0, 65_536, 1.5, Number.NaN, -1])
    assert.equal(check("accept *:*", "1.2.3.4", port), false);
});

test("parseExitPolicy: masks in both forms", () => {
  assert.equal(check("accept 18.0.0.0/255.0.0.0:*", "18.5.5.5", 1), true);
  assert.equal(check("accept 18.0.0.0/255.0.0.0:*", "19.5.5.5", 1), false);
  assert.equal(check("accept 1.2.3.4/0.0.0.0:*", "9.9.9.9", 1), true);
  assert.equal(check("accept 1.2.3.4/255.255.255.255:*", "1.2.3.5", 1), false);
});

test("parseExitPolicy: malformed rules are named", () => {
  for (const rule of [
    "allow *:*",
    "accept *",
    "accept *:70000",
    "accept *:90-80",
    "accept 1.2.3.4/33:*",
    "accept 1.2.3.4/255.0.255.0:*",
    "accept ::1:80",
    "accept [1.2.3.4]:80",
    "accept [::]/129:80",
    "accept 1.2.3.4/8/8:*",
    "accept example.com:80",
    "accept *:*:*",
  ])
    assert.throws(() => parseExitPolicy(rule), ProtocolError, rule);
});

test("parseExitPolicy: POLICY_RULES_MAX holds at n and fails at n+1", () => {
  assert.equal(parseExitPolicy("accept *:*\n".repeat(POLICY_RULES_MAX)).length, POLICY_RULES_MAX);
  assert.throws(() => parseExitPolicy("accept *:*\n".repeat(POLICY_RULES_MAX + 1)), ProtocolError);
});

test("parseExitPolicy: any text gives a policy or a ProtocolError", () => {
  const piece = fc.constantFrom(
    "accept",
    "reject",
    "6",
    " ",
    "*",
    ":",
    "1.2.3.4",
    "/",
    "8",
    "[::]",
    "80",
    "-",
    ",",
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(piece).map((pieces) => pieces.join("")),
      ),
      (text) => {
        try {
          parseExitPolicy(text);
        } catch (error) {
          assert.ok(error instanceof ProtocolError);
        }
      },
    ),
  );
});

test("allows: rejecting one address in front never allows more", () => {
  const address = fc
    .bigInt({ min: 0n, max: (1n << 32n) - 1n })
    .map((bits): IpAddress => ({ version: 4, bits }));
  fc.assert(
    fc.property(address, address, fc.integer({ min: 1, max: 65_535 }), (rejected, asked, port) => {
      const policy = parseExitPolicy(`reject ${formatIp(rejected)}:*,accept *:*`);
      assert.equal(allows(policy, asked, port), asked.bits !== rejected.bits);
    }),
  );
});

test("leaves: is never false where an address and port of the destination is allowed", () => {
  const address = fc.constantFrom(
    "192.0.2.1",
    "192.0.2.2",
    "2001:db8::1",
    "64:ff9b::c000:201",
    "2002:c000:201::",
  );
  const spec = fc.constantFrom(
    "*",
    "*4",
    "*6",
    "192.0.2.0/24",
    "192.0.2.1",
    "[2001:db8::]/32",
    "[64:ff9b::]/96",
  );
  const ports = fc.constantFrom("*", "25", "80", "20-30", "443-65535");
  const rule = fc
    .tuple(fc.constantFrom("accept", "reject", "accept6", "reject6"), spec, ports)
    .map(([action, spec, ports]) => `${action} ${spec}:${ports}`);
  const port = fc.constantFrom(1, 20, 25, 30, 31, 80, 443, 65_535);
  fc.assert(
    fc.property(fc.array(rule, { maxLength: 6 }), address, port, port, port, (rules, text, a, b, c) => {
      const policy = parseExitPolicy(rules.join("\n"));
      const [low = 1, at = 1, high = 1] = [a, b, c].sort((x, y) => x - y);
      if (!allows(policy, ip(text), at)) return;
      assert.ok(leaves(policy, ip(text), low, high));
      assert.ok(leaves(policy, undefined, low, high));
    }),
    { numRuns: 2000 },
  );
});
