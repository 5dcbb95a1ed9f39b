// `bento shell --box BOX`: the interactive client of the papers: store, exec, open, close, send, recv, exit. Each
// command takes its values after its name or asks for them; what was got last is offered as default. History is kept
// in memory only, because it holds tokens.

import { createInterface, type Interface } from "node:readline";
import { formatBytes } from "../../base/bytes.ts";
import { Channel } from "../../base/channel.ts";
import { BentoError } from "../../base/errors.ts";
import type { PackageInput } from "../../wire/package.ts";
import { parseInstanceId, parseInvocationToken } from "../../wire/token.ts";
import { BoxClient, newIsolation, type Session } from "../client.ts";
import { nearest } from "../nearest.ts";
import { bundledFunctions, loadPackage } from "../package-loader.ts";
import { reportOutcome } from "./attached.ts";
import { boxLabel, type Cli, chooseBox, type ReachOptions, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { invocationOf } from "./invocation.ts";
import { printable } from "./io.ts";

/** How long `recv` waits before it says that there is nothing: milliseconds. */
const RECV_MS = 2000;
/** Lines typed ahead. */
const LINES_MAX = 10_000;

const HELP = `    store [FN]               install a function: a folder, a file, a bundled name, or Python typed in
    exec [TOKEN] [CALL]      start it: a Python call such as hello(), or arguments
    open [INSTANCE]          attach to an instance
    send [TEXT]              send a message to the open instance
    recv                     take its next message
    close                    end its input (close --kill ends it)
    policy                   what the box grants
    exit                     quit; instances go on`;

const COMMANDS = ["store", "exec", "open", "send", "recv", "close", "policy", "help", "exit"] as const;

interface Open {
  readonly session: Session;
  readonly messages: AsyncIterator<Uint8Array>;
  /** A message that was asked for and has not come yet. */
  pending: Promise<IteratorResult<Uint8Array>> | undefined;
}

export async function shell(cli: Cli, options: ReachOptions): Promise<ExitCode> {
  const reach = await chooseBox(cli, options);
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: newIsolation() });
  const functions = await bundledFunctions();
  await using reader = new LineReader(cli, (line) => complete(line, functions));
  cli.io.note(`Connected to ${boxLabel(reach)}. Type help for the commands.`);
  await using state = new ShellState(cli, client, reader);
  for (;;) {
    const line = await reader.ask(">> ");
    if (line === undefined || cli.signal.aborted) return EXIT.ok;
    const [name = "", ...rest] = line.trim().split(/\s+/);
    if (name === "") continue;
    if (name === "exit" || name === "quit") return EXIT.ok;
    try {
      await state.perform(name, rest, line.trim().slice(name.length).trim());
    } catch (error) {
      cli.io.report(error);
    }
  }
}

class ShellState implements AsyncDisposable {
  readonly #cli: Cli;
  readonly #client: BoxClient;
  readonly #reader: LineReader;
  #token: string | undefined;
  #instance: string | undefined;
  #open: Open | undefined;

  constructor(cli: Cli, client: BoxClient, reader: LineReader) {
    this.#cli = cli;
    this.#client = client;
    this.#reader = reader;
  }

  async perform(name: string, words: readonly string[], rest: string): Promise<void> {
    switch (name) {
      case "help":
        this.#cli.io.note(HELP);
        return;
      case "store":
        return this.#store(words[0]);
      case "exec":
        return this.#exec(words[0], rest.slice((words[0] ?? "").length).trim());
      case "open":
        return this.#attach(words[0]);
      case "send":
        return this.#send(rest);
      case "recv":
        return this.#recv();
      case "close":
        return this.#close(words[0] === "--kill");
      case "policy":
        this.#cli.io.print(JSON.stringify(await this.#client.policy({ signal: this.#cli.signal }), null, 2));
        return;
      default: {
        const near = nearest(name, COMMANDS);
        throw usage(
          `Unknown command "${name}"`,
          near ? `Did you mean ${near}?` : "Type help for the commands.",
        );
      }
    }
  }

