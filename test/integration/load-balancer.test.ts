// LoadBalancer against unmodified tor and curl: its classes in this process, boxes of memory, a private network of real tor
// daemons. What real boxes add is in load-balancer-boxes.test.ts.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { runLoadBalancer } from "../../functions/loadbalancer/run.ts";
import { checkedReplicaStart } from "../../functions/replica/protocol.ts";
import { runReplica } from "../../functions/replica/replica.ts";
import type { TorAccess } from "../../functions/replica/tor-node.ts";
import { concat, utf8 } from "../../src/base/bytes.ts";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { random } from "../../src/onion/crypto/primitives.ts";
import { openLink } from "../../src/onion/link/tls-link.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import type { LoadBalancerStart } from "../../src/wire/loadbalancer.ts";
import { InProcessBoxes } from "../support/in-process-boxes.ts";
import { curl, Owner, siteOf, startOf } from "../support/load-balancer.ts";

let temp: string;
let net: Testnet;

before(async () => {
  temp = await mkdtemp(join(tmpdir(), "bento-lb-"));
  net = await Testnet.up({ dir: join(temp, "net"), relays: 3, exits: 2 });
});

after(async () => {
  await net?.down();
  await rm(temp, { recursive: true, force: true });
});

const log = process.env["LB_LOG"]
  ? createLog((line) => process.stderr.write(line), "debug")
  : createLog(() => undefined);

/** What `env.relays` gives, from this process. */
function torAccess(own: string): TorAccess {
  const contact = (name: string) => {
    const { fingerprint, address, orPort } = net.node(name);
    return { fingerprint, ed25519: "", host: address, port: orPort ?? 0 };
  };
  return {
    network: async () => ({
      own: contact(own),
      directories: [contact("a0")],
      authorities: net.authorityLines.map((line) => /v3ident=([0-9A-F]{40})/u.exec(line)?.[1] ?? ""),
    }),
    openLink: async (relay, options) => {
      const { rsa, ed25519 } = relay.identity;
      const identity = ed25519.length === 0 ? { rsa } : { rsa, ed25519 };
      return openLink({ ...relay, identity }, options);
    },
  };
}

function boxesWith(): InProcessBoxes {
  const boxes: InProcessBoxes = new InProcessBoxes({
    replica: async ([given], session, storage) =>
      runReplica(checkedReplicaStart(given), {
        session,
        storage,
        tor: torAccess("e0"),
        clock: systemClock,
        log,
        cpuUs: () => 0,
      }),
    loadbalancer: async ([given], session, storage) => {
      await runLoadBalancer(given, {
        session,
        storage,
        tor: torAccess("e1"),
        bento: boxes.bento,
        clock: systemClock,
        log,
      });
    },
  });
  return boxes;
}

const FILE = random(300_000);

const pack = (name: string) => ({ manifest: { name, image: "deno" as const }, source: "" });

async function start(boxes: InProcessBoxes, options: Partial<LoadBalancerStart> = {}) {
  const site = siteOf({ "index.html": utf8("hello\n"), big: FILE });
  const standby = options.standby && pack("loadbalancer");
  const {
    start: args,
    input,
    secrets,
  } = startOf({ site, replica: pack("replica"), standby }, { boxes: ["one", "two", "three"], ...options });
  const session = await boxes.run("balancer", pack("loadbalancer"), { args: [args] });
  await session.send(concat(input));
  const owner = new Owner(session, (answer) => log.debug("answer", { answer: JSON.stringify(answer) }));
  return { session, owner, secrets };
}

test("unmodified tor and curl fetch from a replica", async () => {
  const boxes = boxesWith();
  const { owner, session } = await start(boxes);
  const address = await owner.started();
  const socks = net.socksTcp();
  assert.equal((await curl(socks, `http://${address}/`)).toString(), "hello\n");
  assert.deepEqual(new Uint8Array(await curl(socks, `http://${address}/big`)), FILE);
  const { introductions, replicas } = await owner.report();
  assert.equal(introductions.total, 2);
  assert.equal(replicas[0]?.met, 2);
  assert.deepEqual(await owner.stop(), { replicasEnded: 1, left: [] });
  assert.deepEqual(await session.ended, { kind: "returned" });
});
