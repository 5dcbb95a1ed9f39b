// `bento fn dev FN [ARG...]`: runs a function again each time it is saved, in the sandbox of a box that this command
// starts on this machine (or on a private network, or on another box), and shows what it sends, logs and raises. When
// it ends, so does everything that it started and installed.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { Channel } from "../../base/channel.ts";
import { DevRun } from "../../client/author/dev-run.ts";
import { FileWatcher } from "../../client/author/watch-files.ts";
import {
  type Cli,
  chooseBox,
  manifestOf,
  type Reach,
  type ReachOptions,
  reachBox,
  usage,
} from "../../client/cli/cli.ts";
import { EXIT, type ExitCode } from "../../client/cli/exit-code.ts";
import { type InvocationOptions, invocationOf } from "../../client/cli/invocation.ts";
import { printable, table } from "../../client/cli/io.ts";
import { refusalRows } from "../../client/cli/policy.ts";
import { Progress } from "../../client/cli/progress.ts";
import { BoxClient } from "../../client/client.ts";
import { type LoadedPackage, loadPackage, locate } from "../../client/package-loader.ts";
import type { Invocation } from "../../wire/api.ts";
import { grant, type RuleVerdict } from "../../wire/grant.ts";
import { INSPECTOR_PORT, InspectorBridge } from "../inspector-bridge.ts";
import { LocalBox } from "../local-box.ts";
import { startNetwork, stopNetwork } from "../local-network.ts";

export interface FnDevOptions extends InvocationOptions {
  readonly manifest?: string | undefined;
  readonly box?: string | undefined;
  readonly socks?: string | undefined;
  /** An address, or true beside --box. */
  readonly direct?: string | boolean | undefined;
  readonly net?: boolean | undefined;
  readonly private?: readonly string[] | undefined;
  /** A port, or true for the usual one. */
  readonly inspect?: string | boolean | undefined;
}

/** What the loop waits for, beside Ctrl-C. */
type DevEvent = "changed" | "run-ended";

/** Goes on until Ctrl-C: exit code 0 then, because that is how it ends. */
export async function fnDev(
  cli: Cli,
  fn: string,
  args: readonly string[],
  options: FnDevOptions,
): Promise<ExitCode> {
  const invocation = invocationOf(args, options);
  // No such function is wrong use, and not something to wait for.
  await locate(fn);
  await using started = new AsyncDisposableStack();
  const reach = await reachOf(cli, fn, options, started);
  const client = started.use(new BoxClient({ address: reach.address, dial: reach.dial }));
  // One event for each save and each run that ends: neither comes faster than they are handled for long.
  const events = new Channel<DevEvent>(1);
  const tell = (event: DevEvent) => {
    if (!events.isClosed) events.push(event);
  };
  const watcher = started.use(new FileWatcher(() => tell("changed")));
  cli.signal.addEventListener("abort", () => events.close(), { once: true });
  if (cli.signal.aborted) events.close();
  const loop = started.use(new DevLoop({ cli, fn, options, invocation, client, watcher, tell }));
  started.defer(listenToInput(cli, loop));
  await loop.reload();
  for await (const event of events) {
    if (event === "changed") await loop.reload();
    else loop.runEnded();
  }
  return EXIT.ok;
}

/** The box, and what has to end with this command. */
async function reachOf(
  cli: Cli,
  fn: string,
  options: FnDevOptions,
  started: AsyncDisposableStack,
): Promise<Reach> {
  const { box, direct, socks, net } = options;
  const address = typeof direct === "string" ? direct : undefined;
  const isElsewhere = box !== undefined || address !== undefined || net === true;
  if (isElsewhere && inspectorPort(options) !== undefined)
    throw usage(
      "Cannot inspect: only the box that this command starts has inspectors",
      "Leave out --inspect.",
    );
  if (isElsewhere && (options.private ?? []).length > 0)
    throw usage("Cannot open private networks: that box has its own policy", "Leave out --private.");
  if ([box !== undefined || socks !== undefined, address !== undefined, net].filter(Boolean).length > 1)
    throw usage("Cannot choose a box: --box, --direct ADDRESS and --net exclude each other");
  if (address !== undefined) return reachBox(cli, address, { direct: true });
  const reach: ReachOptions = { box, socks, direct: direct === true };
  if (box !== undefined) return reachBox(cli, box, reach);
  if (net) {
    if (Object.keys((await cli.context.read()).boxes).length === 0) return ownNetwork(cli, started);
    return chooseBox(cli, reach, manifestOf(await loadPackage(fn, { manifest: options.manifest })));
  }
  if (socks !== undefined || direct === true)
    throw usage(
      "Cannot choose a box: none is named",
      "Name one with --box, or leave out --socks and --direct.",
    );
  using _progress = new Progress(cli.io, "Starting a box");
  const inspector = inspectorPort(options) !== undefined;
  const local = await LocalBox.start({
    privateNetworks: options.private ?? [],
    inspector,
    signal: cli.signal,
  });
  started.use(local);
  await openInspector(cli, local, options, started);
  return await reachBox(cli, local.address, { direct: true });
}

