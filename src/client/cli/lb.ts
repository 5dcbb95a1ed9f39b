// `bento lb start`: an onion service whose load is spread over replicas on several boxes. What ends it again is saved before
// anything is sent; what fails or is interrupted on the way is taken back.

import { rm } from "node:fs/promises";
import path from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import type { LoadBalancerStart, ScaleSettings } from "../../wire/loadbalancer.ts";
import { type Policy, SELF } from "../../wire/policy.ts";
import type { InstanceId } from "../../wire/token.ts";
import { BoxClient, newIsolation, type StoredFunction } from "../client.ts";
import type { BalancerEntry } from "../context.ts";
import { eventText, withNames } from "../loadbalancer/event-text.ts";
import { makeOnionKey, type OnionKey, readOnionKey } from "../loadbalancer/onion-key.ts";
import { balancerPackage, replicaPackage, standbyPackage } from "../loadbalancer/packages.ts";
import { readSite, type Site } from "../loadbalancer/site.ts";
import { type BalancerStart, startBalancer } from "../loadbalancer/start.ts";
import { stopBalancer } from "../loadbalancer/stop.ts";
import { loadPackage } from "../package-loader.ts";
import { endFunction } from "./attached.ts";
import { boxLabel, type Cli, manifestOf, type Reach, savedReach, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable } from "./io.ts";
import { chooseLbBoxes, type LbBoxes, type LbReachOptions } from "./lb-boxes.ts";
import { namesOfBoxes } from "./lb-places.ts";
import { forgetBalancer, saveStandby } from "./lb-saved.ts";
import { clientKeysOf, type ScaleOptions, scaleOf, targetOf, watermarkText } from "./lb-settings.ts";
import { Progress } from "./progress.ts";
import { checkName, saveFunction } from "./store.ts";

export interface LbStartOptions extends LbReachOptions, ScaleOptions {
  /** A folder, or host:port. One of the two. */
  readonly site?: string | undefined;
  readonly target?: string | undefined;
  /** Tor's key file; a new one is made when left out. */
  readonly key?: string | undefined;
  readonly port: number;
  readonly points?: number | undefined;
  readonly clientKey?: readonly string[] | undefined;
  readonly name?: string | undefined;
  /** Functions in place of those that come with Bento. */
  readonly balancerFn: string;
  readonly replicaFn: string;
}

const TAKE_BACK_MS = 8000;

/** What goes up, all of it checked. */
interface Prepared {
  readonly key: OnionKey;
  readonly scale: ScaleSettings;
  readonly serve: LoadBalancerStart["serve"];
  readonly site: Site | undefined;
  readonly boxes: LbBoxes;
  readonly start: BalancerStart;
}

export async function lbStart(cli: Cli, options: LbStartOptions): Promise<ExitCode> {
  const base = options.name ?? baseName(options);
  checkName(base);
  const prepared = await prepare(cli, options);
  const { primary } = prepared.boxes;
  await cli.context.checkWritable();
  const isolation = newIsolation();
  using client = new BoxClient({ address: primary.address, dial: primary.dial, isolation });
  using progress = new Progress(cli.io, `Starting at ${boxLabel(primary)}`);
  const names = await namesOfBoxes(cli, boxLabel(primary));
  const undo = new AsyncDisposableStack();
  await using _undo = undo;
  const { key } = prepared;
  // Nobody has heard of an address that never served.
  if (key.isNew) undo.defer(() => rm(path.dirname(key.file), { recursive: true, force: true }));
  let name = "";
  let expiresAt = 0;
  const { hasStandby, reserves } = await startBalancer(client, prepared.start, {
    signal: cli.signal,
    onStored: async (stored: StoredFunction, session) => {
      undo.defer(() => takeBack(client, stored, session.instance, boxLabel(primary)));
      name = await saveFunction(cli, base, stored, primary, isolation);
      undo.defer(() => forgetBalancer(cli, name));
      expiresAt = stored.expiresAt;
      const entry = entryOf(prepared, session.instance);
      await cli.context.update((data) => {
        data.balancers[name] = entry;
      });
    },
    onSent: (bytes, total) => {
      progress.phase("Sending");
      progress.update(bytes, total);
    },
    onWaiting: (what) => {
      progress.update(0, 0);
      progress.phase(
        what === "service" ? "Publishing the service, starting a replica" : "Waiting for the standby",
      );
    },
    onEvent: (event) => {
      cli.io.event({ event: "balancer", ...event });
      const shown = withNames({ event }, names);
      if (!cli.io.json && "event" in shown) cli.io.note(`  ${printable(eventText(shown.event))}`);
    },
    onStandby: (place) => saveStandby(cli, name, place),
    onReserve: (reserve) => saveStandby(cli, name, reserve),
  });
  undo.move();
  progress[Symbol.dispose]();
  return report(cli, prepared, { name, expiresAt, hasStandby, reserves });
}

