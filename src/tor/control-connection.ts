// One connection to a control port: commands go out, each gets its reply in order, events go to listeners.
// Knows framing and order only; what commands mean is control-client.ts.
// Spec: control-spec section 2.

import { connect, type Socket } from "node:net";
import { BentoError, ProtocolError } from "../base/errors.ts";
import { type ControlEvent, parseEvent } from "./control-event.ts";
import { type Reply, ReplyParser } from "./control-reply.ts";

/** Where a control port listens: TCP, or a Unix socket's path. */
export type ControlAddress = { readonly host: string; readonly port: number } | { readonly path: string };

/** Commands whose replies are outstanding. Ours never exceed dozens: more means that tor has stalled. */
const COMMANDS_PENDING_MAX = 1000;

interface Pending {
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: unknown) => void;
}

export class ControlConnection implements AsyncDisposable {
  readonly #socket: Socket;
  readonly #parser = new ReplyParser();
  readonly #pending: Pending[] = [];
  readonly #closed = Promise.withResolvers<BentoError>();
  #closeReason: BentoError | undefined;
  /** Called for every event, in order, between the replies as they came. */
  onEvent: (event: ControlEvent) => void = () => {
    /* nobody listens yet */
  };

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on("data", (bytes: Buffer) => {
      this.#receive(bytes);
    });
    socket.on("error", (cause) => {
      this.close(
        new BentoError("tor-control-lost", "Cannot use Tor's control port: connection failed", { cause }),
      );
    });
    socket.on("close", () => {
      this.close(
        new BentoError("tor-control-lost", "Cannot use Tor's control port: tor closed the connection"),
      );
    });
  }

  /** Connects; does not authenticate. Throws BentoError `tor-control-unreachable`. */
  static async open(
    address: ControlAddress,
    options: { signal?: AbortSignal } = {},
  ): Promise<ControlConnection> {
    options.signal?.throwIfAborted();
    const socket = connect({ ...address });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = () => {
      reject(options.signal?.reason);
    };
    options.signal?.addEventListener("abort", onAbort, { once: true });
    socket.once("connect", resolve);
    socket.once("error", (cause) => {
      const where = "path" in address ? address.path : `${address.host}:${String(address.port)}`;
      reject(
        new BentoError("tor-control-unreachable", `Cannot reach Tor's control port at ${where}`, {
          cause,
          advice: "Check that tor runs and that its torrc has this ControlPort or ControlSocket.",
        }),
      );
    });
    try {
      await promise;
      return new ControlConnection(socket);
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      options.signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Resolves, never rejects, with the reason when the connection is gone. First reason wins. */
  get closed(): Promise<BentoError> {
    return this.#closed.promise;
  }

  get isClosed(): boolean {
    return this.#closeReason !== undefined;
  }

  /**
   * Sends one command and resolves with its reply, whatever its code. `data` makes it a `+` command with a data block.
   * On abort the promise rejects; the command itself may still take effect, and its reply is dropped.
   */
  async send(line: string, options: { data?: string; signal?: AbortSignal } = {}): Promise<Reply> {
    options.signal?.throwIfAborted();
    if (/[\r\n\0]/u.test(line))
      throw new BentoError(
        "tor-control-command",
        "Cannot send control command: it contains a line end or NUL",
      );
    if (this.#closeReason) throw this.#closeReason;
    if (this.#pending.length >= COMMANDS_PENDING_MAX)
      throw new BentoError(
        "tor-control-busy",
        `Cannot send control command: ${String(COMMANDS_PENDING_MAX)} commands wait for replies`,
      );
    const { promise, resolve, reject } = Promise.withResolvers<Reply>();
    this.#pending.push({ resolve, reject });
    this.#socket.write(
      options.data === undefined ? `${line}\r\n` : `+${line}\r\n${stuff(options.data)}.\r\n`,
    );
    const onAbort = () => {
      reject(options.signal?.reason);
    };
    options.signal?.addEventListener("abort", onAbort, { once: true });
    try {
      return await promise;
    } finally {
      options.signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Ends the connection and fails what is outstanding. */
  close(
    reason = new BentoError("tor-control-closed", "Cannot use Tor's control port: connection was closed"),
  ): void {
    if (this.#closeReason) return;
    this.#closeReason = reason;
    this.#socket.destroy();
    for (const { reject } of this.#pending.splice(0)) reject(reason);
    this.#closed.resolve(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.#closed.promise;
  }

  #receive(bytes: Uint8Array): void {
    try {
      for (const reply of this.#parser.push(bytes)) {
        if (reply.code >= 600) {
          this.onEvent(parseEvent(reply));
          continue;
        }
        const pending = this.#pending.shift();
        if (!pending)
          throw new ProtocolError("tor-control-protocol", "Cannot read control reply: nothing was asked");
        pending.resolve(reply);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.close(error);
    }
  }
}

// control-spec 2.1 [Data]: lines end in CRLF, a line that begins with "." gets one more.
function stuff(data: string): string {
  return data
    .split(/\r?\n/u)
    .map((line) => `${line.startsWith(".") ? "." : ""}${line}\r\n`)
    .join("");
}