/** Says how an inspected function differs from what other boxes run. */
async function openInspector(
  cli: Cli,
  local: LocalBox,
  options: FnDevOptions,
  started: AsyncDisposableStack,
): Promise<void> {
  const port = inspectorPort(options);
  if (port === undefined) return;
  started.use(await InspectorBridge.open(local.pid, port));
  cli.io.event({ event: "inspector", address: `127.0.0.1:${port}` });
  if (cli.io.json) return;
  cli.io.note(`Inspector at 127.0.0.1:${port}: chrome://inspect, or your editor's "attach to Node".`);
  cli.io.note(
    "  The sandbox stays; what differs: system call group loopback is granted, and the runtime inspects.",
  );
}

function inspectorPort({ inspect }: FnDevOptions): number | undefined {
  if (inspect === undefined || inspect === false) return undefined;
  const port = inspect === true ? INSPECTOR_PORT : Number(inspect);
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return port;
  throw usage(`Cannot inspect at port "${inspect}": wanted 1 to 65535`);
}

/** The inspector listens inside the sandbox: for that a function needs sockets on its own loopback. */
function inspectable(loaded: LoadedPackage): LoadedPackage {
  const { manifest } = loaded.package;
  const syscalls = [...new Set([...(manifest.syscalls ?? []), "loopback" as const])];
  return { ...loaded, package: { ...loaded.package, manifest: { ...manifest, syscalls } } };
}

async function ownNetwork(cli: Cli, started: AsyncDisposableStack): Promise<Reach> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-dev-"));
  started.defer(async () => {
    await stopNetwork(dir);
    await rm(dir, { recursive: true, force: true });
  });
  using progress = new Progress(cli.io, "Starting a private Tor network");
  const { boxes, socks } = await startNetwork({
    dir,
    boxes: 1,
    detached: false,
    signal: cli.signal,
    onProgress: (phase) => progress.phase(`Starting a private Tor network: ${phase}`),
  });
  const [box] = boxes;
  if (!box) throw usage("Cannot choose a box: the network has none");
  return { ...(await reachBox(cli, box.address, { socks: box.socks ?? socks })), box: box.name };
}

/** Lines become messages, one after the other; returns what stops listening. */
function listenToInput(cli: Cli, loop: DevLoop): () => void {
  const lines = createInterface({ input: cli.io.stdin, crlfDelay: Number.POSITIVE_INFINITY });
  const listening = (async () => {
    // Each waits until a function takes it: input is read no faster.
    for await (const line of lines) await loop.line(line);
    await loop.endInput();
  })();
  listening.catch((error: unknown) => {
    if (!cli.signal.aborted) cli.io.report(error);
  });
  return () => {
    lines.close();
    cli.io.stdin.pause();
  };
}

interface DevLoopOptions {
  readonly cli: Cli;
  readonly fn: string;
  readonly options: FnDevOptions;
  readonly invocation: Invocation;
  readonly client: BoxClient;
  readonly watcher: FileWatcher;
  readonly tell: (event: DevEvent) => void;
}

class DevLoop implements AsyncDisposable {
  readonly #with: DevLoopOptions;
  #run: DevRun | undefined;
  /** The run that takes lines. */
  #ready = Promise.withResolvers<DevRun>();
  #inputEnded = false;
  #granted = "";

  constructor(options: DevLoopOptions) {
    this.#with = options;
  }