/** Replicas may run already: the function is asked to end them, for a moment, and ended in any case. */
async function takeBack(
  client: BoxClient,
  stored: StoredFunction,
  instance: InstanceId,
  label: string,
): Promise<void> {
  const { shutdownToken } = stored;
  const place = { kind: "primary", label, client, instance, shutdownToken } as const;
  try {
    await stopBalancer([place], { signal: AbortSignal.timeout(TAKE_BACK_MS) });
  } catch {
    // Whatever came in between: the token ends the function.
    await endFunction(client, stored);
  }
}

async function prepare(cli: Cli, options: LbStartOptions): Promise<Prepared> {
  if ((options.site === undefined) === (options.target === undefined))
    throw usage("Cannot start: wanted what to serve, --site FOLDER or --target HOST:PORT, one of the two");
  const scale = scaleOf(options);
  const clients = await clientKeysOf(options.clientKey ?? []);
  const target = options.target === undefined ? undefined : targetOf(options.target);
  const site = options.site === undefined ? undefined : await readSite(options.site);
  const given = options.key === undefined ? undefined : await readOnionKey(options.key);
  const siteBytes = site?.bytes ?? 0;
  const balancer = await loadPackage(options.balancerFn);
  const loadedReplica = await loadPackage(options.replicaFn);
  const replica = replicaPackage(loadedReplica.package, target ?? { siteBytes });
  using progress = new Progress(cli.io, "Choosing boxes");
  const boxes = await chooseLbBoxes(cli, options, {
    balancer: manifestOf(balancer),
    replica: manifestOf({ ...loadedReplica, package: replica }),
  });
  const { primary, standbys, ownAddress } = boxes;
  const [standby, ...others] = standbys.map(({ address }) => address);
  const wanted = {
    boxes: standby === undefined ? boxes.replicas : [SELF, ownAddress, standby, ...others, ...boxes.replicas],
    replicasMax: scale.replicasMax,
    siteBytes,
    replicaBytes: loadedReplica.bytes,
    standbyBoxes: standbys.length,
  };
  const policy = await policyOf(primary, cli.signal);
  const policies = await Promise.all(standbys.map(async ({ reach }) => policyOf(reach, cli.signal)));
  const second = policies.length > 0 ? standbyPackage(balancer.package, wanted, policies, policy) : undefined;
  const pack = balancerPackage(balancer.package, wanted, policy, second);
  progress[Symbol.dispose]();
  // Only now: nothing is left behind by a start that could not be.
  const key = given ?? (await makeOnionKey(path.join(cli.context.dir, "onion")));
  const serve: Prepared["serve"] = target ? { kind: "target", ...target } : { kind: "files", siteBytes };
  return {
    key,
    scale,
    serve,
    site,
    boxes,
    start: {
      package: pack,
      standby: second,
      replica,
      site,
      address: key.address,
      settings: {
        key: Buffer.from(key.secret).toString("base64"),
        virtualPort: options.port,
        serve,
        scale,
        boxes: boxes.replicas,
        ...(options.points === undefined ? {} : { introductionPoints: options.points }),
        ...(clients.length > 0 ? { clients } : {}),
        ...(standby === undefined
          ? {}
          : { standby: { box: standby, own: ownAddress, ...(others.length > 0 ? { others } : {}) } }),
      },
    },
  };
}

