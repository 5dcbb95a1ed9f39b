// `bento bench message-latency`: a message to a running instance and back, without Tor.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { type BenchContext, type Benchmark, type Figure } from "./benchmark.ts";
import { BenchBox } from "./support/box-process.ts";
import { ECHO, invocationOf } from "./support/functions.ts";
import { interleaved, spread } from "./support/samples.ts";

const WARM_UP = 500;
const SAMPLES = 4000;
const MESSAGE = "x".repeat(100);

export const benchmark: Benchmark = {
  name: "message-latency",
  description: "a message of 100 bytes to a running instance and its echo, no Tor",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  context.phase("starting a box");
  await using box = await BenchBox.start({
    toml: "[policy.net]\nenabled = false\n[policy.function]\ninstances = 64",
  });
  await box.warmedUp();
  await using deno = await Echo.open(box, "deno");
  await using python = await Echo.open(box, "python");
  await using bare = await BareEcho.start();
  const samples = await interleaved(
    { deno: () => deno.exchange(), python: () => python.exchange(), bare: () => bare.exchange() },
    { warmUp: WARM_UP, samples: SAMPLES, signal: context.signal },
  );
  return [
    ...spread("deno", samples.deno, { p99: 1 }),
    ...spread("python", samples.python, { p99: 1 }),
    ...spread("bare TCP echo", samples.bare, {}, "between two processes: what this machine allows right now"),
  ];
}

/** An echo instance with a session attached. */
class Echo implements AsyncDisposable {
  readonly #session: Awaited<ReturnType<ReturnType<BenchBox["client"]>["run"]>>;
  readonly #messages: AsyncIterator<Uint8Array>;

  private constructor(session: Awaited<ReturnType<ReturnType<BenchBox["client"]>["run"]>>) {
    this.#session = session;
    this.#messages = session[Symbol.asyncIterator]();
  }

  static async open(box: BenchBox, image: "deno" | "python"): Promise<Echo> {
    using client = box.client();
    return new Echo(await client.run({ package: ECHO[image] }, invocationOf(image, "echo")));
  }

  async exchange(): Promise<void> {
    await this.#session.send(MESSAGE);
    await this.#messages.next();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session[Symbol.asyncDispose]();
  }
}

const ECHO_SERVER = `
const server = require("node:net").createServer({ noDelay: true }, (socket) => socket.pipe(socket));
server.listen(0, "127.0.0.1", () => process.send(server.address().port));
process.once("disconnect", () => process.exit());
`;

/** An echo server in a process of its own, with nothing of Bento in it. */
class BareEcho implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #socket: Socket;

  private constructor(child: ChildProcess, socket: Socket) {
    this.#child = child;
    this.#socket = socket;
  }

  static async start(): Promise<BareEcho> {
    const child = spawn(process.execPath, ["-e", ECHO_SERVER], {
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    const [port] = (await once(child, "message")) as [number];
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    await once(socket, "connect");
    return new BareEcho(child, socket);
  }

  async exchange(): Promise<void> {
    this.#socket.write(MESSAGE);
    await once(this.#socket, "data");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
    const exited = once(this.#child, "exit");
    this.#child.disconnect();
    await exited;
  }
}
