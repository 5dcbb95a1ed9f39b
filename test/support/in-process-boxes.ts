// `env.bento` and `env.storage` without boxes: functions that run in this process, with the sessions, tokens and ends that
// boxes give them, and with the ways in which boxes fail, whenever a test wants.

import { concat, utf8 } from "../../src/base/bytes.ts";
import { Channel } from "../../src/base/channel.ts";
import { BentoError, messageOf } from "../../src/base/errors.ts";
import type {
  Bento,
  Deployment,
  FarSession,
  Json,
  Outcome,
  Package,
  Session,
  Storage,
  StoredValue,
} from "../../src/guest/function.ts";

/** What a deployed function does. Resolves when its instance returns. */
export type RunFunction = (
  args: readonly Json[],
  session: Session,
  storage: Storage,
  box: string,
) => Promise<void>;

const SESSION_BYTES_MAX = 64 * 2 ** 20;

/** Values in memory, whole or not at all. */
export class MemoryStorage implements Storage {
  readonly values = new Map<string, Uint8Array>();
  /** Called before each value is kept: a test may throw, or note the order. */
  onPut: (key: string) => void = () => undefined;

  text(key: string): string | undefined {
    const value = this.values.get(key);
    return value && new TextDecoder().decode(value);
  }

  async put(
    key: string,
    value: string | Uint8Array | AsyncIterable<Uint8Array>,
  ): Promise<{ readonly bytes: number }> {
    const parts: Uint8Array[] = [];
    if (typeof value === "string") parts.push(utf8(value));
    else if (value instanceof Uint8Array) parts.push(value.slice());
    else for await (const part of value) parts.push(part.slice());
    this.onPut(key);
    const bytes = concat(parts);
    this.values.set(key, bytes);
    return { bytes: bytes.length };
  }

  async get(
    key: string,
    { offset = 0 }: { readonly offset?: number } = {},
  ): Promise<StoredValue | undefined> {
    const value = this.values.get(key);
    if (!value) return undefined;
    const rest = value.subarray(offset);
    return {
      size: value.length,
      readable: new ReadableStream({
        start(controller) {
          for (let at = 0; at < rest.length; at += 65_536) controller.enqueue(rest.slice(at, at + 65_536));
          controller.close();
        },
      }),
      bytes: async () => rest.slice(),
      text: async () => new TextDecoder().decode(rest),
    };
  }

  async send(): Promise<undefined> {
    throw new Error("Cannot send a value: there is no box here that could");
  }

  async delete(key: string): Promise<boolean> {
    return this.values.delete(key);
  }

  async *list({ prefix = "" }: { readonly prefix?: string } = {}) {
    const keys = [...this.values.keys()].filter((key) => key.startsWith(prefix)).sort();
    for (const key of keys) yield { key, bytes: this.values.get(key)?.length ?? 0 };
  }
}

interface Installed {
  readonly box: string;
  readonly pack: Package;
  readonly storage: MemoryStorage;
  readonly token: string;
}

/** One instance: its end of the session, and whoever is attached. */
export class Instance {
  readonly id = crypto.randomUUID();
  readonly box: string;
  readonly input = new Channel<Uint8Array>(SESSION_BYTES_MAX, ({ length }) => length);
  readonly outcome = Promise.withResolvers<Outcome>();
  readonly #stop = new AbortController();
  #attached: Channel<Uint8Array> | undefined;
  #detached: ((code: string) => void) | undefined;
  readonly #backlog: Uint8Array[] = [];
  #isOver = false;
  /** Nothing of it arrives any more, either way: as a machine that hangs. */
  isFrozen = false;

  constructor(box: string) {
    this.box = box;
  }

  get session(): Session {
    const isAttached = () => this.#attached !== undefined;
    return {
      send: async (message) => this.#say(typeof message === "string" ? utf8(message) : message.slice()),
      readable: new ReadableStream(),
      writable: new WritableStream(),
      signal: this.#stop.signal,
      get attached() {
        return isAttached();
      },
      shape: () => Promise.reject(new BentoError("not-granted", "Cannot shape output: not in this process")),
      [Symbol.asyncIterator]: () => this.input[Symbol.asyncIterator](),
    };
  }

