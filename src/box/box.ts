// A box: everything of src/box put together and brought up in order, and taken down in the opposite one. What
// fails on the way is told apart: without a store there is no box; without a working sandbox the box still says
// who it is and what it would grant, but starts nothing.

import { chmod, lstat, mkdir, rm } from "node:fs/promises";
import type { ListenOptions } from "node:net";
import { join } from "node:path";
import type { Clock } from "../base/clock.ts";
import { BentoError, messageOf } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { buildGuests, type GuestFiles } from "../guest/build.ts";
import { bridgesSockets, readyFile } from "../guest/images.ts";
import type { Info } from "../wire/api.ts";
import type { BoxAddress } from "../wire/box-address.ts";
import { BoxError } from "../wire/error-code.ts";
import { grant } from "../wire/grant.ts";
import type { ManifestInput } from "../wire/manifest.ts";
import type { PackageInput } from "../wire/package.ts";
import { type Policy, SELF } from "../wire/policy.ts";
import { Admission } from "./admit/admit.ts";
import { type BundledFunction, BundledFunctions } from "./admit/bundled-functions.ts";
import { publishedPolicy } from "./admit/policy.ts";
import { BoxMeter } from "./box-meter.ts";
import { ClientTor, firstHopOf } from "./client-tor.ts";
import { Companion, type RelayFacts } from "./companion.ts";
import type { BoxConfig, SocketAddress } from "./config.ts";
import { BentoBroker } from "./host/bento.ts";
import type { RemoteBoxes, RemoteRoutes } from "./host/bento-remote.ts";
import { Egress } from "./host/egress.ts";
import { NetBroker } from "./host/net.ts";
import { RelayBroker } from "./host/relays.ts";
import { NameResolver } from "./host/resolver.ts";
import type { HostServices } from "./host/services.ts";
import { StorageVault } from "./host/storage.ts";
import { FunctionTor } from "./host/tor.ts";
import { LegacyListener } from "./legacy2021/legacy-listener.ts";
import { OnionPublisher } from "./onion.ts";
import { SandboxHost } from "./sandbox/sandbox.ts";
import { SandboxUnavailable } from "./sandbox/sandbox-unavailable.ts";
import type { WarmPlan } from "./sandbox/warm-pool.ts";
import { BoxServer } from "./serve/box-server.ts";
import { Operations } from "./serve/operations.ts";
import { SPOOLED_BLOCK_BYTES_MAX } from "./session/backlog-block.ts";
import type { GuestStarter } from "./session/guest.ts";
import type { InstanceRequest } from "./session/instance.ts";
import { Instances } from "./session/instances.ts";
import { GUEST_OPEN_FILES, SandboxedGuests, sandboxSpec } from "./session/sandboxed-guest.ts";
import { Spool } from "./session/spool.ts";
import { FunctionStore } from "./store/function-store.ts";

/** Between two looks for expired functions: milliseconds. An expired token is refused at once all the same. */
const EXPIRY_MS = 60_000;
/** Memory of an instance that waits in the warm pool: bytes. */
const WARM_MEMORY_BYTES = 64 * 2 ** 20;
/** Scratch directory that functions get which ask for none; the warm pool is made for these. */
const WARM_TMP_BYTES = 8 * 2 ** 20;

/** An instance takes a quarter of a second of computing to get ready, and whoever took the last one is waiting for a page. */
const READY_START = { refillDelayMs: 1000, cpuPercent: 40 };

export interface BoxDeps {
  readonly clock: Clock;
  readonly log: Log;
  /** How functions reach boxes; without it none may deploy functions. */
  readonly remote?: (routes: RemoteRoutes) => RemoteBoxes;
  /** The functions that it comes with: clients may name them by hash. */
  readonly bundled?: readonly PackageInput[] | undefined;
  /** Name and version as `/v1/info` gives them. */
  readonly software?: string;
  /**
   * Exit policy of a box that has no relay, one rule a line: for an author's own machine, where functions are tried.
   * No key of box.toml sets it; where a relay is configured it counts for nothing.
   */
  readonly exitWithoutRelay?: readonly string[] | undefined;
  /** Further flags of Deno in every sandbox: how an author's own box gives functions an inspector. */
  readonly denoFlags?: readonly string[] | undefined;
}

