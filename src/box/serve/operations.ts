// What a client may have done to functions and instances, whatever protocol it speaks. Holds the order that makes
// answers trustworthy: room is reserved before anything is awaited, the grant is computed here and now, and
// nothing is acknowledged before the store has made it durable (spec/wire 3).

import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import type { Invocation, Listing, LogPage, Outcome, Stored } from "../../wire/api.ts";
import { BoxError } from "../../wire/error-code.ts";
import type { Grant } from "../../wire/grant.ts";
import { Limits } from "../../wire/limits.ts";
import { type FunctionPackage, parseSentPackage } from "../../wire/package.ts";
import type { Policy } from "../../wire/policy.ts";
import { parseInstanceId, parseInvocationToken, parseShutdownToken } from "../../wire/token.ts";
import type { Admission } from "../admit/admit.ts";
import type { BundledFunctions } from "../admit/bundled-functions.ts";
import type { Instance } from "../session/instance.ts";
import type { Instances } from "../session/instances.ts";
import type { AddedFunction, FunctionId, FunctionStore, StoredFunction } from "../store/function-store.ts";

export interface OperationsOptions {
  readonly clock: Clock;
  readonly store: FunctionStore;
  readonly instances: Instances;
  readonly admission: Admission;
  readonly bundled: BundledFunctions;
  /** Storage that a function uses now: bytes. */
  readonly storageBytes: (id: FunctionId) => number;
  /** Erases what the function keeps; its instances have ended. */
  readonly forget: (id: FunctionId) => Promise<void>;
}

export class Operations {
  readonly #options: OperationsOptions;

  constructor(options: OperationsOptions) {
    this.#options = options;
  }

  get policy(): Policy {
    return this.#options.admission.policy;
  }

  /** A package as a client sent it. Throws BoxError "bad-request", "bad-manifest" or "unknown-source". */
  package(sent: unknown): FunctionPackage {
    return parseSentPackage(sent, (hash) => this.#options.bundled.sourceOf(hash));
  }

  /** Installs a function. Resolves when it is durable. */
  async store(pack: FunctionPackage): Promise<Stored> {
    const granted = this.#options.admission.admitFunction(pack);
    const { added, durable } = this.#startAdd(pack, granted);
    await durable;
    return storedOf(pack, granted, added);
  }

  /** Starts an instance of a stored function. */
  async exec(credential: string | undefined, invocation: Invocation): Promise<Instance> {
    const stored = await this.findInvocable(credential);
    return await this.start(stored, invocation);
  }

  /** The function that a credential may invoke. Throws the same BoxError "bad-token" whatever is wrong with it. */
  async findInvocable(credential: string | undefined): Promise<StoredFunction> {
    const token = parsed(parseInvocationToken, credential);
    return (await this.#options.store.findByInvocation(token)) ?? refuseToken();
  }

  async start(stored: StoredFunction, invocation: Invocation): Promise<Instance> {
    const { package: pack } = stored;
    checkInvocation(pack, invocation);
    const granted = this.#options.admission.admitInvocation(pack);
    return await this.#options.instances.start(instanceRequest(stored, pack, granted, invocation));
  }

  /** Installs and starts at once; the disk works while the guest starts. Neither remains when the other fails. */
  async run(pack: FunctionPackage, invocation: Invocation): Promise<{ stored: Stored; instance: Instance }> {
    checkInvocation(pack, invocation);
    const granted = this.#options.admission.admitFunction(pack);
    this.#refuseWhenFull();
    const { added, durable } = this.#startAdd(pack, granted);
    const starting = this.#options.instances.start(instanceRequest(added, pack, granted, invocation));
    const [start, write] = await Promise.allSettled([starting, durable]);
    if (start.status === "fulfilled" && write.status === "fulfilled") {
      return { stored: storedOf(pack, granted, added), instance: start.value };
    }
    if (start.status === "fulfilled") await this.#options.instances.free(start.value);
    if (write.status === "fulfilled") await this.#options.store.remove(added.id);
    await this.#options.forget(added.id);
    throw start.status === "rejected" ? start.reason : (write as PromiseRejectedResult).reason;
  }

  /** Throws the same BoxError "bad-token" whatever is wrong with the credential. */
  findInstance(credential: string | undefined): Instance {
    return this.#options.instances.find(parsed(parseInstanceId, credential)) ?? refuseToken();
  }

  /** Ends an instance if asked to; a session that is attached learns of it by itself. */
  async close(credential: string | undefined, options: { kill: boolean }): Promise<{ killed: boolean }> {
    const instance = this.findInstance(credential);
    if (!options.kill || instance.outcome) return { killed: false };
    await instance.kill("closed");
    return { killed: true };
  }

  async list(credential: string | undefined): Promise<Listing> {
    const stored = await this.#findOwned(credential);
    const { package: pack, sourceHash, storedAt, expiresAt } = stored;
    return {
      name: pack.manifest.name,
      image: pack.manifest.image,
      sourceHash,
      storedAt,
      expiresAt,
      storageBytes: this.#options.storageBytes(stored.id),
      instances: this.#options.instances.ofFunction(stored.id).map(listed),
    };
  }

  /** Log lines of a function for its owner, after a position; waits for one until `signal` aborts, if there is one. */
  async logs(credential: string | undefined, after: number, signal?: AbortSignal): Promise<LogPage> {
    const { id } = await this.#findOwned(credential);
    return await this.#options.instances.logs(id, after, signal);
  }

  /** Removes the function durably, ends its instances and erases its storage. */
  async shutdown(credential: string | undefined): Promise<{ instancesEnded: number }> {
    const { id } = await this.#findOwned(credential);
    return { instancesEnded: await this.remove(id) };
  }

  /** The same for a function that is known, sparing one of its instances. Returns how many instances were ended. */
  async remove(id: FunctionId, spared?: Instance): Promise<number> {
    // The removal comes first: from then on no new instance can start.
    await this.#options.store.remove(id);
    const instancesEnded = await this.#options.instances.endFunction(id, "shutdown", spared);
    await this.#options.forget(id);
    return instancesEnded;
  }

  /** Removes what has expired. */
  async expire(): Promise<void> {
    for (const id of await this.#options.store.expire(this.#options.clock.now())) {
      await this.#options.instances.endFunction(id, "expired");
      await this.#options.forget(id);
    }
  }

  /** Whether there is room is decided when it is reserved; this spares the disk the runs of a box that is full. */
  #refuseWhenFull(): void {
    const { accepting, used, policy } = this.#options.admission;
    if (accepting) return;
    throw used.instances >= policy.total.instances
      ? new BoxError("box-full", `Cannot start instance: this box runs ${used.instances} and no more`)
      : new BoxError("functions-unavailable", "Cannot start instance: the sandbox is not ready");
  }

  async #findOwned(credential: string | undefined): Promise<StoredFunction> {
    const token = parsed(parseShutdownToken, credential);
    return (await this.#options.store.findByShutdown(token)) ?? refuseToken();
  }

  #startAdd(pack: FunctionPackage, granted: Grant) {
    const expiresAt = this.#options.clock.now() + granted.limits.lifetimeMs;
    return this.#options.store.startAdd(pack, { expiresAt });
  }
}

