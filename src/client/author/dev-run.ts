// One installed function of `bento fn dev`: invoked as often as its author likes, its output and log lines shown as they
// come, and ended at the box before the next version takes its place.

import { BentoError } from "../../base/errors.ts";
import type { Invocation, Outcome } from "../../wire/api.ts";
import { outputEvent, reportOutcome } from "../cli/attached.ts";
import type { Cli } from "../cli/cli.ts";
import { RunLogs } from "../cli/logs.ts";
import type { BoxClient, Session, StoredFunction } from "../client.ts";
import type { LoadedPackage } from "../package-loader.ts";
import { explainTraceback } from "./source-places.ts";

/** How long the box may take to end a function while another waits, or while the author does: milliseconds. */
const END_MS = 10_000;

export class DevRun implements AsyncDisposable {
  readonly #cli: Cli;
  readonly #client: BoxClient;
  readonly #loaded: LoadedPackage;
  readonly #onEnded: () => void;
  readonly #stored: StoredFunction;
  readonly #logs: RunLogs;
  #session: Session | undefined;
  #shown: Promise<void> = Promise.resolve();
  #isOver = false;

  private constructor(
    options: Pick<DevRunOptions, "cli" | "client" | "loaded" | "onEnded">,
    stored: StoredFunction,
  ) {
    this.#cli = options.cli;
    this.#client = options.client;
    this.#loaded = options.loaded;
    this.#onEnded = options.onEnded;
    this.#stored = stored;
    this.#logs = new RunLogs(options.cli.io, options.client, stored.shutdownToken);
  }

  /** Installs the function; `invoke` runs it. */
  static async install(options: DevRunOptions): Promise<DevRun> {
    const { cli, client, loaded } = options;
    return new DevRun(options, await client.store(loaded.package, { signal: cli.signal }));
  }

  /** Whether an instance is there that takes messages. */
  get isRunning(): boolean {
    return this.#session !== undefined;
  }

  async invoke(invocation: Invocation, endInput: boolean): Promise<void> {
    const token = this.#stored.invocationToken;
    const session = await this.#client.run({ token }, invocation, { endInput, signal: this.#cli.signal });
    this.#session = session;
    this.#shown = this.#show(session);
  }

  /** Messages for an instance that has ended meanwhile are dropped, and told. */
  async send(message: string): Promise<void> {
    try {
      await this.#session?.send(message);
    } catch (error) {
      if (!(error instanceof BentoError)) throw error;
      this.#cli.io.note(this.#cli.io.dim("not sent: the function has ended"));
    }
  }

  async endInput(): Promise<void> {
    try {
      await this.#session?.endInput();
    } catch (error) {
      // It has ended by itself.
      if (!(error instanceof BentoError)) throw error;
    }
  }

  /** Ends instance, storage and function at the box. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    await this.#session?.detach();
    await this.#shown;
    await this.#logs.finish();
    try {
      await this.#client.shutdown(this.#stored.shutdownToken, { signal: AbortSignal.timeout(END_MS) });
    } catch (error) {
      if (!(error instanceof BentoError)) throw error;
      this.#cli.io.note(`What was installed could not be ended at the box: ${error.message}`);
    } finally {
      this.#logs[Symbol.dispose]();
    }
  }

  async #show(session: Session): Promise<void> {
    const { io } = this.#cli;
    try {
      let last: number | undefined;
      for await (const chunk of session.chunks()) {
        if (io.json) io.event(outputEvent(chunk));
        else await io.write(chunk.bytes);
        last = chunk.bytes.at(-1) ?? last;
      }
      if (this.#isOver) return;
      const outcome = await session.ended;
      if (last !== undefined && last !== 0x0a && !io.json && io.stdout.isTTY) io.note("");
      reportOutcome(this.#cli, await this.#explained(outcome));
    } catch (error) {
      if (this.#isOver) return;
      io.report(error);
    } finally {
      if (this.#session === session) this.#session = undefined;
      if (!this.#isOver) this.#onEnded();
    }
  }

  async #explained(outcome: Outcome): Promise<Outcome> {
    if (outcome.kind !== "failed") return outcome;
    return { ...outcome, traceback: await explainTraceback(outcome.traceback, this.#loaded) };
  }
}

export interface DevRunOptions {
  readonly cli: Cli;
  readonly client: BoxClient;
  readonly loaded: LoadedPackage;
  /** An invocation is over, and shown. */
  readonly onEnded: () => void;
}
