import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { createServer as createTlsServer } from "node:tls";
import { SITE_CERTIFICATE, SITE_KEY } from "../../../test/vectors/site-certificate.ts";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import type { DirectoryRelay } from "../../tor/firewall/relay-directory.ts";
import type { RelaysGrant } from "../../wire/grant.ts";
import { LINK_BYTES } from "./relay-account.ts";
import { RelayBroker, type RelayBrokerOptions } from "./relays.ts";

const GRANT: RelaysGrant = { links: 2, circuitsPerMinute: 10, bytes: 2 ** 20 };
const AUTHORITIES = ["A".repeat(40)];
const never = new AbortController().signal;

/** Takes connections and says nothing: links to it stay "being opened". */
let silent: Server;
const taken: Socket[] = [];

before(async () => {
  silent = createServer((socket) => {
    socket.on("error", () => undefined);
    taken.push(socket);
  }).listen(0, "127.0.0.1");
  await once(silent, "listening");
});

after(() => {
  for (const socket of taken) socket.destroy();
  silent.close();
});

const portOf = (server: Server) => {
  const address = server.address();
  assert.ok(address !== null && typeof address === "object");
  return address.port;
};

const name = (index: number) => index.toString(16).padStart(40, "A").toUpperCase();

function relay(index: number, changes: Partial<DirectoryRelay> = {}): DirectoryRelay {
  return {
    fingerprint: name(index),
    nickname: `r${String(index)}`,
    addresses: ["127.0.0.1"],
    orPort: portOf(silent),
    flags: ["Running", "Valid", "V2Dir"],
    bandwidth: 1,
    family: { members: [], ids: [] },
    ed25519: index.toString(16).padStart(64, "0"),
    ...changes,
  } as unknown as DirectoryRelay;
}

function broker(relays: readonly DirectoryRelay[], options: Partial<RelayBrokerOptions> = {}): RelayBroker {
  return new RelayBroker({
    tor: {
      client: async () => ({ directory: { relays: async () => relays }, authorities: AUTHORITIES }),
    },
    own: () => name(1).toLowerCase(),
    clock: new TestClock(),
    ...options,
  });
}

const refused = (code: string) => (error: unknown) => error instanceof BentoError && error.code === code;

test("RelayBroker: tells of the own relay, of directories that run, and of the authorities", async () => {
  const relays = [
    relay(1),
    relay(2, { flags: ["Running", "Valid"] }),
    relay(3, { flags: ["V2Dir", "Valid"] }),
    // Its identity is not known yet: it could not be proved.
    relay(4, { ed25519: null }),
    ...Array.from({ length: 20 }, (_, index) => relay(10 + index)),
  ];
  await using links = broker(relays).forInstance(GRANT);
  const { own, directories, authorities } = await links.network(never);
  assert.equal(own?.fingerprint, name(1));
  assert.equal(own.port, portOf(silent));
  assert.deepEqual(authorities, AUTHORITIES);
  assert.equal(directories.length, 8);
  assert.equal(new Set(directories.map(({ fingerprint }) => fingerprint)).size, 8);
  for (const { fingerprint } of directories)
    assert.ok(![2, 3, 4].some((index) => name(index) === fingerprint), fingerprint);

  await using others = broker([relay(2)]).forInstance(GRANT);
  assert.equal((await others.network(never)).own, undefined);
});

test("RelayBroker: a relay that the consensus has not, or not with its identity, is never connected to", async () => {
  await using links = broker([relay(1), relay(4, { ed25519: null })]).forInstance(GRANT);
  const before = taken.length;
  for (const fingerprint of [name(2), name(4)])
    await assert.rejects(links.link(fingerprint, never), refused("relays-refused"));
  assert.equal(taken.length, before);
  // The same call for a relay that is there does connect.
  const opening = links.link(name(1), never);
  opening.catch(() => undefined);
  await once(silent, "connection");
  assert.equal(taken.length, before + 1);
});

test("RelayBroker: who speaks no TLS, or TLS but not as the relay, is not the relay", async () => {
  const mute = createServer((socket) => socket.end("HTTP/1.1 200 OK\r\n\r\n")).listen(0, "127.0.0.1");
  const web = createTlsServer({ key: SITE_KEY, cert: SITE_CERTIFICATE }, (socket) => {
    socket.on("error", () => undefined);
    socket.end("HTTP/1.1 200 OK\r\n\r\n".padEnd(600));
  }).listen(0, "127.0.0.1");
  await Promise.all([once(mute, "listening"), once(web, "listening")]);
  try {
    for (const server of [mute, web]) {
      await using links = broker([relay(1, { orPort: portOf(server) })]).forInstance(GRANT);
      await assert.rejects(links.link(name(1), never), refused("relays-unreachable"));
    }
  } finally {
    mute.close();
    web.close();
  }
});

test("RelayBroker: as many links as granted and not one more, those being opened included; a call that ends gives its link back", async () => {
  const made = broker([relay(1)]);
  await using links = made.forInstance(GRANT);
  const calls = [new AbortController(), new AbortController()];
  const opening = calls.map(({ signal }) => links.link(name(1), signal));
  await assert.rejects(links.link(name(1), never), refused("relays-limit"));
  assert.equal(made.links, 2);
  calls[0]?.abort(new BentoError("closed", "by the test"));
  await assert.rejects(opening[0] ?? Promise.resolve(), refused("closed"));
  assert.equal(made.links, 1);
  const again = links.link(name(1), never);
  again.catch(() => undefined);
  await assert.rejects(links.link(name(1), never), refused("relays-limit"));
  opening[1]?.catch(() => undefined);
});

test("RelayBroker: the box has linksTotalMax links and not one more, whatever each instance was granted", async () => {
  const made = broker([relay(1)], { linksTotalMax: 2 });
  await using first = made.forInstance(GRANT);
  await using second = made.forInstance(GRANT);
  for (const links of [first, second]) links.link(name(1), never).catch(() => undefined);
  await assert.rejects(second.link(name(1), never), refused("relays-limit"));
  await first[Symbol.asyncDispose]();
  await once(silent, "connection").catch(() => undefined);
  while (made.links > 1) await new Promise((resolve) => setImmediate(resolve));
  second.link(name(1), never).catch(() => undefined);
  assert.equal(made.links, 2);
});

test("RelayBroker: the end of an instance ends what it was opening, and it opens nothing more", async () => {
  const links = broker([relay(1)]).forInstance(GRANT);
  const opening = links.link(name(1), never);
  opening.catch(() => undefined);
  const [socket] = (await once(silent, "connection")) as [Socket];
  const closed = once(socket, "close");
  socket.resume();
  await links[Symbol.asyncDispose]();
  await assert.rejects(opening, refused("relays-closed"));
  await closed;
  await assert.rejects(links.link(name(1), never), refused("relays-closed"));
});

test("RelayBroker: a link costs LINK_BYTES, so that handshakes alone do not go on for ever", async () => {
  const grant = { ...GRANT, bytes: LINK_BYTES };
  await using links = broker([relay(1)]).forInstance(grant);
  await assert.rejects(links.link(name(9), never), refused("relays-refused"));
  await assert.rejects(links.link(name(9), never), refused("relays-limit"));
});

test("RelayBroker: without a tor that runs there are no relays", async () => {
  const clock = new TestClock();
  const tor = { client: async () => new Promise<never>(() => undefined) };
  await using links = broker([], { tor, clock }).forInstance(GRANT);
  const asked = assert.rejects(links.network(never), refused("relays-gone"));
  await clock.advance(10 * 60_000);
  await asked;
});