/** Where the box can be reached. Ports are the real ones, also where the configuration said 0. */
export interface BoxAddresses {
  readonly listen: readonly SocketAddress[];
  readonly exitPort: SocketAddress | null;
  readonly legacy2021: SocketAddress | null;
  /** `….onion`, once it is published. */
  readonly onion: string | null;
}

export class Box implements AsyncDisposable {
  readonly #config: BoxConfig;
  readonly #deps: BoxDeps;
  readonly #owned = new AsyncDisposableStack();
  readonly #admission: Admission;
  readonly #broker: NetBroker;
  readonly #bundled: BundledFunctions;
  #relay: RelayFacts | undefined;
  #host: SandboxHost | undefined;
  #instances: Instances | undefined;
  #clientTor: ClientTor | undefined;
  #bento: BentoBroker | undefined;
  #relays: RelayBroker | undefined;
  #addresses: BoxAddresses = { listen: [], exitPort: null, legacy2021: null, onion: null };
  readonly #onionChanged = Promise.withResolvers<void>();
  #disposing: Promise<void> | undefined;

  private constructor(given: BoxConfig, deps: BoxDeps) {
    const config = deps.remote ? given : { ...given, policy: { ...given.policy, bento: null } };
    this.#config = config;
    this.#deps = deps;
    this.#bundled = new BundledFunctions(deps.bundled);
    this.#admission = new Admission(publishedPolicy(config.policy, null));
    this.#broker = new NetBroker({
      clock: deps.clock,
      resolver: new NameResolver(config.policy.net?.resolver ?? [], deps.clock),
    });
  }

  /** Resolves when the box serves. Throws BentoError when it cannot: its store is unusable, an address is taken. */
  static async start(config: BoxConfig, deps: BoxDeps): Promise<Box> {
    const box = new Box(config, deps);
    try {
      await box.#start();
      return box;
    } catch (error) {
      await box[Symbol.asyncDispose]();
      throw error;
    }
  }

  get addresses(): BoxAddresses {
    return this.#addresses;
  }

  get policy(): Policy {
    return this.#admission.policy;
  }

  get info(): Info {
    const { name, contact, region, relay, onion } = this.#config;
    // Whoever knows the relay, or its family, knows where the box is.
    const known = onion.kind === "hidden" ? undefined : this.#relay;
    const fingerprint = relay.fingerprint ?? known?.fingerprint ?? null;
    return {
      software: this.#deps.software ?? "bento",
      protocol: 1,
      name,
      relay: onion.kind === "hidden" ? null : fingerprint,
      contact,
      onion: this.#addresses.onion,
      region: onion.kind === "hidden" ? null : region,
      family: [...(known?.family ?? [])],
      accepting: this.#admission.accepting,
      functions: this.#bundled.published,
    };
  }

  /** The tor client through which functions leave; undefined where none may. */
  get clientTor(): ClientTor | undefined {
    return this.#clientTor;
  }

  /** Resolves when the onion service has been published for the first time; never without one. */
  get onionPublished(): Promise<void> {
    return this.#onionChanged.promise;
  }

  /** Resolves when the warm pools are full: for measurements. */
  async warmedUp(signal?: AbortSignal): Promise<void> {
    await this.#host?.warmedUp(signal);
  }

  /** Takes no more clients, ends every instance, closes the store. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposing ??= this.#stop();
    await this.#disposing;
  }

  async #stop(): Promise<void> {
    // First, while clients are still attached: they learn that the box ended their functions.
    await this.#instances?.stop();
    await this.#owned.disposeAsync();
  }

  async #start(): Promise<void> {
    const { dataDir, policy } = this.#config;
    const { clock, log } = this.#deps;
    const owned = this.#owned;
    await mkdir(dataDir, { recursive: true, mode: 0o700 });
    await chmod(dataDir, 0o700);
    const store = owned.use(
      await FunctionStore.open({
        dir: join(dataDir, "functions"),
        functionsMax: policy.total.functions,
        bytesMax: policy.packagesBytes,
        clock,
        log,
      }),
    );
    const vault = owned.use(
      await StorageVault.open({ dir: join(dataDir, "storage"), bytesMax: policy.total.storageBytes }),
    );
    const spool = owned.use(
      await Spool.open({
        directory: join(dataDir, "spool"),
        blockBytes: SPOOLED_BLOCK_BYTES_MAX,
        bytesMax: policy.total.instances * policy.function.backlogBytes,
      }),
    );
    const meter = this.#meter(vault);
    const guests = await this.#openSandbox();
    this.#clientTor = this.#startClientTor();
    this.#relays = this.#openRelays();
    this.#bento = this.#openBento();
    const instances = owned.use(
      new Instances({
        clock,
        log,
        guests,
        spool,
        reserve: (request) => this.#admission.reserveInstance(request.functionId, request.grant.limits),
        services: async (request, instance) => ({
          ...this.#services(request, vault, meter),
          removeSelf: async () => {
            await operations.remove(request.functionId, instance);
          },
        }),
      }),
    );
    this.#instances = instances;
    const operations: Operations = new Operations({
      clock,
      store,
      instances,
      admission: this.#admission,
      bundled: this.#bundled,
      storageBytes: (id) => vault.bytesOf(id),
      forget: async (id) => {
        this.#bento?.forget(id);
        await vault.erase(id);
      },
    });
    await operations.expire();
    this.#expireRegularly(operations);
    await this.#followRelay();
    await this.#listen(operations);
    await this.#publish();
  }

  /** The sandbox, or a starter that refuses when this machine cannot hold functions in. */
  async #openSandbox(): Promise<GuestStarter> {
    const { config, clock, log } = { config: this.#config, ...this.#deps };
    const ready = readyFunctions(config, this.#bundled);
    try {
      const files = withDenoFlags(
        await buildGuests(join(config.dataDir, "guest"), ready),
        this.#deps.denoFlags ?? [],
      );
      const host = await SandboxHost.open(sandboxOptions(config, files, ready, { clock, log }));
      this.#owned.use(host);
      this.#host = host;
      this.#admission.setAvailable(true);
      const mains = new Map(ready.map(({ sourceHash }) => [sourceHash, readyFile(sourceHash)]));
      return new SandboxedGuests({ host, clock, log, readyMain: (hash) => mains.get(hash) });
    } catch (error) {
      if (!(error instanceof SandboxUnavailable)) throw error;
      log.error("functions cannot be started: the sandbox does not hold here", {
        reason: error.message,
        advice: error.advice,
      });
      return {
        start: () => Promise.reject(new BoxError("functions-unavailable", "This box cannot start functions")),
      };
    }
  }

  #meter(vault: StorageVault): BoxMeter {
    return new BoxMeter({
      dataDir: this.#config.dataDir,
      clock: this.#deps.clock,
      state: () => ({
        instances: this.#admission.used.instances,
        promisedMemoryBytes: this.#admission.used.memoryBytes,
        storageBytes: vault.bytesUsed,
        network: this.#egressSoFar(),
        policy: this.#admission.policy,
      }),
    });
  }

  /** Connections now, and what all of them have carried. */
  #egressSoFar() {
    const { connections, traffic } = this.#broker;
    const links = this.#relays?.traffic;
    return {
      connections: connections + (this.#relays?.links ?? 0),
      receivedBytes: traffic.receivedBytes + (links?.receivedBytes ?? 0),
      sentBytes: traffic.sentBytes + (links?.sentBytes ?? 0),
    };
  }

  #services(
    request: InstanceRequest,
    vault: StorageVault,
    meter: BoxMeter,
  ): Omit<HostServices, "removeSelf"> {
    const { grant, functionId } = request;
    const facts = meter.forGrant(grant);
    return {
      ...(grant.net ? { net: this.#broker.forInstance(grant.net) } : {}),
      ...(grant.storage ? { storage: vault.forFunction(functionId, grant.storage.bytes) } : {}),
      ...(grant.tor && this.#clientTor
        ? { tor: new FunctionTor({ grant: grant.tor, tor: this.#clientTor, clock: this.#deps.clock }) }
        : {}),
      ...(grant.relays && this.#relays ? { relays: this.#relays.forInstance(grant.relays) } : {}),
      ...(grant.bento && this.#bento ? { bento: this.#bento.forInstance(functionId, grant.bento) } : {}),
      ...(facts ? { box: facts } : {}),
    };
  }

  #openRelays(): RelayBroker | undefined {
    const { policy, relay } = this.#config;
    if (!policy.relays || !this.#clientTor) return undefined;
    return new RelayBroker({
      tor: this.#clientTor,
      own: () => relay.fingerprint ?? this.#relay?.fingerprint ?? null,
      clock: this.#deps.clock,
    });
  }

  #openBento(): BentoBroker | undefined {
    const { clock, log, remote } = this.#deps;
    if (!this.#config.policy.bento || !remote) return undefined;
    const boxes = remote({
      clock,
      self: () => connectable(this.#addresses),
      socks: async (signal) => {
        if (!this.#clientTor)
          throw new BentoError("box-unreachable", "Cannot reach boxes: this box has no tor");
        return (await this.#clientTor.client(signal)).socks;
      },
    });
    const isOwn = (address: BoxAddress) => isOneOf(this.#addresses, this.#relay, address);
    return this.#owned.use(new BentoBroker({ boxes, isOwn, clock, log }));
  }

  #expireRegularly(operations: Operations): void {
    const { clock, log } = this.#deps;
    let cancel: () => void;
    const look = () => {
      operations.expire().catch((error: unknown) => {
        log.error("cannot remove expired functions", { reason: messageOf(error) });
      });
      cancel = clock.after(EXPIRY_MS, look);
    };
    cancel = clock.after(EXPIRY_MS, look);
    this.#owned.defer(() => {
      cancel();
    });
  }

  /** Only where functions may leave through Tor, or need what it knows of relays. */
  #startClientTor(): ClientTor | undefined {
    const { dataDir, policy, tor } = this.#config;
    const leavesThroughTor = policy.tor ?? policy.bento?.boxes.some((box) => box !== SELF);
    if (!leavesThroughTor && !policy.relays) return undefined;
    const firewall = policy.tor ? { firstHop: firstHopOf(this.#config.onion) } : null;
    const dir = join(dataDir, "client-tor");
    return this.#owned.use(new ClientTor({ config: tor, dir, firewall, ...this.#deps }));
  }

  async #followRelay(): Promise<void> {
    const { control } = this.#config.relay;
    const { exitWithoutRelay: exit } = this.#deps;
    if (!control && exit) {
      this.#relay = { exit, fingerprint: null, family: [], addresses: [], ports: [] };
      return;
    }
    if (!control) {
      this.#deps.log.warn("no companion relay is configured: functions have no network");
      return;
    }
    const companion = new Companion({
      control: control.kind === "unix" ? { path: control.path } : { host: control.host, port: control.port },
      onFacts: (facts) => {
        this.#relay = facts;
        this.#applyRelay(facts);
      },
      ...this.#deps,
    });
    this.#owned.use(companion);
    await companion.asked;
  }

  /** What the relay says now becomes what is published and what is enforced, both at once. */
  #applyRelay(facts: RelayFacts): void {
    const policy = publishedPolicy(this.#config.policy, facts.exit);
    this.#broker.setEgress(this.#egress(policy, facts));
    this.#admission.setPolicy(policy);
  }

  #egress(policy: Policy, facts: RelayFacts): Egress | undefined {
    if (!policy.net) return undefined;
    try {
      return new Egress({
        exit: policy.net.exit,
        privateNetworksAllowed: this.#config.policy.net?.privateNetworksAllowed ?? [],
        ownAddresses: facts.addresses,
        ownPorts: [...facts.ports, ...this.#ownPorts()],
      });
    } catch (error) {
      this.#deps.log.error("the relay's exit policy cannot be read: functions have no network", {
        reason: messageOf(error),
      });
      return undefined;
    }
  }

  #ownPorts(): number[] {
    const { listen, exitPort, legacy2021 } = this.#addresses;
    return [...listen, exitPort, legacy2021, this.#config.admin].flatMap((address) =>
      address?.kind === "tcp" ? [address.port] : [],
    );
  }

  async #listen(operations: Operations): Promise<void> {
    const { config, clock, log } = { config: this.#config, ...this.#deps };
    const server = new BoxServer({ operations, info: () => this.info, clock, log });
    this.#owned.use(server);
    const listen: SocketAddress[] = [];
    for (const address of config.listen) listen.push(await listenAt(server, address));
    const exitPort = config.exitPort ? await listenAt(server, config.exitPort) : null;
    const legacy2021 = config.legacy2021 ? await this.#listenLegacy(config.legacy2021, operations) : null;
    this.#addresses = { listen, exitPort, legacy2021, onion: null };
    if (this.#relay) this.#applyRelay(this.#relay);
  }

  /** Begins to publish the onion service; the box serves meanwhile. */
  async #publish(): Promise<void> {
    const { onion, dataDir } = this.#config;
    if (onion.kind === "none") return;
    const target = this.#addresses.listen[0];
    if (!target) {
      throw new BentoError("bad-config", "Cannot publish onion service: the box listens nowhere", {
        advice: "Set `listen` in section [box].",
      });
    }
    const dir = join(dataDir, "onion");
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const onAddress = (address: string | null) => {
      this.#addresses = { ...this.#addresses, onion: address };
      this.#onionChanged.resolve();
    };
    this.#owned.use(
      new OnionPublisher({ config: onion, tor: this.#config.tor, dir, target, onAddress, ...this.#deps }),
    );
  }

  async #listenLegacy(address: SocketAddress, operations: Operations): Promise<SocketAddress> {
    const listener = await LegacyListener.listen(await listenOptions(address), {
      operations,
      manifest: () => legacyManifest(this.#admission.policy),
      clock: this.#deps.clock,
      log: this.#deps.log,
    }).catch((error: unknown) => {
      throw cannotListen(address, error);
    });
    this.#owned.use(listener);
    return address.kind === "tcp" ? { ...address, port: listener.port } : address;
  }
}

/** Where the box can connect to itself. Throws BentoError when it listens nowhere. */
function connectable({ listen, exitPort }: BoxAddresses): SocketAddress {
  const address = listen[0] ?? exitPort;
  if (!address) throw new BentoError("box-unreachable", "Cannot reach this box: it listens nowhere");
  if (address.kind === "unix") return address;
  const local = { "0.0.0.0": "127.0.0.1", "::": "::1" }[address.host];
  return local === undefined ? address : { ...address, host: local };
}

/** Whether an address is known to mean this box: its onion service, a listener, or its port at the relay's address. */
function isOneOf(own: BoxAddresses, relay: RelayFacts | undefined, { host, port }: BoxAddress): boolean {
  if (host === own.onion) return true;
  return [...own.listen, own.exitPort].some(
    (address) =>
      address?.kind === "tcp" &&
      address.port === port &&
      (address.host === host || (relay?.addresses.includes(host) ?? false)),
  );
}

/** What functions stored by clients of the 2021 release get: its API had the network and nothing else. */
function legacyManifest(policy: Policy): ManifestInput {
  return {
    name: "unnamed",
    image: "python",
    ...(policy.net ? { net: { allow: ["*:*"] } } : {}),
    // The libraries of that release's functions open sockets by themselves.
    syscalls: policy.syscalls.filter((group) => group === "loopback" && policy.net !== null),
  };
}

function withDenoFlags(files: GuestFiles, flags: readonly string[]): GuestFiles {
  const { deno } = files.runners;
  if (!deno || flags.length === 0) return files;
  return { ...files, runners: { ...files.runners, deno: { ...deno, flags: [...flags, ...deno.flags] } } };
}

/** A function that instances wait for, and the class of instances that it gets when it asks for what its manifest says. */
interface ReadyFunction extends BundledFunction {
  readonly bridges: boolean;
  readonly plan: Omit<WarmPlan, "count">;
}

/** Those of `warm.ready` that the policy would take, whatever the relay's exit policy will be. */
function readyFunctions({ policy, ready }: BoxConfig, bundled: BundledFunctions): ReadyFunction[] {
  if (ready.each === 0) return [];
  const open = publishedPolicy(policy, ["accept *:*"]);
  return bundled.ready(ready.functions).flatMap((each) => {
    const result = grant(each.manifest, open);
    if (result.kind === "refused") return [];
    const { image, profile, limits } = sandboxSpec(result.grant);
    const { tmpBytes, openFilesMax } = limits;
    const main = readyFile(each.sourceHash);
    return [
      {
        ...each,
        bridges: bridgesSockets(result.grant),
        plan: { image, profile, tmpBytes, openFilesMax, main },
      },
    ];
  });
}

function sandboxOptions(
  config: BoxConfig,
  guest: GuestFiles,
  ready: readonly ReadyFunction[],
  deps: { clock: Clock; log: Log },
) {
  const { policy, warm, sandbox } = config;
  const { total } = policy;
  const readyPlans = ready.map(({ plan }) => ({ ...plan, ...READY_START, count: config.ready.each }));
  const plans: WarmPlan[] = policy.images.flatMap((image) => {
    // Functions with the network need the wider filter, the others get the narrow one: some of each.
    const members = warm[image] ?? 0;
    const unforked = policy.syscalls.length > 0 && policy.net ? Math.floor(members / 2) : 0;
    const plan = {
      image,
      tmpBytes: Math.min(WARM_TMP_BYTES, policy.function.tmpBytes),
      openFilesMax: GUEST_OPEN_FILES,
    };
    return [
      { ...plan, profile: "strict" as const, count: members - unforked },
      { ...plan, profile: "unforked" as const, count: unforked },
    ].filter(({ count }) => count > 0);
  });
  plans.push(...readyPlans);
  const waiting = plans.reduce((sum, { count }) => sum + count, 0);
  const pidsMax = Math.max(64, policy.function.pids);
  return {
    dir: config.dataDir,
    guest,
    images: policy.images,
    uidRange: { first: sandbox.uids.first, count: sandbox.uids.last - sandbox.uids.first + 1 },
    total: {
      memoryBytes: total.memoryBytes + waiting * WARM_MEMORY_BYTES,
      cpuPercent: total.cpuPercent,
      pidsMax: (total.instances + waiting) * pidsMax,
    },
    instancesMax: total.instances + waiting,
    warm: plans,
    warmLimits: { memoryBytes: WARM_MEMORY_BYTES, pidsMax: 64, cpuPercent: 100 },
    ...deps,
  };
}

async function listenAt(server: BoxServer, address: SocketAddress): Promise<SocketAddress> {
  try {
    const port = await server.listen(await listenOptions(address));
    return address.kind === "tcp" ? { ...address, port } : address;
  } catch (error) {
    throw cannotListen(address, error);
  }
}

async function listenOptions(address: SocketAddress): Promise<ListenOptions> {
  if (address.kind === "tcp") return { host: address.host, port: address.port };
  // Left by a box that was killed. The store's lock says that no other box of ours is running.
  const left = await lstat(address.path).catch(() => undefined);
  if (left?.isSocket()) await rm(address.path, { force: true });
  return { path: address.path };
}

function cannotListen(address: SocketAddress, cause: unknown): BentoError {
  const where = address.kind === "tcp" ? `${address.host}:${address.port}` : address.path;
  return new BentoError("cannot-listen", `Cannot listen at ${where}: ${messageOf(cause)}`, {
    cause,
    advice: "Stop what uses this address, or choose another one in box.toml.",
  });
}