async function policyOf({ address, dial }: Reach, signal: AbortSignal): Promise<Policy> {
  using client = new BoxClient({ address, dial, isolation: newIsolation() });
  return await client.policy({ signal });
}

function entryOf({ key, boxes }: Prepared, instance: string): BalancerEntry {
  const { standbys, ownAddress } = boxes;
  const [standby, ...reserves] = standbys.map(({ reach, address }) => ({
    ...savedReach(reach),
    isolation: newIsolation(),
    address,
  }));
  return {
    instance,
    address: key.address,
    keyFile: key.file,
    startedAt: Date.now(),
    ...(standby ? { standby, own: ownAddress } : {}),
    ...(reserves.length > 0 ? { reserves } : {}),
  };
}

function baseName({ site }: LbStartOptions): string {
  const name = path
    .basename(path.resolve(site ?? "balancer"))
    .replaceAll(/[^A-Za-z0-9_.-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "");
  return name.slice(0, 40) || "balancer";
}

function report(
  cli: Cli,
  { key, scale, site, boxes }: Prepared,
  {
    name,
    expiresAt,
    hasStandby,
    reserves,
  }: {
    readonly name: string;
    readonly expiresAt: number;
    readonly hasStandby: boolean;
    readonly reserves: number;
  },
): ExitCode {
  const { io } = cli;
  const { address } = key;
  const [standby, ...others] = boxes.standbys.map(({ reach }) => reach);
  io.result(
    {
      event: "started",
      name,
      address,
      box: boxes.primary.box,
      boxes: boxes.replicas,
      standby: standby ? { box: standby.box, isReady: hasStandby } : null,
      ...(others.length > 0 ? { reserves: { boxes: others.map(({ box }) => box), ready: reserves } } : {}),
      keyFile: key.file,
      expiresAt,
    },
    () => address,
  );
  const code = standby && !hasStandby ? EXIT.partial : EXIT.ok;
  if (io.json) return code;
  const { replicasMin: least, replicasMax: most } = scale;
  const often = `${least === most ? most : `${least} to ${most}`} ${most === 1 ? "replica" : "replicas"}`;
  io.note(
    `${io.bold(name)} serves with ${often} on ${boxes.replicas.length} ${boxes.replicas.length === 1 ? "box" : "boxes"}, until ${new Date(expiresAt).toISOString()}.`,
  );
  if (least < most)
    io.note(
      `  One more replica at ${watermarkText(scale.high, formatBytes)}, one less below ${watermarkText(scale.low, formatBytes)}.`,
    );
  if (standby && hasStandby) io.note(`  A standby at ${boxLabel(standby)} takes over when this one dies.`);
  if (others.length > 0)
    io.note(
      `  After that one it may be at ${others.map(boxLabel).join(", ")}${reserves < others.length ? `; ${others.length - reserves} of them not ready` : ""}.`,
    );
  if (standby && !hasStandby)
    io.note(`  The standby at ${boxLabel(standby)} is not ready: bento lb status ${name}`);
  if (site && site.hidden > 0) io.note(`  ${site.hidden} hidden files or folders were left out.`);
  if (site && !site.index.files.some((file) => file.path === "index.html"))
    io.note("  There is no index.html: the address by itself shows nothing.");
  io.note(`  Key: ${key.file}${key.isNew ? ", new: keep it to keep the address" : ""}`);
  io.note(`  bento lb status ${name} --watch · bento lb status ${name} --page · bento lb stop ${name}`);
  return code;
}
