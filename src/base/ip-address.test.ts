import assert from "node:assert/strict";
import { BlockList, isIP } from "node:net";
import test from "node:test";
import * as fc from "fast-check";
import {
  canonicalIp,
  formatIp,
  type IpAddress,
  inRange,
  parseHost,
  parseIp,
  parseRange,
  reachableAddresses,
  specialRange,
} from "./ip-address.ts";

function ip(text: string): IpAddress {
  const address = parseIp(text);
  assert.ok(address, text);
  return address;
}

const v4 = fc.bigInt({ min: 0n, max: (1n << 32n) - 1n }).map((bits): IpAddress => ({ version: 4, bits }));
const v6 = fc
  .oneof(
    fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }),
    fc
      .array(fc.constantFrom(0n, 0n, 1n, 0xffffn, 0xabcn), { minLength: 8, maxLength: 8 })
      .map((groups) => groups.reduce<bigint>((bits, group) => (bits << 16n) | group, 0n)),
  )
  .map((bits): IpAddress => ({ version: 6, bits }));

test("formatIp: parseIp reads back every address, and Node agrees on the version", () => {
  fc.assert(
    fc.property(fc.oneof(v4, v6), (address) => {
      const text = formatIp(address);
      assert.deepEqual(parseIp(text), address);
      assert.equal(isIP(text), address.version);
    }),
  );
});

test("formatIp: RFC 5952 forms", () => {
  for (const [text, short] of [
    ["0:0:0:0:0:0:0:0", "::"],
    ["0:0:0:0:0:0:0:1", "::1"],
    ["2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    ["1:0:0:0:0:0:0:0", "1::"],
    ["::ffff:192.0.2.1", "::ffff:c000:201"],
  ] as const)
    assert.equal(formatIp(ip(text)), short);
});

test("parseIp: takes nothing that Node's own parser refuses", () => {
  const piece = fc.constantFrom(
    "0",
    "1",
    "255",
    "256",
    "01",
    ".",
    ":",
    "::",
    "ffff",
    "g",
    "%",
    "/",
    "1.2.3.4",
    " ",
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
      const text = pieces.join("");
      const address = parseIp(text);
      assert.equal(address?.version ?? 0, text.includes("%") ? 0 : isIP(text));
    }),
    { numRuns: 2000 },
  );
});

test("parseIp: refuses what is not a standard form", () => {
  for (const text of [
    "",
    "1.2.3",
    "1.2.3.4.5",
    "1.2.3.256",
    "01.2.3.4",
    "1.2.3.4 ",
    "1.2.3.-4",
    "0x7f.0.0.1",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1::2::3",
    "1:2:3:4::5:6:7:8",
    ":1",
    "1:",
    ":::",
    "12345::",
    "fe80::1%eth0",
    "1.2.3.4::",
    "::1.2.3.4:1",
    "[::1]",
    "١.٢.٣.٤",
  ])
    assert.equal(parseIp(text), undefined, text);
});

test("parseHost: every spelling of an address is that address", () => {
  for (const text of [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0X7F000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.01",
    "0177.0.0.0x1",
    "::ffff:127.0.0.1",
    "[::ffff:7f00:1]",
  ])
    assert.deepEqual(parseHost(text), { kind: "ip", address: ip("127.0.0.1") }, text);
  assert.deepEqual(parseHost("0"), { kind: "ip", address: ip("0.0.0.0") });
  assert.deepEqual(parseHost("[2001:DB8::1]"), { kind: "ip", address: ip("2001:db8::1") });
});

test("parseHost: what ends in a number but is no address is refused, never a name", () => {
  for (const text of [
    "1.2.3.4.5",
    "256.1.1.1.1",
    "1.2.3.999",
    "4294967296",
    "08",
    "example.0x",
    "example.1",
    "0x1ffffffff",
    "99999999999999999999999",
  ])
    assert.notEqual(parseHost(text).kind, "name", text);
  assert.equal(parseHost("4294967296").kind, "refused");
  assert.equal(parseHost("example.1").kind, "refused");
});

test("parseHost: names are lower case without trailing dot; anything odd is refused", () => {
  assert.deepEqual(parseHost("WWW.Example.COM."), { kind: "name", name: "www.example.com" });
  assert.deepEqual(parseHost("_dmarc.x--y.test"), { kind: "name", name: "_dmarc.x--y.test" });
  for (const text of [
    "",
    ".",
    "a..b",
    "-a.test",
    "a-.test",
    "a b",
    "a\0b",
    "ex①mple.com",
    "１２７.0.0.1",
    "a/b",
    "user@host",
    "[::1",
    "host:80",
    "::1%lo",
    `${"a".repeat(64)}.test`,
    "a.".repeat(127) + "aa",
  ])
    assert.equal(parseHost(text).kind, "refused", text);
  assert.equal(parseHost(`${"a".repeat(63)}.test`).kind, "name");
  assert.equal(parseHost("a.".repeat(126) + "a").kind, "name");
});

test("parseHost: any text gives an answer", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 300 }), (text) => {
      const host = parseHost(text);
      if (host.kind === "name") assert.match(host.name, /^[a-z0-9_.-]{1,253}$/u);
    }),
  );
});

test("canonicalIp: opens mapped addresses and nothing else", () => {
  fc.assert(
    fc.property(v4, v6, (four, six) => {
      assert.deepEqual(canonicalIp({ version: 6, bits: (0xffffn << 32n) | four.bits }), four);
      if (six.bits >> 32n !== 0xffffn) assert.deepEqual(canonicalIp(six), six);
    }),
  );
});

test("reachableAddresses: opens translators and tunnels", () => {
  for (const text of [
    "::ffff:10.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:a00:1::",
    "::10.0.0.1",
    "::ffff:0:10.0.0.1",
    "2001:0:1234::f5ff:fffe",
  ]) {
    assert.deepEqual(reachableAddresses(ip(text)).at(-1), ip("10.0.0.1"), text);
    assert.notEqual(specialRange(ip(text)), undefined, text);
  }
  assert.equal(specialRange(ip("64:ff9b::8.8.8.8")), undefined);
});

test("specialRange: the registries' edges", () => {
  for (const text of [
    "0.0.0.0",
    "0.255.255.255",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.255.255.255",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.8",
    "192.168.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "100::1",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "3fff:fff::1",
    "fc00::1",
    "fdff::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "4000::1",
    "5f00::1",
  ])
    assert.notEqual(specialRange(ip(text)), undefined, text);
  for (const text of [
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.0.9",
    "192.0.1.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:1::1",
    "2001:200::1",
    "2606:4700::1111",
    "2a00::1",
    "3ffe::1",
  ])
    assert.equal(specialRange(ip(text)), undefined, text);
});

test("inRange: agrees with Node's BlockList", () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.tuple(v4, v4, fc.nat(32)), fc.tuple(v6, v6, fc.nat(128))),
      ([base, other, prefix]) => {
        const list = new BlockList();
        const family = base.version === 4 ? "ipv4" : "ipv6";
        list.addSubnet(formatIp(base), prefix, family);
        const range = parseRange(`${formatIp(base)}/${String(prefix)}`);
        assert.equal(inRange(other, range), list.check(formatIp(other), family));
        assert.ok(inRange(base, range));
      },
    ),
  );
});

test("parseRange: refuses what is no range", () => {
  for (const text of ["1.2.3.4", "1.2.3.4/33", "::/129", "1.2.3.4/", "1.2.3.4/08", "1.2.3.4/1/1", "x/1"])
    assert.throws(() => parseRange(text), { code: "tor-bad-address" }, text);
});
