// A tor client that is none: a control port and a SOCKS port that keep circuits, streams and onion services as a table
// and record every command with the connection that it came on. Circuits stand at once, far ends echo what they get.
// For tests of the firewall (src/tor/firewall), which must be able to see everything that it says to tor.

import { mkdtemp, rm } from "node:fs/promises";
import { connect as connectSocket, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ControlClient } from "../../src/tor/control-client.ts";

export interface FakeRelay {
  readonly nickname: string;
  readonly fingerprint: string;
}

export interface FakeCircuit {
  readonly id: string;
  path: string[];
  readonly purpose: string;
}

interface FakeStream {
  readonly id: string;
  readonly username: string;
  readonly socket: Socket | undefined;
  readonly target: string;
  circuit: string | undefined;
}

interface FakeOnion {
  readonly serviceId: string;
  readonly line: string;
  readonly connection: Connection;
  readonly targets: ReadonlyMap<number, string>;
}

interface Connection {
  readonly id: number;
  readonly socket: Socket;
  events: ReadonlySet<string>;
}

export interface Command {
  readonly connection: number;
  readonly line: string;
}

/** Names, the host names of streams, that have a fate of their own. */
export const REFUSED = "refused.test";
export const DETACHED = "detached.test";
export const SILENT = "silent.test";

export class FakeTor implements AsyncDisposable {
  readonly dir: string;
  readonly relays: readonly FakeRelay[];
  readonly commands: Command[] = [];
  readonly circuits = new Map<string, FakeCircuit>();
  readonly streams = new Map<string, FakeStream>();
  readonly onions = new Map<string, FakeOnion>();
  /** Circuits stay as they are begun until `build`. */
  holdsCircuits = false;
  leavesUnattached = false;
  readonly #connections = new Set<Connection>();
  readonly #sockets = new Set<Socket>();
  readonly #servers: Server[] = [];
  #lastId = 100;

  private constructor(dir: string) {
    this.dir = dir;
    this.relays = Array.from({ length: 8 }, (_, index) => ({
      nickname: `relay${index}`,
      fingerprint: (0xa0 + index).toString(16).toUpperCase().repeat(20),
    }));
  }

  static async start(): Promise<FakeTor> {
    const tor = new FakeTor(await mkdtemp(join(tmpdir(), "bento-fake-")));
    await tor.#listen("control", (socket) => tor.#onControl(socket));
    await tor.#listen("socks", (socket) => tor.#onSocks(socket));
    return tor;
  }

  /** The one that tor would use first: owners are not to learn of it. */
  get guard(): string {
    return this.relays[0]?.fingerprint ?? "";
  }

  get socks(): { path: string } {
    return { path: join(this.dir, "socks") };
  }

  async connect(): Promise<ControlClient> {
    return ControlClient.connect({ path: join(this.dir, "control") });
  }