  async #store(fn: string | undefined): Promise<void> {
    const pack = fn === undefined ? await this.#typedFunction() : (await loadPackage(fn)).package;
    const stored = await this.#client.store(pack, { signal: this.#cli.signal });
    this.#token = stored.invocationToken;
    this.#cli.io.print(`token: ${stored.invocationToken}`);
    this.#cli.io.print(`shutdown token: ${stored.shutdownToken}`);
  }

  /** As in the papers: a name, then Python, ended by two empty lines. */
  async #typedFunction(): Promise<PackageInput> {
    const name = await this.#reader.need("enter name: ");
    this.#cli.io.note("enter code (enter three times to submit):");
    const lines: string[] = [];
    for (;;) {
      const line = await this.#reader.ask("");
      if (line === undefined) break;
      lines.push(line);
      if (lines.length >= 2 && line === "" && lines.at(-2) === "") break;
    }
    return { manifest: { name, image: "python" }, source: `${lines.join("\n").trim()}\n` };
  }

  async #exec(given: string | undefined, callText: string): Promise<void> {
    const token = given ?? (await this.#reader.need("enter token: ", this.#token));
    const call = given === undefined ? await this.#reader.need("enter call: ") : callText;
    const isCall = call.includes("(");
    const invocation = isCall ? { call } : invocationOf(call === "" ? [] : call.split(/\s+/), {});
    this.#instance = await this.#client.exec(parseInvocationToken(token), invocation, {
      signal: this.#cli.signal,
    });
    this.#cli.io.print(`instance: ${this.#instance}`);
  }

  async #attach(given: string | undefined): Promise<void> {
    const instance = given ?? (await this.#reader.need("enter instance: ", this.#instance));
    await this.#open?.session.detach();
    const session = await this.#client.open(parseInstanceId(instance), { signal: this.#cli.signal });
    this.#instance = session.instance;
    this.#open = { session, messages: session[Symbol.asyncIterator](), pending: undefined };
    this.#cli.io.print("open");
  }

  async #send(text: string): Promise<void> {
    const { session } = this.#attached();
    const message = text === "" ? await this.#reader.need("enter message: ") : text;
    await session.send(message);
    this.#cli.io.print(`sent ${formatBytes(Buffer.byteLength(message))}`);
  }

  async #recv(): Promise<void> {
    const open = this.#attached();
    open.pending ??= open.messages.next();
    const timer = new AbortController();
    const nothing = new Promise<undefined>((resolve) => {
      const timeout = setTimeout(() => resolve(undefined), RECV_MS);
      timer.signal.addEventListener("abort", () => clearTimeout(timeout));
    });
    const next = await Promise.race([open.pending, nothing]).finally(() => timer.abort());
    if (!next) {
      this.#cli.io.print("no data");
      return;
    }
    open.pending = undefined;
    if (!next.done) {
      this.#cli.io.print(printable(Buffer.from(next.value).toString()));
      return;
    }
    this.#open = undefined;
    if (reportOutcome(this.#cli, await open.session.ended) === EXIT.ok)
      this.#cli.io.print("the function has returned");
  }

  async #close(kill: boolean): Promise<void> {
    const { session } = this.#attached();
    if (kill) await this.#client.close(session.instance, { kill, signal: this.#cli.signal });
    else await session.endInput();
    this.#cli.io.print(kill ? "ended" : "input closed");
  }

  #attached(): Open {
    if (this.#open) return this.#open;
    throw usage("No instance is open", "Attach to one with open.");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#open?.session.detach();
  }
}

/** Lines from the terminal or a pipe, in order, none lost between questions. */
class LineReader implements AsyncDisposable {
  readonly #lines = new Channel<string>(LINES_MAX);
  readonly #interface: Interface;

  constructor(cli: Cli, completer: (line: string) => [string[], string]) {
    const terminal = cli.io.stdin.isTTY === true && cli.io.live;
    this.#interface = createInterface({
      input: cli.io.stdin,
      output: cli.io.stderr,
      terminal,
      completer,
      historySize: 500,
    });
    this.#interface.on("line", (line) => {
      if (!this.#lines.isClosed && !this.#lines.push(line)) this.#interface.close();
    });
    this.#interface.on("close", () => this.#lines.close());
    cli.signal.addEventListener("abort", () => this.#interface.close(), { once: true });
  }

  /** The next line; undefined at the end of input. */
  async ask(prompt: string): Promise<string | undefined> {
    this.#interface.setPrompt(prompt);
    if (!this.#lines.isClosed) this.#interface.prompt();
    return this.#lines.receive();
  }

  /** A line that is not empty, or the default. */
  async need(prompt: string, fallback?: string): Promise<string> {
    const line = (await this.ask(fallback === undefined ? prompt : `${prompt}[${fallback}] `))?.trim();
    const value = line ? line : fallback;
    if (value === undefined) throw new BentoError("usage", "Nothing was entered");
    return value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#interface.close();
  }
}

function complete(line: string, functions: readonly string[]): [string[], string] {
  const words = line.trimStart().split(/\s+/);
  const last = words.at(-1) ?? "";
  const pool = words.length <= 1 ? COMMANDS : words[0] === "store" ? functions : [];
  return [pool.filter((word) => word.startsWith(last)), last];
}
