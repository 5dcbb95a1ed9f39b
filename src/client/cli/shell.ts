// `bento shell --box BOX`: the interactive client of the papers: store, exec, open, close, send, recv, exit. Each
// command takes its values after its name or asks for them; what was got last is offered as default, and saved names
// stand for tokens.

import { formatBytes } from "../../base/bytes.ts";
import type { PackageInput } from "../../wire/package.ts";
import { BoxClient, newIsolation, type Session } from "../client.ts";
import { nearest } from "../nearest.ts";
import { bundledFunctions, loadPackage } from "../package-loader.ts";
import { reportOutcome } from "./attached.ts";
import { boxLabel, type Cli, chooseBox, type Reach, type ReachOptions, usage } from "./cli.ts";
import { clientOf, findFunction, findInstance } from "./credentials.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { invocationOf } from "./invocation.ts";
import { printable } from "./io.ts";
import { list, shutdownFunction } from "./owner.ts";
import { type Complete, filesLike, ShellLines } from "./shell-lines.ts";
import { checkName, saveFunction } from "./store.ts";

/** How long `recv` waits before it says that there is nothing: milliseconds. */
const RECV_MS = 2000;
const RECV_SECONDS_MAX = 86_400;

const HELP = `    store [FN] [--as NAME]   install a function: a folder, a file, a bundled name, or Python typed in
    exec [TOKEN] [CALL]      start it: a Python call such as hello(), or arguments
    open [INSTANCE]          attach to an instance
    send [TEXT]              send a message to the open instance
    recv [--wait SECONDS]    take its next message
    close [--kill]           end its input, or the instance
    shutdown [TOKEN]         end a function: its instances, storage and tokens
    ls                       what is saved; saved names stand for tokens and instances
    policy                   what the box grants
    exit                     quit; instances go on`;

const COMMANDS = [
  "store",
  "exec",
  "open",
  "send",
  "recv",
  "close",
  "shutdown",
  "ls",
  "policy",
  "help",
  "exit",
] as const;

interface Open {
  readonly session: Session;
  readonly client: BoxClient;
  readonly messages: AsyncIterator<Uint8Array>;
  /** A message that was asked for and has not come yet. */
  pending: Promise<IteratorResult<Uint8Array>> | undefined;
}

