import assert from "node:assert/strict";
import { test } from "node:test";
import { parseHost } from "../base/ip-address.ts";
import { covers, type Destination, parseDestination } from "./destination.ts";

function destination(text: string): Destination {
  const parsed = parseDestination(text);
  assert.ok(parsed, text);
  return parsed;
}

function covered(pattern: string, host: string, port: number): boolean {
  return covers([destination(pattern)], parseHost(host), port);
}

test("parseDestination: refuses what is no host and port", () => {
  const bad = [
    "",
    "*",
    ":80",
    "a:",
    "a:0",
    "a:65536",
    "a:9-1",
    "a:1-",
    "a b:1",
    "*a:1",
    "a.*:1",
    "*.1.2.3.4:1",
    "::1:80",
    "[1.2.3.4x]:1",
    "1.2.3:x",
    "a:1,2",
    "-a:1",
    "[::1%lo]:1",
    "http://a:1",
  ];
  for (const text of bad) assert.equal(parseDestination(text), undefined, text);
});

test("covers: * is every host; ports from first to last", () => {
  assert.ok(covered("*:443", "example.org", 443));
  assert.ok(covered("*:*", "192.0.2.1", 65535));
  assert.ok(covered("*:80-90", "::1", 80) && covered("*:80-90", "::1", 90));
  assert.ok(!covered("*:80-90", "::1", 79) && !covered("*:80-90", "::1", 91));
});

test("covers: a name is itself, in any case and with a dot at its end", () => {
  assert.ok(covered("Example.org:80", "example.ORG.", 80));
  for (const host of ["www.example.org", "xexample.org", "example.org.evil", "192.0.2.1"]) {
    assert.ok(!covered("example.org:80", host, 80), host);
  }
});

test("covers: *.name is every name below, not the name, not an address", () => {
  assert.ok(covered("*.example.org:80", "a.example.org", 80));
  assert.ok(covered("*.example.org:80", "a.b.example.org", 80));
  for (const host of ["example.org", "aexample.org", "a.example.org.evil", "192.0.2.1"]) {
    assert.ok(!covered("*.example.org:80", host, 80), host);
  }
});

test("covers: an address is itself in every spelling, never a name", () => {
  for (const host of ["192.0.2.1", "192.0.513", "0xc0000201", "::ffff:192.0.2.1"]) {
    assert.ok(covered("192.0.2.1:80", host, 80), host);
    assert.ok(covered("[::ffff:c000:201]:80", host, 80), host);
  }
  assert.ok(!covered("192.0.2.1:80", "192.0.2.2", 80));
  assert.ok(!covered("192.0.2.1:80", "example.org", 80));
});

test("covers: a host that is refused is covered by nothing", () => {
  assert.ok(!covered("*:*", "a..b", 80));
});
