import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { BentoError } from "../base/errors.ts";
import { ControlClient, TorRefusal } from "./control-client.ts";
import type { ControlEvent } from "./control-event.ts";

interface Scripted extends AsyncDisposable {
  readonly path: string;
  readonly seen: string[];
  /** Answers lines that authentication does not use. */
  answer: (line: string, socket: Socket) => void;
}

/** A control port that authenticates as tor does and leaves the rest to the test. */
async function scriptedPort(options: { knowsCookie?: boolean; methods?: string } = {}): Promise<Scripted> {
  const dir = await mkdtemp(join(tmpdir(), "bento-control-"));
  const cookie = randomBytes(32);
  await writeFile(join(dir, "cookie"), cookie);
  const sockets = new Set<Socket>();
  const scripted: Scripted = {
    path: join(dir, "control"),
    seen: [],
    answer: (_line, socket) => {
      socket.write("250 OK\r\n");
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await rm(dir, { recursive: true, force: true });
    },
  };
  const server = createServer((socket) => {
    sockets.add(socket);
    let expected = "";
    let text = "";
    socket.on("error", () => {
      // The client under test may go away at any moment.
    });
    socket.on("data", (bytes: Buffer) => {
      text += bytes.toString();
      for (let end = text.indexOf("\r\n"); end >= 0; end = text.indexOf("\r\n")) {
        const line = text.slice(0, end);
        text = text.slice(end + 2);
        if (line.startsWith("PROTOCOLINFO")) {
          const methods = options.methods ?? "COOKIE,SAFECOOKIE";
          socket.write(
            `250-PROTOCOLINFO 1\r\n250-AUTH METHODS=${methods} COOKIEFILE="${dir}/cookie"\r\n250-VERSION Tor="0.4.9.11"\r\n250 OK\r\n`,
          );
        } else if (line.startsWith("AUTHCHALLENGE SAFECOOKIE ")) {
          const clientNonce = Buffer.from(line.slice(25), "hex");
          const serverNonce = randomBytes(32);
          const hash = (key: string) =>
            createHmac("sha256", key)
              .update(options.knowsCookie === false ? Buffer.alloc(32) : cookie)
              .update(clientNonce)
              .update(serverNonce)
              .digest("hex");
          expected = hash("Tor safe cookie authentication controller-to-server hash");
          socket.write(
            `250 AUTHCHALLENGE SERVERHASH=${hash("Tor safe cookie authentication server-to-controller hash").toUpperCase()} SERVERNONCE=${serverNonce.toString("hex")}\r\n`,
          );
        } else if (line.startsWith("AUTHENTICATE")) {
          socket.write(line === `AUTHENTICATE ${expected}`.trimEnd() ? "250 OK\r\n" : "515 Bad\r\n");
        } else {
          scripted.seen.push(line);
          scripted.answer(line, socket);
        }
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(scripted.path, resolve));
  return scripted;
}

test("ControlClient.connect: authenticates with SAFECOOKIE and learns the version", async () => {
  await using port = await scriptedPort();
  await using client = await ControlClient.connect({ path: port.path });
  assert.equal(client.torVersion, "0.4.9.11");
});

test("ControlClient.connect: refuses a port that does not know its cookie", async () => {
  await using port = await scriptedPort({ knowsCookie: false });
  await assert.rejects(ControlClient.connect({ path: port.path }), { code: "tor-control-auth" });
});

test("ControlClient.connect: uses NULL only where offered", async () => {
  await using open = await scriptedPort({ methods: "NULL" });
  await using client = await ControlClient.connect({ path: open.path });
  assert.ok(!client.isClosed);
  await using password = await scriptedPort({ methods: "HASHEDPASSWORD" });
  await assert.rejects(ControlClient.connect({ path: password.path }), { code: "tor-control-auth" });
});

test("ControlClient.connect: nobody listening gives tor-control-unreachable with advice", async () => {
  await assert.rejects(
    ControlClient.connect({ path: "/nonexistent/control" }),
    (error: unknown) =>
      error instanceof BentoError && error.code === "tor-control-unreachable" && !!error.advice,
  );
});

test("ControlClient.command: replies go to commands in order, events elsewhere", async () => {
  await using port = await scriptedPort();
  port.answer = (line, socket) => {
    if (line.startsWith("SETEVENTS")) socket.write("250 OK\r\n");
    else socket.write(`650 BW 1 2\r\n250-${line.slice(8)}=value of ${line}\r\n250 OK\r\n`);
  };
  await using client = await ControlClient.connect({ path: port.path });
  const events: ControlEvent[] = [];
  await using _subscription = await client.subscribe(["BW"], (event) => events.push(event));
  const answers = await Promise.all(["a", "b", "c"].map(async (key) => client.getInfo([key])));
  assert.deepEqual(answers, [
    { a: "value of GETINFO a" },
    { b: "value of GETINFO b" },
    { c: "value of GETINFO c" },
  ]);
  assert.equal(events.length, 3);
});

test("ControlClient.command: an aborted command does not shift later replies", async () => {
  await using port = await scriptedPort();
  let late = () => {
    /* set below */
  };
  port.answer = (line, socket) => {
    if (line === "GETINFO slow")
      late = () => socket.write("250-slow=1\r\n250 OK\r\n250-fast=2\r\n250 OK\r\n");
    else late();
  };
  await using client = await ControlClient.connect({ path: port.path });
  const abort = new AbortController();
  const slow = client.getInfo(["slow"], { signal: abort.signal });
  abort.abort(new Error("enough"));
  await assert.rejects(slow, /enough/u);
  assert.deepEqual(await client.getInfo(["fast"]), { fast: "2" });
});

test("ControlClient.command: a refusal carries tor's status, and text cannot become a second command", async () => {
  await using port = await scriptedPort();
  port.answer = (_line, socket) => socket.write('552 Unrecognized key "x"\r\n');
  await using client = await ControlClient.connect({ path: port.path });
  await assert.rejects(
    client.getInfo(["x"]),
    (error: unknown) => error instanceof TorRefusal && error.status === 552,
  );
  await assert.rejects(client.getInfo(["x\r\nSIGNAL HALT"]), { code: "tor-control-command" });
  await assert.rejects(client.command("GETINFO x\r\nSIGNAL HALT"), { code: "tor-control-command" });
  assert.deepEqual(port.seen, ["GETINFO x"]);
});

test("ControlClient.subscribe: SETEVENTS is the union, counted by reference", async () => {
  await using port = await scriptedPort();
  await using client = await ControlClient.connect({ path: port.path });
  const ignore = () => {
    /* events do not matter here */
  };
  const one = await client.subscribe(["CIRC", "BW"], ignore);
  const two = await client.subscribe(["CIRC"], ignore);
  await one[Symbol.asyncDispose]();
  await one[Symbol.asyncDispose]();
  await two[Symbol.asyncDispose]();
  assert.deepEqual(port.seen, ["SETEVENTS CIRC BW", "SETEVENTS CIRC", "SETEVENTS"]);
});

test("ControlClient.extendCircuit: waits for BUILT, also when the event comes before the reply", async () => {
  await using port = await scriptedPort();
  port.answer = (line, socket) => {
    if (line.startsWith("EXTENDCIRCUIT")) socket.write("650 CIRC 9 BUILT\r\n250 EXTENDED 9\r\n");
    else socket.write("250 OK\r\n");
  };
  await using client = await ControlClient.connect({ path: port.path });
  assert.equal(await client.extendCircuit(["a".repeat(40)]), "9");
});

test("ControlClient.extendCircuit: a failed circuit tells why; an aborted one is closed", async () => {
  await using port = await scriptedPort();
  let failing = true;
  const abort = new AbortController();
  port.answer = (line, socket) => {
    if (!line.startsWith("EXTENDCIRCUIT")) socket.write("250 OK\r\n");
    else if (failing) socket.write("250 EXTENDED 9\r\n650 CIRC 9 FAILED REASON=TIMEOUT\r\n");
    else
      socket.write("250 EXTENDED 10\r\n", () => {
        setImmediate(() => {
          abort.abort(new Error("enough"));
        });
      });
  };
  await using client = await ControlClient.connect({ path: port.path });
  await assert.rejects(client.extendCircuit([]), { code: "tor-circuit-failed", message: /TIMEOUT/u });
  failing = false;
  await assert.rejects(client.extendCircuit([], { signal: abort.signal }), /enough/u);
  assert.equal(port.seen.filter((line) => line.startsWith("CLOSECIRCUIT")).length <= 1, true);
  assert.equal(client.isClosed, false);
});

test("ControlClient: outstanding commands fail with the reason when tor goes away", async () => {
  await using port = await scriptedPort();
  port.answer = (_line, socket) => {
    socket.destroy();
  };
  await using client = await ControlClient.connect({ path: port.path });
  await assert.rejects(client.getInfo(["version"]), { code: "tor-control-lost" });
  assert.equal((await client.closed).code, "tor-control-lost");
  await assert.rejects(client.getInfo(["version"]), { code: "tor-control-lost" });
});