export async function shell(cli: Cli, options: ReachOptions): Promise<ExitCode> {
  const reach = await chooseBox(cli, options);
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: newIsolation() });
  await using reader = await ShellLines.open(cli, completions(cli));
  cli.io.note(`Connected to ${boxLabel(reach)}. Type help for the commands.`);
  await using state = new ShellState(cli, reach, client, reader);
  for (;;) {
    const line = await reader.command(">> ");
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
  readonly #reach: Reach;
  readonly #client: BoxClient;
  readonly #reader: ShellLines;
  #token: string | undefined;
  #shutdownToken: string | undefined;
  #instance: string | undefined;
  #open: Open | undefined;

  constructor(cli: Cli, reach: Reach, client: BoxClient, reader: ShellLines) {
    this.#cli = cli;
    this.#reach = reach;
    this.#client = client;
    this.#reader = reader;
  }

  async perform(name: string, words: readonly string[], rest: string): Promise<void> {
    switch (name) {
      case "help":
        this.#cli.io.note(HELP);
        return;
      case "store":
        return this.#store(words);
      case "exec":
        return this.#exec(words[0], rest.slice((words[0] ?? "").length).trim());
      case "open":
        return this.#attach(words[0]);
      case "send":
        return this.#send(rest);
      case "recv":
        return this.#recv(words);
      case "close":
        return this.#close(words[0] === "--kill");
      case "shutdown":
        return this.#shutdown(words[0]);
      case "ls":
        await list(this.#cli, undefined, {});
        return;
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

  async #store(words: readonly string[]): Promise<void> {
    const at = words.indexOf("--as");
    const name = at === -1 ? undefined : (words[at + 1] ?? "");
    const [fn] = at === -1 ? words : words.toSpliced(at, 2);
    if (name !== undefined) checkName(name);
    const pack = fn === undefined ? await this.#typedFunction() : (await loadPackage(fn)).package;
    const stored = await this.#client.store(pack, { signal: this.#cli.signal });
    this.#token = stored.invocationToken;
    this.#shutdownToken = stored.shutdownToken;
    if (name !== undefined) {
      const saved = await saveFunction(this.#cli, name, stored, this.#reach, this.#client.isolation);
      this.#cli.io.print(`saved: ${saved}`);
    }
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
    const found = await findFunction(this.#cli, token, await this.#where("functions", token));
    using own = found.name === undefined ? undefined : clientOf(found);
    const client = own ?? this.#client;
    this.#instance = await client.exec(found.value, invocation, { signal: this.#cli.signal });
    this.#cli.io.print(`instance: ${this.#instance}`);
  }

  async #attach(given: string | undefined): Promise<void> {
    const instance = given ?? (await this.#reader.need("enter instance: ", this.#instance));
    const found = await findInstance(this.#cli, instance, await this.#where("instances", instance));
    await this.#leave();
    const client = found.name === undefined ? this.#client : clientOf(found);
    const session = await client.open(found.value, { offset: found.offset, signal: this.#cli.signal });
    this.#instance = session.instance;
    this.#open = { session, client, messages: session[Symbol.asyncIterator](), pending: undefined };
    this.#cli.io.print("open");
  }

  async #send(text: string): Promise<void> {
    const { session } = this.#attached();
    const message = text === "" ? await this.#reader.need("enter message: ") : text;
    await session.send(message);
    this.#cli.io.print(`sent ${formatBytes(Buffer.byteLength(message))}`);
  }

  async #recv(words: readonly string[]): Promise<void> {
    const waitMs = words[0] === "--wait" ? secondsOf(words[1]) * 1000 : RECV_MS;
    const open = this.#attached();
    open.pending ??= open.messages.next();
    const timer = new AbortController();
    const nothing = new Promise<undefined>((resolve) => {
      const timeout = setTimeout(() => resolve(undefined), waitMs);
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
    const outcome = await open.session.ended;
    await this.#leave();
    if (reportOutcome(this.#cli, outcome) === EXIT.ok) this.#cli.io.print("the function has returned");
  }

  async #close(kill: boolean): Promise<void> {
    const { session, client } = this.#attached();
    if (kill) await client.close(session.instance, { kill, signal: this.#cli.signal });
    else await session.endInput();
    this.#cli.io.print(kill ? "ended" : "input closed");
  }

  async #shutdown(given: string | undefined): Promise<void> {
    const token = given ?? (await this.#reader.need("enter shutdown token: ", this.#shutdownToken));
    const where = await this.#where("functions", token);
    const ended = await shutdownFunction(this.#cli, token, where);
    this.#cli.io.print(`shut down, ${ended === 1 ? "1 instance" : `${ended} instances`} ended`);
  }

  /** A saved name brings its own box along; anything else is of this shell's box. */
  async #where(kind: "functions" | "instances", given: string): Promise<ReachOptions> {
    if (Object.hasOwn((await this.#cli.context.read())[kind], given)) return {};
    const { box, direct, socks, relay } = this.#reach;
    return { box, direct, socks, relay: relay?.fingerprint, torControl: relay?.control };
  }

  /** The open instance goes on without us. */
  async #leave(): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    await open?.session.detach();
    if (open && open.client !== this.#client) open.client[Symbol.dispose]();
  }

  #attached(): Open {
    if (this.#open) return this.#open;
    throw usage("No instance is open", "Attach to one with open.");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#leave();
  }
}

function secondsOf(text: string | undefined): number {
  const seconds = Number(text);
  if (text !== undefined && seconds > 0 && seconds <= RECV_SECONDS_MAX) return seconds;
  throw usage(`Cannot wait: wanted seconds, at most ${RECV_SECONDS_MAX}`, "E.g. recv --wait 10.");
}

/** What may follow in a line: commands first, then what each of them takes. */
function completions(cli: Cli): Complete {
  return async (words) => {
    if (words.length <= 1) return COMMANDS;
    const isFlag = words.at(-1)?.startsWith("-");
    const names = async (kind: "functions" | "instances") => Object.keys((await cli.context.read())[kind]);
    switch (words[0]) {
      case "store":
        if (isFlag) return ["--as"];
        return words.at(-2) === "--as"
          ? []
          : [...(await bundledFunctions()), ...(await filesLike(words.at(-1) ?? ""))];
      case "exec":
      case "shutdown":
        return words.length === 2 ? await names("functions") : [];
      case "open":
        return words.length === 2 ? await names("instances") : [];
      case "recv":
        return ["--wait"];
      case "close":
        return ["--kill"];
      default:
        return [];
    }
  };
}
