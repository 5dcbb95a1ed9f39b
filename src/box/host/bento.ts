// Functions that deploy and use functions (spec/policy 2.4, guest 5.2): decides which boxes a function may reach and
// how much of it, and reaches them through the box's own tor client, or at its own listener for the box itself.
// The function is hostile; so may be every box it names.

import { randomBytes } from "node:crypto";
import { orAborted } from "../../base/abort.ts";
import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import type { Info, Invocation, Stored } from "../../wire/api.ts";
import { type BoxAddress, formatAddress, tryParseAddress } from "../../wire/box-address.ts";
import { type BoxChoice, type BoxConstraints, type Candidate, chooseBoxes } from "../../wire/choose-boxes.ts";
import { BoxError } from "../../wire/error-code.ts";
import type { BentoGrant } from "../../wire/grant.ts";
import { parseManifest } from "../../wire/manifest.ts";
import { ANY_BOX, type Policy, SELF } from "../../wire/policy.ts";
import { surveyBoxes } from "../../wire/survey-boxes.ts";
import { parseInstanceId, parseInvocationToken, parseShutdownToken } from "../../wire/token.ts";
import type { FunctionId } from "../store/function-store.ts";
import { Aftermath } from "./bento-aftermath.ts";
import { BentoBudget, type Charge, costOfDeploying } from "./bento-budget.ts";
import { RemoteRefusal, remoteRefusal } from "./bento-error.ts";
import {
  collectPackage,
  FUNCTION_PACKAGES_BYTES_MAX,
  PACKAGES_BYTES_MAX,
  PackageRoom,
  type PassingPackage,
} from "./bento-package.ts";
import type { RemoteBox, RemoteBoxes, RemoteSession, RemoteTarget } from "./bento-remote.ts";
import { GrantedSession } from "./bento-session.ts";
import type { Deployed, FarSession, InstanceBento } from "./services.ts";

export interface BentoBrokerOptions {
  readonly boxes: RemoteBoxes;
  /** Whether the address is one of this box. */
  readonly isOwn: (address: BoxAddress) => boolean;
  readonly clock: Clock;
  readonly log: Log;
}

/** What is kept for one function as long as it is installed. */
interface FunctionState {
  readonly budget: BentoBudget;
  readonly room: PackageRoom;
  /** Streams of different functions never share a circuit. */
  readonly isolation: string;
}

export class BentoBroker implements AsyncDisposable {
  readonly #options: BentoBrokerOptions;
  readonly #functions = new Map<FunctionId, FunctionState>();
  readonly #room = new PackageRoom(PACKAGES_BYTES_MAX);
  readonly #stopping = new AbortController();
  readonly aftermath: Aftermath;

  constructor(options: BentoBrokerOptions) {
    this.#options = options;
    this.aftermath = new Aftermath(options);
  }

  /** Functions of which something is kept. */
  get functions(): number {
    return this.#functions.size;
  }

  /** Disposing it leaves every session, and ends what was linked to the instance. */
  forInstance(id: FunctionId, grant: BentoGrant): InstanceBento {
    let state = this.#functions.get(id);
    if (!state) {
      const isolation = `function-${randomBytes(12).toString("base64url")}`;
      state = { budget: new BentoBudget(), room: new PackageRoom(FUNCTION_PACKAGES_BYTES_MAX), isolation };
      this.#functions.set(id, state);
    }
    return new GrantedBento(grant, state, {
      ...this.#options,
      room: this.#room,
      aftermath: this.aftermath,
      stopping: this.#stopping.signal,
    });
  }

  /** The function is gone for good: no instance of it starts any more. */
  forget(id: FunctionId): void {
    this.#functions.delete(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.aftermath[Symbol.asyncDispose]();
    this.#stopping.abort(new BentoError("closed", "Cannot reach boxes: the box is stopping"));
  }
}

interface Shared extends BentoBrokerOptions {
  readonly room: PackageRoom;
  readonly aftermath: Aftermath;
  /** Aborted when the box stops: requests may outlive the instance that made them, never the box. */
  readonly stopping: AbortSignal;
}