  /** The version before ends, then the one on disk is installed and runs. What is wrong is shown, and waited out. */
  async reload(): Promise<void> {
    const { cli, fn, options, client, tell } = this.#with;
    if (this.#run) this.#ready = Promise.withResolvers();
    await this.#end();
    try {
      const loaded = await this.#load(fn, options.manifest);
      if (!(await this.#explainGrant(loaded))) return this.#waiting();
      const onEnded = () => tell("run-ended");
      this.#run = await DevRun.install({ cli, client, loaded, onEnded });
      await this.#invoke(this.#run);
      this.#ready.resolve(this.#run);
    } catch (error) {
      if (cli.signal.aborted) return;
      cli.io.report(error);
      this.#waiting();
    }
  }

  runEnded(): void {
    if (!this.#run?.isRunning) this.#waiting();
  }

  /** A message; where nothing runs, it runs the function again, its storage as it was left. */
  async line(text: string): Promise<void> {
    const run = await this.#ready.promise;
    const isNew = !run.isRunning;
    try {
      if (isNew) await this.#invoke(run);
      if (!isNew || text !== "") await run.send(text);
    } catch (error) {
      // The next version may have taken its place meanwhile.
      if (run === this.#run && !this.#with.cli.signal.aborted) this.#with.cli.io.report(error);
    }
  }

  /** Of this run and of all that come. */
  async endInput(): Promise<void> {
    this.#inputEnded = true;
    await this.#run?.endInput();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end();
  }

  async #end(): Promise<void> {
    const run = this.#run;
    this.#run = undefined;
    await run?.[Symbol.asyncDispose]();
  }

  async #invoke(run: DevRun): Promise<void> {
    this.#with.cli.io.event({ event: "started" });
    await run.invoke(this.#with.invocation, this.#inputEnded);
  }

  async #load(fn: string, manifest: string | undefined): Promise<LoadedPackage> {
    const { watcher, cli } = this.#with;
    const files = await locate(fn);
    const named = [files.source, manifest ?? files.manifest].filter((file) => file !== undefined);
    const folder = path.dirname(path.resolve(files.source));
    // Before it is read: a change meanwhile is noticed.
    await watcher.set(named.map((file) => path.resolve(file)));
    const read = await loadPackage(fn, { manifest });
    const isInspected = this.#with.options.inspect !== undefined && manifestOf(read).image === "deno";
    const loaded = isInspected ? inspectable(read) : read;
    // What packages hold does not change under their author's hands.
    const own = loaded.inputs.filter((input) => !input.includes("node_modules/"));
    await watcher.set([
      ...named.map((file) => path.resolve(file)),
      ...own.map((input) => path.resolve(folder, input)),
    ]);
    cli.io.event({ event: "loaded", name: loaded.name, bytes: loaded.bytes, sourceHash: loaded.sourceHash });
    return loaded;
  }

  /** Whether the box grants what the manifest asks for; tells what it grants when that is news. */
  async #explainGrant(loaded: LoadedPackage): Promise<boolean> {
    const { cli, client } = this.#with;
    const { io } = cli;
    const rules: RuleVerdict[] = [];
    const policy = await client.policy({ signal: cli.signal });
    const result = grant(manifestOf(loaded), policy, (rule) => rules.push(rule));
    io.event({ event: "grant", ...result });
    if (io.json) return result.kind === "granted";
    if (result.kind === "refused") {
      this.#granted = "";
      io.note(`${io.red("✗")} the box refuses ${loaded.name}\n${table(refusalRows(result.refusals))}`);
      return false;
    }
    const asked = rules.filter(({ rule, asked }) => asked && rule !== "store");
    const shown = asked.map(({ rule, wanted }) => `${rule} ${printable(wanted)}`).join(" · ");
    if (shown !== this.#granted) io.note(`${io.green("✓")} granted: ${shown}`);
    this.#granted = shown;
    return true;
  }

  #waiting(): void {
    const { io, signal } = this.#with.cli;
    if (signal.aborted) return;
    io.event({ event: "waiting" });
    if (io.json) return;
    const again = this.#run && !this.#inputEnded ? ", Enter runs it again" : "";
    io.note(io.dim(`— waiting for a change${again}, Ctrl-C ends`));
  }
}
