// The owner protocol of a load balancer (docs/spec/loadbalancer.md) with made-up load behind it: what `bento lb` says is read and
// checked as strictly as the real function reads it, and what it shows is known beforehand. No onion service, no replicas.

import { readExpandedKey } from "../../../src/onion/crypto/blinding.ts";
import { onionAddress } from "../../../src/onion/service/onion-address.ts";
import type {
  LoadBalancerReport,
  LoadBalancerStart,
  OwnerAnswer,
  OwnerMessage,
  ReplicaReport,
  ScaleSettings,
  SiteIndex,
  StandbyPlace,
  StandbyReserve,
} from "../../../src/wire/loadbalancer.ts";

export interface FakeHost {
  readonly input: AsyncIterable<Uint8Array>;
  readonly send: (text: string) => void | Promise<void>;
  /** Said after the start, where a standby was wanted. */
  readonly standby?: StandbyPlace;
  /** Said after that. */
  readonly reserves?: readonly StandbyReserve[];
  /** As if it had taken over already: nothing is read before the owner's messages. */
  readonly role?: LoadBalancerReport["role"];
  /** Goes on where another instance ended: nothing is read, either. */
  readonly isResumed?: boolean;
  readonly onRenew?: (renew: { readonly token: string; readonly runtimeMs: number }) => void;
  /** Told what was read. */
  readonly onStart?: (read: {
    start: LoadBalancerStart;
    site: SiteIndex | undefined;
    packages: string[];
  }) => void;
}

/** Returns when its owner said stop. */
export async function fakeBalancer(start: LoadBalancerStart, host: FakeHost): Promise<void> {
  const messages = host.input[Symbol.asyncIterator]();
  const send = async (answer: OwnerAnswer) => host.send(JSON.stringify(answer));
  const role = host.role ?? "primary";
  if (role === "primary" && !host.isResumed) await readStart(start, messages, host);
  const address = onionAddress(readExpandedKey(Buffer.from(start.key, "base64")).publicKey);
  if (role === "primary") {
    await send({
      event: {
        kind: "replica-started",
        id: 1,
        box: start.boxes[0] ?? "self",
        afterMs: 840,
        atMs: Date.now(),
      },
    });
    await send({ started: { address } });
    if (host.standby) await send({ standby: host.standby });
    for (const reserve of host.reserves ?? []) await send({ reserve });
  }
  const startedAtMs = Date.now();
  let scale: ScaleSettings = start.scale;
  let timer: ReturnType<typeof setInterval> | undefined;
  try {
    for (;;) {
      const { done, value } = await messages.next();
      if (done) return;
      const message = JSON.parse(Buffer.from(value).toString()) as OwnerMessage;
      if ("stop" in message) {
        await send({ stopped: { replicasEnded: scale.replicasMin } });
        return;
      }
      if ("scale" in message) {
        scale = { ...scale, ...message.scale };
        continue;
      }
      if ("renew" in message) {
        host.onRenew?.(message.renew);
        continue;
      }
      clearInterval(timer);
      const { everyMs, id } = message.watch;
      const report = () => reportOf({ address, start, scale, role, startedAtMs, id });
      await send({ report: report() });
      if (everyMs > 0) timer = setInterval(() => void send({ report: report() }), everyMs);
    }
  } finally {
    clearInterval(timer);
  }
}

async function readStart(
  start: LoadBalancerStart,
  messages: AsyncIterator<Uint8Array>,
  host: FakeHost,
): Promise<void> {
  const { replicaBytes, standbyBytes = 0 } = start.packages;
  const siteBytes = start.serve.kind === "files" ? start.serve.siteBytes : 0;
  const wanted = replicaBytes + standbyBytes + siteBytes;
  const parts: Uint8Array[] = [];
  for (let read = 0; read < wanted; ) {
    const { done, value } = await messages.next();
    if (done) throw new Error(`Cannot start: ${read} bytes, ${wanted} announced`);
    parts.push(value);
    read += value.length;
    if (read > wanted) throw new Error("Cannot start: more bytes than were announced");
  }
  const all = Buffer.concat(parts);
  const nameOf = (bytes: Buffer) =>
    (JSON.parse(bytes.toString()) as { manifest: { name: string } }).manifest.name;
  const packages = [nameOf(all.subarray(0, replicaBytes))];
  if (standbyBytes > 0) packages.push(nameOf(all.subarray(replicaBytes, replicaBytes + standbyBytes)));
  const site = siteBytes > 0 ? siteOf(all.subarray(replicaBytes + standbyBytes)) : undefined;
  host.onStart?.({ start, site, packages });
}

function siteOf(bytes: Buffer): SiteIndex {
  const indexBytes = bytes.readUInt32BE(0);
  const index = JSON.parse(bytes.subarray(4, 4 + indexBytes).toString()) as SiteIndex;
  const sum = index.files.reduce((total, file) => total + file.bytes, 0);
  if (4 + indexBytes + sum !== bytes.length) throw new Error("Cannot start: the site is cut");
  return index;
}

interface Facts {
  readonly address: string;
  readonly start: LoadBalancerStart;
  readonly scale: ScaleSettings;
  readonly role: LoadBalancerReport["role"];
  readonly startedAtMs: number;
  readonly id: number | undefined;
}

/** As many replicas as there must be at least, each with two clients whose speed is its number in MiB/s. */
function reportOf({ address, start, scale, role, startedAtMs, id }: Facts): LoadBalancerReport {
  const replicas = Array.from({ length: scale.replicasMin }, (_, index): ReplicaReport => {
    const rate = (index + 1) * 2 ** 20;
    const client = (number: number) => ({
      id: number,
      bytesPerSecond: rate / 2,
      bytesTotal: rate,
      ageMs: 1000,
    });
    return {
      id: index + 1,
      box: start.boxes[index % start.boxes.length] ?? "self",
      state: "serving",
      connections: 2,
      bytesPerSecond: rate,
      bytesTotal: 10 * rate,
      cpuPercent: 12.5,
      given: 2,
      met: 2,
      failed: 0,
      startedAtMs,
      clients: [client(1), client(2)],
    };
  });
  return {
    ...(id === undefined ? {} : { id }),
    nowMs: Date.now(),
    address,
    role,
    introductionPoints: [{ relay: "A".repeat(40), introductions: 2 }],
    introductions: { total: 2 * replicas.length, perSecond: 0.5, waiting: 0, dropped: 0, refused: 0 },
    scale,
    replicas,
    standby: start.standby ? { box: start.standby.box, isReady: true } : null,
  };
}
