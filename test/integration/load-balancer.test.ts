// LoadBalancer against unmodified tor and curl: its classes in this process, boxes of memory, a private network of real tor
// daemons. What real boxes add is in load-balancer-boxes.test.ts.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { runLoadBalancer } from "../../functions/loadbalancer/run.ts";
import { checkedReplicaStart } from "../../functions/replica/protocol.ts";
import { runReplica } from "../../functions/replica/replica.ts";
import type { TorAccess } from "../../functions/replica/tor-node.ts";
import { concat, utf8 } from "../../src/base/bytes.ts";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import type { FarSession, Json } from "../../src/guest/function.ts";
import { generateExpandedKey } from "../../src/onion/crypto/blinding.ts";
import { random } from "../../src/onion/crypto/primitives.ts";
import { openLink } from "../../src/onion/link/tls-link.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import type { LoadBalancerReport, LoadBalancerStart, OwnerAnswer } from "../../src/wire/loadbalancer.ts";
import { InProcessBoxes } from "../support/in-process-boxes.ts";

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

function siteOf(files: Readonly<Record<string, Uint8Array>>): Uint8Array {
  const entries = Object.entries(files);
  const index = utf8(
    JSON.stringify({
      files: entries.map(([path, { length: bytes }]) => ({ path, bytes, type: "text/plain" })),
    }),
  );
  const head = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, index.length);
  return concat([head, index, ...entries.map(([, bytes]) => bytes)]);
}

const pack = (name: string) => ({ manifest: { name, image: "deno" as const }, source: "" });

async function start(boxes: InProcessBoxes, options: Partial<LoadBalancerStart> = {}) {
  const site = siteOf({ "index.html": utf8("hello\n"), big: FILE });
  const [replica, standby] = [
    utf8(JSON.stringify(pack("replica"))),
    utf8(JSON.stringify(pack("loadbalancer"))),
  ];
  const key = generateExpandedKey();
  const args: LoadBalancerStart = {
    key: Buffer.from(concat([key.scalar, key.prefix])).toString("base64"),
    virtualPort: 80,
    serve: { kind: "files", siteBytes: site.length },
    scale: {
      replicasMin: 1,
      replicasMax: 3,
      high: { connections: 2 },
      low: { connections: 1 },
      choice: "least-loaded",
    },
    boxes: ["one", "two", "three"],
    packages: { replicaBytes: replica.length, standbyBytes: standby.length },
    ...options,
  };
  const session = await boxes.run("balancer", pack("loadbalancer"), { args: [args as unknown as Json] });
  await session.send(concat([replica, standby]));
  await session.send(site);
  return session;
}

/** Reads answers until one is as wanted. */
async function until<T>(session: FarSession, pick: (answer: OwnerAnswer) => T | undefined): Promise<T> {
  const messages = session[Symbol.asyncIterator]();
  for (;;) {
    const { value, done } = await messages.next();
    if (done === true) throw new Error(`it ended: ${JSON.stringify(await session.ended)}`);
    const answer = JSON.parse(Buffer.from(value).toString()) as OwnerAnswer;
    log.debug("answer", { answer: JSON.stringify(answer) });
    const picked = pick(answer);
    if (picked !== undefined) return picked;
  }
}

async function curl(url: string, ...more: string[]): Promise<Buffer> {
  const { host, port } = net.socksTcp();
  const run = promisify(execFile);
  const { stdout } = await run(
    "curl",
    [
      "-sS",
      "--max-time",
      "60",
      "--socks5-hostname",
      `${crypto.randomUUID()}:x@${host}:${port}`,
      ...more,
      url,
    ],
    { encoding: "buffer", maxBuffer: 64 * 2 ** 20 },
  );
  return stdout;
}

test("unmodified tor and curl fetch from a replica", async () => {
  const boxes = boxesWith();
  const session = await start(boxes);
  const address = await until(session, (answer) =>
    "started" in answer ? answer.started.address : undefined,
  );
  assert.equal((await curl(`http://${address}/`)).toString(), "hello\n");
  const big = await curl(`http://${address}/big`);
  assert.equal(
    createHash("sha256").update(big).digest("hex"),
    createHash("sha256").update(FILE).digest("hex"),
  );
  await session.send(JSON.stringify({ watch: { everyMs: 0 } }));
  const report: LoadBalancerReport = await until(session, (answer) =>
    "report" in answer ? answer.report : undefined,
  );
  assert.equal(report.introductions.total, 2);
  await session.send(JSON.stringify({ stop: true }));
  const stopped = await until(session, (answer) => ("stopped" in answer ? answer.stopped : undefined));
  assert.deepEqual(stopped, { replicasEnded: 1, left: [] });
  assert.deepEqual(await session.ended, { kind: "returned" });
});
