// The function's env.bento (function.ts): calls to the box, and sessions with far functions as records on the stream
// of a call (wire/guest-record.ts). The box at the other end of the channel is trusted and has checked what far boxes say.

import { concat } from "../../base/bytes.ts";
import { RECORD, RecordSplitter, recordsOf } from "../../wire/guest-record.ts";
import type {
  Bento,
  BoxChoice,
  BoxConstraints,
  Deployment,
  FarSession,
  Json,
  Outcome,
  Package,
} from "../function.ts";
import type { HostChannel } from "./channel.ts";
import type { HostStream } from "./stream.ts";
import { HostError } from "./window.ts";

const { parse, stringify } = JSON;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

type Facts = { readonly [name: string]: Json };
interface Start {
  readonly args?: readonly Json[];
  readonly call?: string;
}

export function bentoOf(channel: HostChannel): Bento {
  const call = <T>(method: string, params: object) => channel.call(`bento.${method}`, params) as Promise<T>;
  return Object.freeze({
    info: (box: string) => call<Facts>("info", { box }),
    async policy(box: string) {
      const { answer, stream } = channel.open("bento.policy", { box }, "in");
      await answer;
      return (await wholeJson(stream)) as Facts;
    },
    async deploy(box: string, pack: Package, options: { linked?: boolean } = {}) {
      const params = { box, linked: options.linked ?? false };
      const { answer, stream } = channel.open("bento.deploy", params, "both");
      await answered(answer, stream, async () => {
        await stream.write(encodePackage(pack));
        stream.end();
      });
      return (await wholeJson(stream)) as Deployment;
    },
    async run(
      box: string,
      what: Package | { readonly token: string },
      options: Start & { readonly linked?: boolean } = {},
    ) {
      const params = { box, invocation: invocationOf(options), linked: options.linked ?? false };
      const token = "token" in what ? { token: what.token } : {};
      const { answer, stream } = channel.open("bento.run", { ...params, ...token }, "both");
      const kinds = { more: RECORD.packageMore, last: RECORD.package };
      const started = await answered(answer, stream, async () => {
        if ("token" in what) return;
        for (const record of recordsOf(encodePackage(what), kinds)) await stream.write(record);
      });
      return attached(channel, box, stream, started);
    },
    async exec(box: string, token: string, options: Start = {}) {
      const params = { box, token, invocation: invocationOf(options) };
      return (await call<{ instance: string }>("exec", params)).instance;
    },
    async open(box: string, instance: string, options: { offset?: number } = {}) {
      const offset = options.offset === undefined ? {} : { offset: options.offset };
      const { answer, stream } = channel.open("bento.open", { box, instance, ...offset }, "both");
      return attached(channel, box, stream, await answer);
    },
    async choose(boxes: readonly string[], manifest?: Package["manifest"], constraints: BoxConstraints = {}) {
      const params = { boxes, constraints, ...(manifest === undefined ? {} : { manifest }) };
      const { answer, stream } = channel.open("bento.choose", params, "in");
      await answer;
      return (await wholeJson(stream)) as BoxChoice;
    },
    close: (box: string, instance: string) => call<boolean>("close", { box, instance }),
    shutdown: (box: string, token: string) => call<number>("shutdown", { box, token }),
  });
}

function invocationOf({ args, call }: Start): object {
  return call === undefined ? { args: args ?? [] } : { call };
}

function encodePackage({ manifest, source }: Package): Uint8Array {
  return encoder.encode(stringify({ manifest, source }));
}

/** The answer, while something is sent: a refusal counts, not the stream that it broke. */
async function answered(
  answer: Promise<unknown>,
  stream: HostStream,
  send: () => Promise<void>,
): Promise<unknown> {
  const sent = send();
  sent.catch(() => stream.close());
  await Promise.race([answer, sent]);
  return await answer;
}

async function wholeJson(stream: HostStream): Promise<unknown> {
  return parse(await new Response(stream.readable).text());
}