  attach(onLost: (code: string) => void): Channel<Uint8Array> {
    if (this.#isOver && this.#backlog.length === 0) throw new BentoError("already-ended", "it has ended");
    this.#detached?.("taken-over");
    const channel = new Channel<Uint8Array>(SESSION_BYTES_MAX, ({ length }) => length);
    for (const message of this.#backlog.splice(0)) channel.push(message);
    if (this.#isOver) channel.close();
    this.#attached = channel;
    this.#detached = onLost;
    return channel;
  }

  detach(channel: Channel<Uint8Array>): void {
    if (this.#attached === channel) this.#attached = undefined;
  }

  end(outcome: Outcome): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.outcome.resolve(outcome);
    this.#attached?.close();
    this.input.close();
    this.#stop.abort(new Error("killed"));
  }

  #say(message: Uint8Array): void {
    if (this.#isOver || this.isFrozen) return;
    if (this.#attached && !this.#attached.isClosed) this.#attached.push(message);
    else this.#backlog.push(message);
  }
}

export class InProcessBoxes
  implements Pick<Bento, "run" | "open" | "close" | "shutdown" | "deploy" | "exec">
{
  readonly #runs: ReadonlyMap<string, RunFunction>;
  readonly #functions = new Map<string, Installed>();
  readonly instances = new Map<string, Instance>();
  /** Boxes that take nothing, with what they say. */
  readonly refusing = new Map<string, BentoError>();
  /** Everything that went to functions: arguments, packages and messages. */
  readonly sent: { readonly box: string; readonly bytes: Uint8Array }[] = [];
  deployed = 0;
  /** What boxes say that they grant. */
  grant: Deployment["grant"] = {};

  /** @param runs by the name in the manifest. */
  constructor(runs: Readonly<Record<string, RunFunction>>) {
    this.#runs = new Map(Object.entries(runs));
  }

  get bento(): Bento {
    return this as unknown as Bento;
  }

  /** As a function on this box has it: it may name the box "self". */
  bentoAt(own: string): Bento {
    const named = (box: string) => (box === "self" ? own : box);
    const at: Pick<Bento, "run" | "open" | "close" | "shutdown" | "deploy" | "exec"> = {
      run: async (box, what, options) => this.run(named(box), what, options),
      open: async (box, id) => this.open(named(box), id),
      close: async (box, id) => this.close(named(box), id),
      shutdown: async (box, token) => this.shutdown(named(box), token),
      deploy: async (box, pack) => this.deploy(named(box), pack),
      exec: async (box, token, options) => this.exec(named(box), token, options),
    };
    return at as unknown as Bento;
  }

  /** Ends an instance as a crash does. */
  kill(id: string): void {
    this.instances.get(id)?.end({ kind: "killed", reason: "crashed" });
  }

  on(box: string): Instance[] {
    return [...this.instances.values()].filter((instance) => instance.box === box);
  }

  storageOf(invocationToken: string): MemoryStorage | undefined {
    return this.#functions.get(invocationToken)?.storage;
  }

  async deploy(box: string, pack: Package): Promise<Deployment> {
    this.#check(box);
    const token = crypto.randomUUID();
    this.#functions.set(token, { box, pack, storage: new MemoryStorage(), token });
    this.deployed++;
    return {
      box,
      name: pack.manifest.name,
      invocationToken: token,
      shutdownToken: `shutdown-${token}`,
      expiresAt: 0,
      sourceHash: "",
      grant: this.grant,
    };
  }

  async run(
    box: string,
    what: Package | { readonly token: string },
    { args = [] }: { readonly args?: readonly Json[] } = {},
  ): Promise<FarSession> {
    this.#check(box);
    const deployment = "token" in what ? undefined : await this.deploy(box, what);
    const installed = this.#functions.get("token" in what ? what.token : (deployment?.invocationToken ?? ""));
    if (installed?.box !== box) throw new BentoError("bad-token", "no such token");
    const run = this.#runs.get(installed.pack.manifest.name);
    if (!run) throw new BentoError("bad-manifest", "a test runs no such function");
    this.sent.push({ box, bytes: utf8(JSON.stringify([what, args])) });
    const instance = new Instance(box);
    this.instances.set(instance.id, instance);
    run(structuredClone(args), instance.session, installed.storage, box).then(
      () => instance.end({ kind: "returned" }),
      (error: unknown) =>
        instance.end({ kind: "failed", name: "Error", message: messageOf(error), traceback: "" }),
    );
    return this.#sessionOf(instance, deployment);
  }

  async exec(box: string, token: string, options: { readonly args?: readonly Json[] } = {}): Promise<string> {
    const far = await this.run(box, { token }, options);
    await far.detach();
    return far.instance;
  }

  async open(box: string, id: string): Promise<FarSession> {
    this.#check(box);
    const instance = this.instances.get(id);
    if (instance?.box !== box) throw new BentoError("not-found", "no such instance");
    return this.#sessionOf(instance, undefined);
  }

  async close(_box: string, id: string): Promise<boolean> {
    this.kill(id);
    return true;
  }

  async shutdown(box: string, token: string): Promise<number> {
    this.#check(box);
    const installed = [...this.#functions.values()].find((one) => `shutdown-${one.token}` === token);
    if (!installed) throw new BentoError("bad-token", "no such token");
    this.#functions.delete(installed.token);
    const running = this.on(box);
    for (const { id } of running) this.kill(id);
    return running.length;
  }

  #check(box: string): void {
    const refusal = this.refusing.get(box);
    if (refusal) throw refusal;
  }

  #sessionOf(instance: Instance, deployment: Deployment | undefined): FarSession {
    let lost: BentoError | undefined;
    const channel = instance.attach((code) => {
      lost = new BentoError(code, `session: ${code}`);
      channel.fail(lost);
    });
    const detach = async () => {
      instance.detach(channel);
    };
    const sent = this.sent;
    return {
      instance: instance.id,
      deployment,
      offset: 0,
      interruptions: 0,
      ended: instance.outcome.promise,
      async send(message) {
        if (lost) throw lost;
        const bytes = typeof message === "string" ? utf8(message) : message.slice();
        sent.push({ box: instance.box, bytes });
        if (!instance.isFrozen && !instance.input.isClosed) instance.input.push(bytes);
      },
      async endInput() {
        instance.input.close();
      },
      detach,
      async close() {
        instance.end({ kind: "killed", reason: "closed" });
        return true;
      },
      [Symbol.asyncIterator]: () => channel[Symbol.asyncIterator](),
      [Symbol.asyncDispose]: detach,
    };
  }
}
