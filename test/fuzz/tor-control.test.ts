// What a Python function says to the control port inside its sandbox (src/guest/python/tor_control.py): the parser and
// the connection around it, in one Python process that gets each input as chunks and must answer in well-formed lines.

import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { after } from "node:test";
import { fileURLToPath } from "node:url";
import { PYTHON_PATH } from "../../src/guest/build.ts";
import { fuzz } from "./fuzz.ts";

const MODULE = fileURLToPath(new URL("../../src/guest/python/tor_control.py", import.meta.url));

/** Reads inputs as [chunks u32] then [length u32][bytes] each; answers one byte, or ends with a traceback. */
const HARNESS = `
import json, re, sys
CIRCUITS = json.dumps({"circuit": 1, "status": "built", "path": [None, "AB" * 20]}).encode() + bytes((10,))
names = {"__name__": "tor_control"}
exec(compile(open(sys.argv[1]).read(), "tor_control.py", "exec"), names)

class HostError(Exception):
    code = "tor-unknown"

class Sockets:
    pass

class Call:
    number = 1
    def __init__(self, lines):
        self.lines = lines
    def answer(self):
        if self.lines is None:
            raise HostError("no such thing")
    def read(self):
        line, self.lines = self.lines, b""
        return line
    def consumed(self, count):
        pass

class Channel:
    streams = {}
    def ask(self, method, params):
        if method == "tor.launch":
            return {"circuit": 2}
        raise HostError("no such thing")
    def call(self, method, params):
        return Call(CIRCUITS if method == "tor.circuits" else None)
    def from_json(self, line):
        return json.loads(line)

class Socket:
    def __init__(self, chunks):
        self.chunks, self.said = chunks, b""
    def recv(self, count):
        return self.chunks.pop(0) if self.chunks else b""
    def sendall(self, data):
        self.said += data
    def close(self):
        pass

RELAY = {"fingerprint": "AB" * 20, "nickname": "r0", "addresses": ["192.0.2.1"], "orPort": 9001, "flags": ["Exit"],
         "bandwidth": 7, "exit": {"kind": "accept", "ports": "80"}, "country": None}

def one(chunks, authenticated):
    tor = names["TorControl"].__new__(names["TorControl"])
    tor.channel, tor.HostError, tor.sockets = Channel(), HostError, Sockets()
    tor.connections, tor.streams, tor.maps, tor.onions = set(), {}, {}, {}
    tor.leave_unattached, tor.nym, tor._watching = False, 0, set()
    tor.lock = names["_thread"].allocate_lock()
    tor._relays = (1e18, [RELAY])
    socket = Socket([chunk for chunk in chunks if chunk])
    connection = names["Connection"](tor, socket)
    connection._authenticated = authenticated
    connection.run()
    data = False
    for line in socket.said.decode().split("\\r\\n")[:-1]:
        if data:
            data = line != "."
            continue
        assert re.match(r"[1-6][0-9][0-9][-+ ]", line), "malformed reply: " + repr(line)
        data = line[3] == "+"
    assert not data and (not socket.said or socket.said.endswith(b"\\r\\n"))
    assert len(tor.maps) <= 256

read = sys.stdin.buffer.read
while head := read(4):
    chunks = [read(int.from_bytes(read(4), "big")) for _ in range(int.from_bytes(head, "big"))]
    one(list(chunks), True)
    one(list(chunks), False)
    sys.stdout.buffer.write(b".")
    sys.stdout.buffer.flush()
`;

interface Harness {
  readonly process: ChildProcessWithoutNullStreams;
  /** With what it complained about. */
  readonly exited: Promise<string>;
}

/** A new one after each failure, so that smaller inputs can be tried. */
let running: Harness | undefined;

function harness(): Harness {
  if (running) return running;
  const python = spawn(PYTHON_PATH, ["-I", "-S", "-B", "-c", HARNESS, MODULE]);
  let complaint = "";
  python.stderr.on("data", (bytes: Buffer) => {
    complaint += bytes.toString();
  });
  python.stdin.on("error", () => undefined);
  const exited = new Promise<string>((resolve) => {
    python.once("exit", () => {
      running = undefined;
      resolve(complaint);
    });
  });
  running = { process: python, exited };
  return running;
}

after(async () => {
  const last = running;
  last?.process.stdin.end();
  await last?.exited;
});

function counted(bytes: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

const commands = [
  "PROTOCOLINFO 1",
  "AUTHENTICATE",
  "GETINFO version circuit-status ns/all ns/id/$ABABABABABABABABABABABABABABABABABABABAB ip-to-country/192.0.2.1",
  'SETCONF __LeaveStreamsUnattached="1"',
  "SETEVENTS CIRC STREAM HS_DESC BW",
  "EXTENDCIRCUIT 0 r0,$ABABABABABABABABABABABABABABABABABABABAB~r0 purpose=controller",
  "ATTACHSTREAM 1 1 HOP=2",
  "ADD_ONION NEW:BEST Flags=DiscardPK,V3Auth MaxStreams=3 Port=80,127.0.0.1:8080 ClientAuthV3=AAAA",
  'MAPADDRESS "a b"="c" x=y',
  "GETCONF SocksPort __OwningControllerProcess",
  "SIGNAL NEWNYM",
  "+LOADCONF\r\nSocksPort 1\r\n.",
  "QUIT",
];

fuzz([
  {
    name: "control lines of Python functions",
    seeds: [...commands.map((command) => `${command}\r\n`), `${commands.join("\r\n")}\r\n`],
    words: ["\r\n", "\n", '="', '\\"', "\\777", "GETINFO ", "Port=", " =", "+", "_do_", "__class__ ", "$"],
    parse: async (_bytes, chunks) => {
      const head = Buffer.alloc(4);
      head.writeUInt32BE(chunks.length);
      const { process, exited } = harness();
      const answered = new Promise<void>((resolve) => process.stdout.once("data", () => resolve()));
      process.stdin.write(Buffer.concat([head, ...chunks.map(counted)]));
      const complaint = await Promise.race([answered, exited]);
      if (complaint !== undefined) throw new Error(`the control port ended: ${complaint}`);
    },
  },
]);
