// Many introductions in a minute, by a client of src/onion: each with a rendezvous point of its own, each to be met by the
// replica. Counted: those that got no answer. Memory of the box and of its instances from first to last.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { BentoError, messageOf } from "../../src/base/errors.ts";
import { percentile } from "../../src/bin/bench/benchmark.ts";
import { descendants, readMemory } from "../../src/bin/bench/support/memory.ts";
import { Circuit } from "../../src/onion/circuit/circuit.ts";
import { CircuitBuilder } from "../../src/onion/circuit-builder.ts";
import { fetchNetwork } from "../../src/onion/directory/directory-client.ts";
import { fromHex } from "../../src/onion/fields.ts";
import { openLink } from "../../src/onion/link/tls-link.ts";
import { Paths } from "../../src/onion/paths.ts";
import { connectToService, fetchDescriptor } from "../../src/onion/service/onion-client.ts";
import type { Testnet } from "../../src/testnet/testnet.ts";
import { round } from "./figures.ts";
import { LoadBalancer } from "./load-balancer.ts";
import type { PartOptions } from "./throughput.ts";

/** A client that has no answer by then has lost: milliseconds. */
const ANSWER_MS = 60_000;
const MEMORY_EVERY_MS = 5000;
const MIB = 2 ** 20;

export async function introductions(
  options: PartOptions & { readonly count: number; readonly overMs: number },
) {
  const { bench, count, overMs, say, signal } = options;
  const { net, dir } = bench;
  const [box] = net.boxes;
  if (!box) throw new BentoError("benchmark-failed", "Cannot measure: the network has no box");
  await using balancer = await LoadBalancer.start({
    boxes: [box],
    scale: { replicasMin: 1, replicasMax: 1, high: {}, low: {}, choice: "least-loaded" },
    siteBytes: 1000,
    signal,
  });
  using builder = new CircuitBuilder(openLink);
  const paths = await bootstrap(net.testnet);
  const client = { builder, paths, isTestingNetwork: true, nowMs: systemClock.now(), signal };
  const descriptor = await fetchDescriptor(balancer.address, client);
  const boxPid = Number((await readFile(path.join(dir, "boxes", box.name, "pid"), "utf8")).split(" ")[0]);
  const memory: { atS: number; boxMiB: number; instancesMiB: number }[] = [];
  const startMs = performance.now();
  const measure = async () => {
    const below = await descendants(boxPid);
    const instances = await Promise.all(
      below
        .filter(({ command }) => command.startsWith("deno"))
        .map(async ({ pid }) => readMemory(pid).catch(() => undefined)),
    );
    memory.push({
      atS: round((performance.now() - startMs) / 1000),
      boxMiB: round((await readMemory(boxPid)).pssBytes / MIB, 1),
      instancesMiB: round(instances.reduce((sum, one) => sum + (one?.pssBytes ?? 0), 0) / MIB, 1),
    });
  };
  const stopMeasuring = new AbortController();
  const measuring = (async () => {
    while (!stopMeasuring.signal.aborted) {
      await measure();
      await systemClock.sleep(MEMORY_EVERY_MS, stopMeasuring.signal).catch(() => undefined);
    }
  })();
  const tookMs: number[] = [];
  const failures: string[] = [];
  const meet = async () => {
    const beganMs = performance.now();
    try {
      const until = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]);
      using circuit = await connectToService(descriptor, {
        ...client,
        nowMs: systemClock.now(),
        signal: until,
      });
      tookMs.push(performance.now() - beganMs);
      circuit.destroy();
    } catch (error) {
      failures.push(messageOf(error));
    }
  };
  const meetings: Promise<void>[] = [];
  for (let index = 0; index < count; index++) {
    const waitMs = startMs + (index * overMs) / count - performance.now();
    if (waitMs > 0) await systemClock.sleep(waitMs, signal);
    meetings.push(meet());
  }
  const madeS = (performance.now() - startMs) / 1000;
  await Promise.all(meetings);
  stopMeasuring.abort();
  await measuring;
  await measure();
  const seen = balancer.reports.length;
  await balancer.until(() => balancer.reports.length > seen + 2, signal);
  const { introductions: of, replicas } = balancer.reports.at(-1) ?? {};
  for (const failure of new Set(failures)) say(`introductions: ${failure}`);
  const result = {
    made: count,
    madeInS: round(madeS),
    answered: tookMs.length,
    unanswered: failures.length,
    ms: { median: round(percentile(tookMs, 0.5)), p99: round(percentile(tookMs, 0.99)) },
    loadBalancer: of,
    replica: replicas?.map(({ given, met, failed }) => ({ given, met, failed })),
    memory,
  };
  say(`introductions: ${JSON.stringify({ ...result, memory: [memory[0], memory.at(-1)] })}`);
  return result;
}

async function bootstrap(testnet: Testnet): Promise<Paths> {
  const { address: host, orPort: port = 0, fingerprint } = testnet.node("a0");
  const authorities = testnet.authorityLines.map((line) => ({
    identity: /v3ident=([0-9A-F]{40})/u.exec(line)?.[1] ?? "",
  }));
  using link = await openLink({ host, port, identity: { rsa: fromHex(fingerprint) } });
  const circuit = await Circuit.createFast(link);
  const network = await fetchNetwork(circuit, { authorities, nowMs: systemClock.now() });
  return new Paths({ network, rules: { distinctSubnets: false } });
}