/** One answer for every wrong credential: malformed, unknown, of another kind, expired. */
function refuseToken(): never {
  throw new BoxError("bad-token", "Cannot use token: this box knows none like it");
}

function parsed<T>(parse: (text: string) => T, credential: string | undefined): T {
  try {
    return parse(credential ?? "");
  } catch (error) {
    if (error instanceof BentoError && error.code === "bad-token") return refuseToken();
    throw error;
  }
}

function checkInvocation(pack: FunctionPackage, invocation: Invocation): void {
  if ("call" in invocation && pack.manifest.image !== "python") {
    throw new BoxError("call-unsupported", `Cannot call: ${pack.manifest.image} functions take arguments`);
  }
  const bytes = Buffer.byteLength(JSON.stringify(invocation));
  if (bytes > Limits.argumentBytesMax) {
    throw new BoxError(
      "too-large",
      `Cannot invoke: ${bytes} bytes of arguments, expected at most ${Limits.argumentBytesMax}`,
    );
  }
}

function instanceRequest(
  { id, sourceHash }: { readonly id: FunctionId; readonly sourceHash: string },
  pack: FunctionPackage,
  granted: Grant,
  invocation: Invocation,
) {
  const { name, entry } = pack.manifest;
  return {
    functionId: id,
    name,
    source: pack.source,
    sourceHash,
    grant: granted,
    invocation,
    ...(entry === undefined ? {} : { entry }),
  };
}

function storedOf(pack: FunctionPackage, granted: Grant, added: AddedFunction): Stored {
  return {
    invocationToken: added.invocationToken,
    shutdownToken: added.shutdownToken,
    name: pack.manifest.name,
    sourceHash: added.sourceHash,
    grant: {
      ...granted,
      syscalls: [...granted.syscalls],
      box: [...granted.box],
      net: granted.net && { ...granted.net, allow: [...granted.net.allow] },
      bento: granted.bento && { ...granted.bento, boxes: [...granted.bento.boxes] },
      tor: granted.tor && { ...granted.tor, routines: [...granted.tor.routines] },
    },
    expiresAt: added.expiresAt,
  };
}

function listed(instance: Instance) {
  const { log, startedAt, isAttached, backlog } = instance;
  const outcome: Outcome | undefined = instance.outcome;
  return {
    number: log.number,
    startedAt,
    attached: isAttached,
    outputBytes: backlog.end,
    waitingBytes: backlog.heldBytes,
    ...(outcome ? { outcome } : {}),
  };
}
