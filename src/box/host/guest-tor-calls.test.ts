import assert from "node:assert/strict";
import test from "node:test";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { HOPS_MAX } from "../../tor/firewall/choose-path.ts";
import type { TorFirewall } from "../../tor/firewall/firewall.ts";
import { Limits } from "../../wire/limits.ts";
import { guestCallSchema, refusalOf } from "./guest-calls.ts";
import { takesData } from "./guest-dispatch.ts";
import { FunctionTor, TOR_WAIT_MS } from "./tor.ts";

const accepts = (method: string, params: object) => guestCallSchema.safeParse({ method, params }).success;
const FINGERPRINT = "AB".repeat(20);
const KEY = `ED25519-V3:${"k".repeat(86)}==`;
const GRANT = {
  routines: ["circuits"],
  circuits: 1,
  streams: 1,
  onions: 1,
  extendsPerMinute: 1,
  bytes: 1,
} as const;
const code = (wanted: string) => (error: unknown) => error instanceof BentoError && error.code === wanted;

test("tor calls: each list and number at its limit and one above", () => {
  const hops = (count: number) => ({ hops: Array.from({ length: count }, () => ({})) });
  assert.deepEqual(
    [accepts("tor.launch", hops(HOPS_MAX)), accepts("tor.launch", hops(HOPS_MAX + 1))],
    [true, false],
  );
  assert.equal(accepts("tor.launch", hops(0)), false);
  const ports = (count: number) => ({ ports: Array.from({ length: count }, (_, n) => n + 1) });
  const { onionPortsMax, onionClientsMax, hostNameBytesMax, nameBytesMax } = Limits;
  assert.equal(accepts("tor.onion.open", ports(onionPortsMax)), true);
  assert.equal(accepts("tor.onion.open", ports(onionPortsMax + 1)), false);
  const clients = (count: number) => ({
    ports: [1],
    clientKeys: Array.from({ length: count }, () => "A".repeat(52)),
  });
  assert.equal(accepts("tor.onion.open", clients(onionClientsMax)), true);
  assert.equal(accepts("tor.onion.open", clients(onionClientsMax + 1)), false);
  const to = (bytes: number, isolation = "") => ({ host: "a".repeat(bytes), port: 1, isolation });
  assert.equal(accepts("tor.connect", to(hostNameBytesMax, "x".repeat(nameBytesMax))), true);
  assert.equal(accepts("tor.connect", to(hostNameBytesMax + 1)), false);
  assert.equal(accepts("tor.connect", to(1, "x".repeat(nameBytesMax + 1))), false);
  const named = (count: number) => ({ fingerprints: Array.from({ length: count }, () => FINGERPRINT) });
  assert.deepEqual([accepts("tor.relays", named(256)), accepts("tor.relays", named(257))], [true, false]);
});

test("tor calls: nothing but what has a form gets through", () => {
  for (const hop of [null, FINGERPRINT, { flags: ["Guard"] }, { countries: ["de"], exitPort: 443 }])
    assert.ok(accepts("tor.launch", { hops: [hop] }), JSON.stringify(hop));
  for (const hop of [
    `$${FINGERPRINT}`,
    `${FINGERPRINT},${FINGERPRINT}`,
    `${FINGERPRINT}\r\nSIGNAL HALT`,
    "relay",
    1,
    { flags: ["Guard Exit"] },
    { countries: ["DE"] },
    { exitPort: 0 },
    { other: 1 },
  ])
    assert.ok(!accepts("tor.launch", { hops: [hop] }), JSON.stringify(hop));
  assert.ok(accepts("tor.onion.open", { ports: [80], key: KEY, streamsMax: 3 }));
  for (const key of ["NEW:BEST", `${KEY} Flags=Detach`, "RSA1024:abc", `${KEY}\r\n`])
    assert.ok(!accepts("tor.onion.open", { ports: [80], key }), key);
  for (const clientKey of ["A".repeat(51), `${"A".repeat(51)} `, "1".repeat(52)])
    assert.ok(!accepts("tor.onion.open", { ports: [80], clientKeys: [clientKey] }), clientKey);
  for (const circuit of [0, -1, 1.5, "1", Number.MAX_SAFE_INTEGER + 1])
    assert.ok(!accepts("tor.close", { circuit }), String(circuit));
  assert.ok(!accepts("tor.watch", { kinds: ["circuit", "address"] }));
  assert.ok(!accepts("tor.command", { line: "GETINFO version" }));
});

test("tor calls: the guest may send bytes on those that open a connection, and on no other", () => {
  const withData = ["tor.connect", "tor.onion.accept"].sort();
  const all = [
    { method: "tor.connect", params: { host: "a", port: 1 } },
    { method: "tor.onion.accept", params: { onion: 1 } },
    { method: "tor.watch", params: { kinds: ["circuit"] } },
    { method: "tor.relays", params: {} },
    { method: "tor.launch", params: { hops: [null] } },
  ].map((call) => guestCallSchema.parse(call));
  assert.deepEqual(
    all
      .filter(takesData)
      .map(({ method }) => method)
      .sort(),
    withData,
  );
});

test("refusalOf: functions see the firewall's codes; what is said of sockets and control ports stays in the box", () => {
  assert.equal(refusalOf(new BentoError("tor-limit", "x"))?.code, "tor-limit");
  for (const hidden of ["tor-socks-unreachable", "tor-control-lost", "tor-control-protocol"])
    assert.equal(refusalOf(new BentoError(hidden, "/var/lib/bento")), undefined);
});

test("FunctionTor: a new owner when tor was started again, with what is left of the same account", async () => {
  const accounts: unknown[] = [];
  let hasEnded = false;
  const firewall = {
    owner(account: unknown) {
      accounts.push(account);
      return {
        get hasEnded() {
          return hasEnded;
        },
        async [Symbol.asyncDispose]() {},
      };
    },
  } as unknown as TorFirewall;
  const tor = { client: async () => ({ firewall }) };
  await using mine = new FunctionTor({ grant: GRANT, tor, clock: new TestClock() });
  const { signal } = new AbortController();
  const [first, second] = await Promise.all([mine.use(signal), mine.use(signal)]);
  assert.equal(first, second);
  hasEnded = true;
  const third = await mine.use(signal);
  assert.notEqual(third, first);
  assert.equal(accounts.length, 2);
  assert.equal(accounts[0], accounts[1]);
});

test("FunctionTor: a call waits for tor as long as it may, and not beyond the instance", async () => {
  const clock = new TestClock();
  const tor = { client: async () => new Promise<never>(() => {}) };
  const mine = new FunctionTor({ grant: GRANT, tor, clock });
  const { signal } = new AbortController();
  const late = assert.rejects(mine.use(signal), code("tor-gone"));
  await clock.advance(TOR_WAIT_MS);
  await late;
  const ended = assert.rejects(mine.use(signal), code("tor-closed"));
  await mine[Symbol.asyncDispose]();
  await ended;
  await assert.rejects(mine.use(signal), code("tor-closed"));
  assert.equal(clock.pending, 0);
});