  /** Tor dies. */
  kill(): void {
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers.splice(0)) server.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await rm(this.dir, { recursive: true, force: true });
  }

  /** A circuit of tor's own, or of another program. */
  foreignCircuit(): string {
    const circuit = {
      id: this.#nextId(),
      path: [this.guard, this.#relay(1), this.#relay(2)],
      purpose: "GENERAL",
    };
    this.circuits.set(circuit.id, circuit);
    this.#circuitEvent(circuit, "BUILT");
    return circuit.id;
  }

  /** A stream that no owner made. */
  foreignStream(username = "somebody"): string {
    const stream: FakeStream = {
      id: this.#nextId(),
      username,
      socket: undefined,
      target: "secret.test:443",
      circuit: undefined,
    };
    this.streams.set(stream.id, stream);
    this.#streamEvent(stream, "NEW");
    this.#leave(stream);
    return stream.id;
  }

  /** A stream of tor itself, to a directory. It waits for no controller, whatever was set; once it is detached and goes on. */
  directoryStream(): string {
    const id = this.#nextId();
    const target = `127.3.0.1.$${this.guard}~relay0.exit:9001`;
    const stream: FakeStream = { id, username: "", socket: undefined, target, circuit: "1" };
    this.streams.set(id, stream);
    this.#streamEvent(stream, "NEW", " SOURCE_ADDR=(Tor_internal):0 PURPOSE=DIR_FETCH");
    this.#streamEvent(stream, "SENTCONNECT");
    this.#streamEvent(stream, "DETACHED", " REASON=TIMEOUT");
    this.#streamEvent(stream, "SENTCONNECT");
    return id;
  }

  /** A circuit ends by itself. */
  breakCircuit(id: string, status: "CLOSED" | "FAILED" = "CLOSED"): void {
    const circuit = this.circuits.get(id);
    if (!circuit) return;
    this.circuits.delete(id);
    for (const stream of this.streams.values()) if (stream.circuit === id) stream.socket?.destroy();
    this.#circuitEvent(circuit, status, " REASON=DESTROYED");
  }

  build(id: string): void {
    const circuit = this.circuits.get(id);
    if (circuit) this.#circuitEvent(circuit, "BUILT");
  }

  /** A client connects to an onion service. */
  visit(serviceId: string, port: number): Socket {
    const path = this.onions.get(serviceId)?.targets.get(port);
    if (path === undefined) throw new Error(`no onion service ${serviceId}:${port}`);
    const socket = connectSocket({ path, allowHalfOpen: true });
    socket.on("error", () => socket.destroy());
    this.#sockets.add(socket);
    return socket;
  }

  /** To every connection that asked for this kind. */
  emit(name: string, rest: string): void {
    for (const { events, socket } of this.#connections)
      if (events.has(name) && !socket.destroyed) socket.write(`650 ${name} ${rest}\r\n`);
  }

  async #listen(name: string, onSocket: (socket: Socket) => void): Promise<void> {
    const server = createServer((socket) => {
      this.#sockets.add(socket);
      socket.on("error", () => socket.destroy());
      socket.once("close", () => this.#sockets.delete(socket));
      onSocket(socket);
    });
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(join(this.dir, name), () => resolve()));
  }

  #onControl(socket: Socket): void {
    const connection: Connection = { id: this.#connections.size + 1, socket, events: new Set() };
    this.#connections.add(connection);
    let text = "";
    socket.on("data", (bytes: Buffer) => {
      text += bytes.toString();
      const lines = text.split("\r\n");
      text = lines.pop() ?? "";
      for (const line of lines) this.#onCommand(connection, line);
    });
    socket.once("close", () => {
      this.#connections.delete(connection);
      // control-spec 3.27: services without Detach end with their connection.
      for (const onion of this.onions.values())
        if (onion.connection === connection) this.onions.delete(onion.serviceId);
    });
  }

  #onCommand(connection: Connection, line: string): void {
    const { socket } = connection;
    this.commands.push({ connection: connection.id, line });
    const [name = "", ...args] = line.split(" ");
    const ok = () => socket.write("250 OK\r\n");
    switch (name) {
      case "PROTOCOLINFO":
        socket.write(
          '250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor="0.4.9.11"\r\n250 OK\r\n',
        );
        return;
      case "SETEVENTS":
        connection.events = new Set(args);
        ok();
        return;
      case "SETCONF":
        this.leavesUnattached = line.endsWith('__LeaveStreamsUnattached="1"');
        ok();
        return;
      case "GETCONF":
        socket.write(`250 ${args[0]}=0\r\n`);
        return;
      case "GETINFO":
        this.#onGetInfo(socket, args);
        return;
      case "EXTENDCIRCUIT":
        this.#onExtend(socket, args);
        return;
      case "CLOSECIRCUIT":
        if (!this.circuits.has(args[0] ?? "")) socket.write("552 Unknown circuit\r\n");
        else {
          ok();
          this.breakCircuit(args[0] ?? "");
        }
        return;
      case "ATTACHSTREAM":
        this.#onAttach(socket, args);
        return;
      case "CLOSESTREAM": {
        const stream = this.streams.get(args[0] ?? "");
        ok();
        stream?.socket?.destroy();
        return;
      }
      case "ADD_ONION":
        this.#onAddOnion(connection, line);
        return;
      case "DEL_ONION":
        if (this.onions.get(args[0] ?? "")?.connection !== connection)
          socket.write("552 Unknown Onion Service id\r\n");
        else {
          this.onions.delete(args[0] ?? "");
          ok();
        }
        return;
      default:
        ok();
    }
  }

  #onGetInfo(socket: Socket, keys: readonly string[]): void {
    for (const key of keys) {
      if (key === "ns/all") {
        const entries = this.relays.map(({ nickname, fingerprint }, index) => {
          const identity = Buffer.from(fingerprint, "hex").toString("base64").slice(0, 27);
          return `r ${nickname} ${identity} 2038-01-01 00:00:00 127.3.${index}.1 9001 0\r\ns Exit Fast Guard Running Valid\r\nw Bandwidth=100\r\n`;
        });
        socket.write(`250+ns/all=\r\n${entries.join("")}.\r\n`);
      } else if (key === "entry-guards")
        socket.write(`250+entry-guards=\r\n$${this.guard}~relay0 up\r\n.\r\n`);
      else {
        socket.write(`552 Unrecognized key "${key}"\r\n`);
        return;
      }
    }
    socket.write("250 OK\r\n");
  }

  #onExtend(socket: Socket, [id = "", path = "", purpose]: readonly string[]): void {
    if (id !== "0" && !this.circuits.has(id)) {
      socket.write("552 Unknown circuit\r\n");
      return;
    }
    const circuit = this.circuits.get(id) ?? {
      id: this.#nextId(),
      path: [],
      purpose: purpose === "purpose=controller" ? "CONTROLLER" : "GENERAL",
    };
    this.circuits.set(circuit.id, circuit);
    if (id === "0") this.#circuitEvent(circuit, "LAUNCHED");
    socket.write(`250 EXTENDED ${circuit.id}\r\n`);
    for (const hop of path.split(",")) {
      circuit.path = [...circuit.path, hop];
      this.#circuitEvent(circuit, "EXTENDED");
    }
    if (!this.holdsCircuits) this.#circuitEvent(circuit, "BUILT");
  }

  #onAttach(socket: Socket, [streamId = "", circuitId = ""]: readonly string[]): void {
    const stream = this.streams.get(streamId);
    if (!stream || (circuitId !== "0" && !this.circuits.has(circuitId))) {
      socket.write("552 Unknown circuit or stream\r\n");
      return;
    }
    socket.write("250 OK\r\n");
    stream.circuit = circuitId === "0" ? "1" : circuitId;
    this.#streamEvent(stream, "SENTCONNECT");
    const host = stream.target.slice(0, stream.target.lastIndexOf(":"));
    if (host === SILENT) return;
    if (host === DETACHED) {
      this.#streamEvent(stream, "DETACHED", " REASON=END REMOTE_REASON=EXITPOLICY");
      this.#leave(stream);
      return;
    }
    if (host === REFUSED) {
      this.#streamEvent(stream, "FAILED", " REASON=END REMOTE_REASON=CONNECTREFUSED");
      stream.socket?.end(Buffer.from([5, 5, 0, 1, 0, 0, 0, 0, 0, 0]));
      return;
    }
    this.#streamEvent(stream, "SUCCEEDED");
    stream.socket?.write(Buffer.from([5, 0, 0, 1, 192, 0, 2, 7, 0, 0]));
  }

  #onAddOnion(connection: Connection, line: string): void {
    const targets = new Map(
      [...line.matchAll(/ Port=(\d+),unix:(\S+)/gu)].map((match) => [Number(match[1]), match[2] ?? ""]),
    );
    const number = this.#nextId();
    const serviceId = number.replaceAll(/\d/gu, (digit) => "abcdefghij"[Number(digit)] ?? "").padEnd(56, "z");
    this.onions.set(serviceId, { serviceId, line, connection, targets });
    const key = line.includes("DiscardPK") ? "" : `250-PrivateKey=ED25519-V3:${"k".repeat(86)}==\r\n`;
    this.emit("HS_DESC", `UPLOAD ${serviceId} UNKNOWN $${this.#relay(7)}~relay7`);
    connection.socket.write(`250-ServiceID=${serviceId}\r\n${key}250 OK\r\n`);
    this.emit("HS_DESC", `UPLOADED ${serviceId} UNKNOWN $${this.#relay(7)}~relay7`);
  }

  #onSocks(socket: Socket): void {
    let bytes = Buffer.alloc(0);
    let stream: FakeStream | undefined;
    socket.on("data", (chunk: Buffer) => {
      if (stream) {
        socket.write(chunk);
        return;
      }
      bytes = Buffer.concat([bytes, chunk]);
      const request = readRequest(bytes);
      if (!request) return;
      socket.write(Buffer.from([5, 2, 1, 0]));
      stream = {
        id: this.#nextId(),
        username: request.username,
        socket,
        target: request.target,
        circuit: undefined,
      };
      this.streams.set(stream.id, stream);
      this.#streamEvent(stream, request.command === 0xf0 ? "NEWRESOLVE" : "NEW");
      this.#leave(stream);
    });
    socket.once("close", () => {
      if (!stream) return;
      this.streams.delete(stream.id);
      this.#streamEvent(stream, "CLOSED", " REASON=DONE");
    });
  }

  #circuitEvent({ id, path, purpose }: FakeCircuit, status: string, rest = ""): void {
    const hops = path.map((fingerprint) => `$${fingerprint}~x`).join(",");
    this.emit("CIRC", `${id} ${status}${hops === "" ? "" : ` ${hops}`} PURPOSE=${purpose}${rest}`);
  }

  #leave(stream: FakeStream): void {
    if (this.leavesUnattached) this.#streamEvent(stream, "CONTROLLER_WAIT");
  }

  #streamEvent({ id, circuit, target, username }: FakeStream, status: string, rest = ""): void {
    this.emit("STREAM", `${id} ${status} ${circuit ?? "0"} ${target}${rest} SOCKS_USERNAME="${username}"`);
  }

  #relay(index: number): string {
    return this.relays[index]?.fingerprint ?? "";
  }

  #nextId(): string {
    return String(++this.#lastId);
  }
}

// 05 01 02 · 01 ULEN UNAME PLEN PASSWD · 05 CMD 00 03 LEN NAME PORT
function readRequest(bytes: Buffer): { username: string; command: number; target: string } | undefined {
  const userLength = bytes[4] ?? 0;
  const passwordAt = 5 + userLength;
  const at = passwordAt + 1 + (bytes[passwordAt] ?? 0);
  const hostLength = bytes[at + 4] ?? 0;
  if (bytes.length < at + 5 + hostLength + 2) return undefined;
  return {
    username: bytes.toString("latin1", 5, passwordAt),
    command: bytes[at + 1] ?? 0,
    target: `${bytes.toString("latin1", at + 5, at + 5 + hostLength)}:${bytes.readUInt16BE(at + 5 + hostLength)}`,
  };
}