class GrantedBento implements InstanceBento {
  readonly #grant: BentoGrant;
  readonly #state: FunctionState;
  readonly #shared: Shared;
  readonly #ended = new AbortController();
  readonly #sessions = new Set<FarSession>();
  /** What ends with the instance. */
  readonly #linked = new Set<() => void>();

  constructor(grant: BentoGrant, state: FunctionState, shared: Shared) {
    this.#grant = grant;
    this.#state = state;
    this.#shared = shared;
  }

  info(box: string, signal: AbortSignal): Promise<Info> {
    return this.#ask(box, signal, (remote, wait) => remote.info({ signal: wait }));
  }

  async policy(box: string, signal: AbortSignal): Promise<Policy> {
    const policy = await this.#ask(box, signal, (remote, wait) => remote.policy({ signal: wait }));
    this.#state.budget.charge(this.#grant, { bytes: JSON.stringify(policy).length });
    return policy;
  }

  async deploy(
    box: string,
    pieces: AsyncIterable<Uint8Array>,
    { linked, signal }: { linked: boolean; signal: AbortSignal },
  ): Promise<Deployed> {
    const target = this.#target(box);
    const pack = await collectPackage(pieces, [this.#state.room, this.#shared.room]);
    const deploying = this.#deploy(target, pack);
    return this.#unlessLeft(deploying, signal, {
      kept: (deployed) => {
        if (linked) this.#link(() => this.#shutdownLater(target, deployed));
      },
      left: (deployed) => this.#shutdownLater(target, deployed),
    });
  }

