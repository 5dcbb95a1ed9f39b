// The function at the boxes where a standby may be: installed ahead, so that whoever has the service can start a standby
// there, also one that could not install it. A standby that took over starts the next one that way: what its primary
// installed, and the primary's own function, where its box still lives.
// Boundary: boxes that refuse, die, or forget what they were given.

import type { Bento, Deployment, FarSession, Json, Package } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { systemCode } from "../../src/base/errors.ts";
import { END_MS, inTime } from "./in-time.ts";
import { runtimeOf } from "./runtime-of.ts";
import type { KeptStandbyHome } from "./state.ts";

export interface StandbyHomesParts {
  readonly bento: Bento;
  readonly clock: Clock;
  /** What is installed; undefined for one that cannot install any. */
  readonly pack: Package | undefined;
  readonly homes: readonly KeptStandbyHome[];
  /** Resolves when they are kept. */
  readonly onChange: (homes: readonly KeptStandbyHome[]) => Promise<void>;
  /** The function was installed at one more box, where nothing of it runs yet. */
  readonly onInstalled: (home: KeptStandbyHome) => void;
}

export interface StartedStandby {
  readonly far: FarSession;
  readonly home: KeptStandbyHome;
}

export class StandbyHomes {
  readonly #parts: StandbyHomesParts;
  readonly #homes: Map<string, KeptStandbyHome>;
  #isOver = false;

  constructor(parts: StandbyHomesParts) {
    this.#parts = parts;
    this.#homes = new Map(parts.homes.map((home) => [home.box, home]));
  }

  /** Whether it could be installed where it is not. */
  get canInstall(): boolean {
    return this.#parts.pack !== undefined;
  }

  has(box: string): boolean {
    return this.#homes.has(box);
  }

  /**
   * Starts an instance at this box, of the function that is there or of one that is installed now. `argument` is told
   * whether an earlier instance has stored package and site there. Throws what the box says, or why there is nothing to
   * start: Error.
   */
  async run(box: string, argument: (isFilled: boolean) => Json): Promise<StartedStandby> {
    const { bento, pack } = this.#parts;
    const home = this.#homes.get(box);
    if (home) {
      try {
        const args = [argument(home.isFilled)];
        return { far: await bento.run(box, { token: home.invocationToken }, { args }), home };
      } catch (error) {
        if (systemCode(error) !== "bad-token") throw error;
        // The box began anew, or its function expired.
        this.#homes.delete(box);
        await this.#changed();
      }
    }
    if (!pack)
      throw new Error("Cannot place a standby: the function is not installed there, and cannot be from here");
    const far = await bento.run(box, pack, { args: [argument(false)] });
    try {
      if (!far.deployment) throw new Error("the box gave no tokens");
      return { far, home: await this.#keep(box, far.deployment) };
    } catch (error) {
      await far.close().catch(() => undefined);
      throw error;
    }
  }

  /** For a box whose turn may come: installs the function there, and starts nothing. Throws what the box says. */
  async install(box: string): Promise<void> {
    const { bento, pack } = this.#parts;
    if (pack) this.#parts.onInstalled(await this.#keep(box, await bento.deploy(box, pack)));
  }

  /** An instance there has package and site. */
  async filled(box: string): Promise<void> {
    const home = this.#homes.get(box);
    if (!home || home.isFilled) return;
    this.#homes.set(box, { ...home, isFilled: true });
    await this.#changed();
  }

  /** Removes the function everywhere, where the box answers in time: the owner asks them all as well. */
  async end(): Promise<void> {
    const { bento, clock } = this.#parts;
    this.#isOver = true;
    await Promise.all(
      [...this.#homes.values()].map(async ({ box, shutdownToken }) =>
        inTime(bento.shutdown(box, shutdownToken), END_MS, clock).catch(() => undefined),
      ),
    );
  }

  async #keep(box: string, deployment: Deployment): Promise<KeptStandbyHome> {
    const { invocationToken, shutdownToken, expiresAt } = deployment;
    const runtimeMs = runtimeOf(deployment);
    const known = runtimeMs === undefined ? {} : { runtimeMs };
    const home = { box, invocationToken, shutdownToken, expiresAt, isFilled: false, ...known };
    if (this.#isOver) {
      // It came after all: nobody would end it.
      await this.#parts.bento.shutdown(box, shutdownToken).catch(() => undefined);
      throw new Error("the load balancer was stopped");
    }
    this.#homes.set(box, home);
    await this.#changed();
    return home;
  }

  async #changed(): Promise<void> {
    await this.#parts.onChange([...this.#homes.values()]);
  }
}