async function attached(
  channel: HostChannel,
  box: string,
  stream: HostStream,
  answer: unknown,
): Promise<FarSession> {
  const { instance, offset } = answer as { instance: string; offset: number };
  const far = new FarStream(stream, offset);
  const deployment = await far.deployed();
  return Object.freeze({
    instance,
    deployment,
    get offset() {
      return far.offset;
    },
    get interruptions() {
      return far.interruptions;
    },
    ended: far.ended,
    send: (message: Uint8Array | string) => far.send(message),
    endInput: () => far.endInput(),
    async detach() {
      far.leave();
    },
    close: () => channel.call("bento.close", { box: deployment?.box ?? box, instance }) as Promise<boolean>,
    [Symbol.asyncIterator]: () => far.messages(),
    async [Symbol.asyncDispose]() {
      far.leave();
    },
  });
}

/** Records to messages, messages to records. */
class FarStream {
  offset: number;
  interruptions = 0;
  readonly ended: Promise<Outcome>;
  readonly #stream: HostStream;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #splitter = new RecordSplitter();
  readonly #outcome = Promise.withResolvers<Outcome>();
  #records: Iterator<{ kind: number; payload: Uint8Array }> | undefined;
  #over = false;
  /** The last send: messages go out whole, in the order of the calls. */
  #sending: Promise<unknown> = Promise.resolve();

  constructor(stream: HostStream, offset: number) {
    this.#stream = stream;
    this.#reader = stream.readable.getReader();
    this.offset = offset;
    this.ended = this.#outcome.promise;
    // A function that does not look at it learns of the error from its messages.
    this.ended.catch(() => undefined);
  }

  async deployed(): Promise<Deployment | undefined> {
    const first = await this.#next();
    return first?.kind === RECORD.deployed
      ? ((jsonOf(first.payload) as Deployment | null) ?? undefined)
      : undefined;
  }

  async *messages(): AsyncGenerator<Uint8Array> {
    let parts: Uint8Array[] = [];
    for (;;) {
      const record = await this.#next();
      if (!record) break;
      const { kind, payload } = record;
      if (kind === RECORD.resumed) this.interruptions++;
      if (kind !== RECORD.message && kind !== RECORD.messageMore) continue;
      this.offset += payload.length;
      // The rest of a message that was read in an earlier session.
      if (parts.length === 0 && payload.length === 0) continue;
      parts.push(payload);
      if (kind !== RECORD.message) continue;
      const message = concat(parts);
      parts = [];
      yield message;
    }
    if (parts.length > 0) yield concat(parts);
  }

  send(message: Uint8Array | string): Promise<void> {
    if (typeof message !== "string" && !(message instanceof Uint8Array)) {
      return Promise.reject(new TypeError("Cannot send: a message is a string or a Uint8Array"));
    }
    const bytes = typeof message === "string" ? encoder.encode(message) : message.slice();
    return this.#inTurn(async () => {
      for (const record of recordsOf(bytes, { more: RECORD.messageMore, last: RECORD.message })) {
        await this.#stream.write(record);
      }
    });
  }

  endInput(): Promise<void> {
    return this.#inTurn(async () => this.#stream.end());
  }

  leave(): void {
    if (this.#over) return;
    this.#finish();
    this.#outcome.reject(
      new HostError("detached", "Cannot tell how the instance ended: the session was left"),
    );
    this.#stream.close();
  }

  #inTurn(task: () => Promise<void>): Promise<void> {
    const turn = this.#sending.then(() => {
      if (this.#over) throw new HostError("already-ended", "Cannot send: the session has ended");
      return task();
    });
    this.#sending = turn.catch(() => undefined);
    return turn;
  }

  async #next(): Promise<{ kind: number; payload: Uint8Array } | undefined> {
    for (;;) {
      const record = this.#records?.next();
      if (record && !record.done) {
        if (record.value.kind === RECORD.ended) this.#end(jsonOf(record.value.payload) as Outcome);
        return record.value;
      }
      if (this.#over) return undefined;
      try {
        const { done, value } = await this.#reader.read();
        if (done) throw new HostError("closed", "Cannot go on: the session was closed");
        this.#records = this.#splitter.push(value);
      } catch (error) {
        this.#finish();
        this.#outcome.reject(error);
        throw error;
      }
    }
  }

  #end(outcome: Outcome): void {
    this.#finish();
    this.#outcome.resolve(outcome);
    // Sends that wait for room will never get it.
    this.#stream.window.fail(new HostError("already-ended", "Cannot send: the instance has ended"));
    this.#stream.end();
    this.#reader.cancel().catch(() => undefined);
  }

  #finish(): void {
    this.#over = true;
  }
}

function jsonOf(bytes: Uint8Array): unknown {
  return parse(decoder.decode(bytes));
}