  async exec(box: string, token: string, invocation: Invocation, signal: AbortSignal): Promise<string> {
    const parsed = known(parseInvocationToken, token);
    const charge = this.#charge({ invocations: 1, bytes: JSON.stringify(invocation).length });
    return this.#ask(
      box,
      signal,
      (remote, wait) => remote.exec(parsed, invocation, { signal: wait }),
      charge,
    );
  }

  async run(
    box: string,
    what: { token: string } | { package: AsyncIterable<Uint8Array> },
    invocation: Invocation,
    { linked, endInput, signal }: { linked: boolean; endInput: boolean; signal: AbortSignal },
  ): Promise<FarSession> {
    const target = this.#target(box);
    const pack =
      "package" in what
        ? await collectPackage(what.package, [this.#state.room, this.#shared.room])
        : undefined;
    const token = "token" in what ? known(parseInvocationToken, what.token) : undefined;
    const running = this.#attach(
      target,
      pack,
      { invocations: 1, bytes: JSON.stringify(invocation).length },
      (remote, onResumed) => {
        const options = { endInput, onResumed, signal: this.#shared.stopping };
        if (pack) return remote.run({ package: pack.input }, invocation, options);
        if (token) return remote.run({ token }, invocation, options);
        throw new BentoError("bad-call", "Cannot run: neither package nor token");
      },
    );
    const end = (session: FarSession) => {
      if (session.deployed) this.#shutdownLater(target, session.deployed);
      else this.#killLater(target, session.instance);
    };
    return this.#unlessLeft(running, signal, {
      kept: (session) => {
        this.#sessions.add(session);
        if (linked) this.#link(() => end(session));
      },
      left: (session) => {
        void session.detach();
        // A package that nobody has the tokens of would stay; an instance that was asked for by token may go on.
        if (session.deployed || linked) end(session);
      },
    });
  }

  async open(
    box: string,
    instance: string,
    { offset, signal }: { offset?: number | undefined; signal: AbortSignal },
  ): Promise<FarSession> {
    const target = this.#target(box);
    const id = known(parseInstanceId, instance);
    const opening = this.#attach(target, undefined, {}, (remote, onResumed) =>
      remote.open(id, { offset, onResumed, signal: this.#shared.stopping }),
    );
    return this.#unlessLeft(opening, signal, {
      kept: (session) => this.#sessions.add(session),
      left: (session) => void session.detach(),
    });
  }

  close(box: string, instance: string, options: { kill: boolean; signal: AbortSignal }): Promise<boolean> {
    const id = known(parseInstanceId, instance);
    return this.#ask(box, options.signal, (remote, signal) =>
      remote.close(id, { kill: options.kill, signal }),
    );
  }

  shutdown(box: string, token: string, signal: AbortSignal): Promise<number> {
    const parsed = known(parseShutdownToken, token);
    return this.#ask(box, signal, (remote, wait) => remote.shutdown(parsed, { signal: wait }));
  }

  async choose(
    boxes: readonly string[],
    manifest: unknown,
    constraints: BoxConstraints,
    signal: AbortSignal,
  ): Promise<BoxChoice> {
    const parsed = manifest === undefined ? undefined : known(parseManifest, manifest);
    const choose = (candidates: readonly Candidate[]) =>
      chooseBoxes(candidates, parsed, constraints, Math.random);
    const ask = (box: string) => ({
      info: (wait: AbortSignal) => this.info(box, wait),
      policy: (wait: AbortSignal) => this.policy(box, wait),
    });
    const candidates = await surveyBoxes(boxes, ask, {
      clock: this.#shared.clock,
      signal: AbortSignal.any([signal, this.#ended.signal]),
      enough: (found) => choose(found).chosen.length >= (constraints.count ?? 1),
    });
    return choose(candidates);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new BentoError("closed", "Cannot go on: the instance has ended"));
    for (const session of this.#sessions) void session.detach();
    for (const end of this.#linked) end();
    this.#linked.clear();
  }

  /** Which box a text means, if this function may use it. Throws RemoteRefusal "bento-refused". */
  #target(box: string): RemoteTarget {
    this.#ended.signal.throwIfAborted();
    const { boxes } = this.#grant;
    const { isolation } = this.#state;
    const address = box === SELF ? SELF_ADDRESS : tryParseAddress(box);
    if (!address) throw refused('expected "self" or the address of a box');
    if (box === SELF || this.#shared.isOwn(address)) {
      // Under whatever name: else "*" would mean this box, too.
      if (!boxes.includes(SELF)) throw refused('it is this one, and "self" was not granted');
      return { address: SELF_ADDRESS, isolation, route: "self" };
    }
    const text = formatAddress(address);
    const isNamed = boxes.some((name) => {
      const named = tryParseAddress(name);
      return named !== undefined && formatAddress(named) === text;
    });
    if (!isNamed && !boxes.includes(ANY_BOX)) throw refused("it is none of those that were granted");
    return { address, isolation, route: "tor" };
  }

  #charge(cost: Parameters<BentoBudget["charge"]>[1]): Charge {
    return this.#state.budget.charge(this.#grant, cost);
  }

  /** One request. `charge` is given back when the far box is known not to have done it. */
  async #ask<T>(
    box: string,
    signal: AbortSignal,
    ask: (remote: RemoteBox, wait: AbortSignal) => Promise<T>,
    charge?: Charge,
  ): Promise<T> {
    const wait = AbortSignal.any([signal, this.#ended.signal, this.#shared.stopping]);
    let remote: RemoteBox | undefined;
    let slot: Charge | undefined;
    try {
      const target = this.#target(box);
      slot = this.#state.budget.takeRequest(this.#grant);
      remote = this.#shared.boxes(target);
      return await ask(remote, wait);
    } catch (error) {
      if (isUndone(error, remote)) charge?.giveBack();
      wait.throwIfAborted();
      throw remoteRefusal(error);
    } finally {
      slot?.giveBack();
      remote?.[Symbol.dispose]();
    }
  }

  async #deploy(target: RemoteTarget, pack: PassingPackage): Promise<Deployed> {
    using _pack = pack;
    const charge = this.#charge(costOfDeploying(pack.parsed.manifest, this.#grant, pack.bytes));
    let remote: RemoteBox | undefined;
    let slot: Charge | undefined;
    try {
      slot = this.#state.budget.takeRequest(this.#grant);
      remote = this.#shared.boxes(target);
      return deployedAt(target, await remote.store(pack.input, { signal: this.#shared.stopping }));
    } catch (error) {
      if (isUndone(error, remote)) charge.giveBack();
      throw remoteRefusal(error);
    } finally {
      slot?.giveBack();
      remote?.[Symbol.dispose]();
    }
  }

  async #attach(
    target: RemoteTarget,
    pack: PassingPackage | undefined,
    cost: { invocations?: number; bytes?: number },
    attach: (remote: RemoteBox, onResumed: () => void) => Promise<RemoteSession>,
  ): Promise<FarSession> {
    using _pack = pack;
    const { budget } = this.#state;
    const undo: Charge[] = [];
    let remote: RemoteBox | undefined;
    let slot: Charge | undefined;
    try {
      slot = budget.takeRequest(this.#grant);
      const session = budget.takeSession(this.#grant);
      undo.push(session);
      if (pack) undo.push(this.#charge(costOfDeploying(pack.parsed.manifest, this.#grant, pack.bytes)));
      undo.push(this.#charge(cost));
      const reached = this.#shared.boxes(target);
      remote = reached;
      let onResumed: () => void = () => undefined;
      const far = await attach(reached, () => {
        onResumed();
      });
      const granted: GrantedSession = new GrantedSession(far, {
        deployed: far.stored && deployedAt(target, far.stored),
        charge: (bytes) => this.#charge({ bytes }),
        onOver: () => {
          this.#sessions.delete(granted);
          session.giveBack();
          reached[Symbol.dispose]();
        },
      });
      onResumed = () => {
        granted.onResumed();
      };
      return granted;
    } catch (error) {
      // The session is over in any case; the rest only when nothing can have come of it.
      for (const charge of isUndone(error, remote) ? undo : undo.slice(0, 1)) charge.giveBack();
      remote?.[Symbol.dispose]();
      throw remoteRefusal(error);
    } finally {
      slot?.giveBack();
    }
  }

  /** The result for whoever waits, or for nobody: what was begun at another box is never left half known. */
  async #unlessLeft<T>(
    work: Promise<T>,
    signal: AbortSignal,
    then: { kept: (value: T) => void; left: (value: T) => void },
  ): Promise<T> {
    const gone = AbortSignal.any([signal, this.#ended.signal]);
    try {
      const value = await orAborted(work, gone);
      gone.throwIfAborted();
      then.kept(value);
      return value;
    } catch (error) {
      if (gone.aborted) work.then(then.left, () => undefined);
      throw error;
    }
  }

  #link(end: () => void): void {
    this.#linked.add(end);
  }

  #shutdownLater(target: RemoteTarget, { shutdownToken }: Deployed): void {
    this.#later(target, (remote, signal) => remote.shutdown(parseShutdownToken(shutdownToken), { signal }));
  }

  #killLater(target: RemoteTarget, instance: string): void {
    this.#later(target, (remote, signal) => remote.close(parseInstanceId(instance), { kill: true, signal }));
  }

  #later(target: RemoteTarget, task: (remote: RemoteBox, signal: AbortSignal) => Promise<unknown>): void {
    this.#shared.aftermath.add(async (signal) => {
      using remote = this.#shared.boxes(target);
      await task(remote, signal);
    });
  }
}

/** What stands in the Host header of requests to the box itself. */
const SELF_ADDRESS: BoxAddress = { host: "self", port: 1 };

function deployedAt({ address, route }: RemoteTarget, stored: Stored): Deployed {
  return { ...stored, box: route === "self" ? SELF : formatAddress(address) };
}

/** What the function wrote, parsed. Throws RemoteRefusal "bad-token" or "bad-manifest". */
function known<From, T>(parse: (from: From) => T, from: From): T {
  try {
    return parse(from);
  } catch (error) {
    throw remoteRefusal(error);
  }
}

/** Whether nothing can have come of a request: the box said no, or never got it. */
function isUndone(error: unknown, remote: RemoteBox | undefined): boolean {
  return error instanceof BoxError || !remote?.wasReached;
}

function refused(why: string): RemoteRefusal {
  return new RemoteRefusal("bento-refused", `Cannot use box: ${why}`);
}
