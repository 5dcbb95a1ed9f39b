// Runs the table of call-cases.ts in both images and both profiles, each row with its control. All rows of one
// image and profile share one box, which also shows that none of them hurts it.

import assert from "node:assert/strict";
import { chmod, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { findDeno, type ImageName } from "../../src/box/sandbox/image.ts";
import { buildFilters } from "../../src/box/sandbox/seccomp.ts";
import { SANDBOX_PROFILES } from "../../src/box/sandbox/seccomp-profiles.ts";
import { type CallCase, callCases, type Fixtures } from "./call-cases.ts";
import {
  type Answer,
  guest,
  openHost,
  type Place,
  Probe,
  type Request,
  spec,
  startControl,
} from "./harness.ts";

const IMAGES = ["python", "deno"] as const;
const PROFILES = SANDBOX_PROFILES;

const resources = new AsyncDisposableStack();
const probes = new Map<string, Probe>();
const scratch = await mkdtemp(join(tmpdir(), "bento-escape-calls-"));
const fixtures: Fixtures = {
  abstractName: `bento-escape-${process.pid}`,
  socketPath: join(scratch, "control.sock"),
  tcpPort: 0,
  secretPath: join(scratch, "secret_id_key"),
  writablePath: join(guest.dir, "writable"),
  scratch,
  hostPid: process.pid,
};
const tcp = await listening({ port: 0, host: "127.0.0.1" });
const address = tcp.address();
assert.ok(address !== null && typeof address === "object");
const cases = callCases({ ...fixtures, tcpPort: address.port });
let numbers: Readonly<Record<string, number>> = {};

async function listening(options: { path: string } | { port: number; host: string }): Promise<Server> {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(options, resolve));
  server.unref();
  return server;
}

function requestOf(what: CallCase["what"], image: (typeof IMAGES)[number]): Request {
  if ("python" in what) return { eval: what[image] };
  return {
    exitChild: numbers["exit_group"] ?? -1,
    seq: what.map(([name, ...args]) => {
      const number = numbers[name];
      assert.ok(number !== undefined && number >= 0, `${name} exists on this machine`);
      return [number, ...args] as const;
    }),
  };
}

async function controlProbe(place: Place, image: ImageName): Promise<Probe> {
  const key = `${place} ${image}`;
  const known = probes.get(key);
  if (known) return known;
  const probe = resources.use(await startControl(place, image));
  probes.set(key, probe);
  return probe;
}

before(async () => {
  const names = cases.flatMap(({ what }) => ("python" in what ? [] : what.map(([name]) => name)));
  const controls = cases.flatMap(({ control }) =>
    "instead" in control && control.instead ? control.instead.map(([name]) => name) : [],
  );
  const [filter] = await buildFilters(
    findDeno() ?? "",
    ["strict"],
    [...names, ...controls, "exit_group", "getpid"],
  );
  numbers = filter?.numbers ?? {};
  await chmod(scratch, 0o755);
  await writeFile(fixtures.secretPath, "a key of the relay");
  await writeFile(fixtures.writablePath, "");
  await chmod(fixtures.writablePath, 0o666);
  resources.defer(() => rm(fixtures.writablePath));
  for (const path of [fixtures.socketPath, `\0${fixtures.abstractName}`]) {
    const server = await listening({ path });
    resources.defer(() => void server.close());
  }
  await chmod(fixtures.socketPath, 0o777);
  const { host } = resources.use(await openHost());
  for (const image of IMAGES) {
    for (const profile of PROFILES) {
      const probe = await Probe.of(await host.start(spec(image, profile)));
      probes.set(`box ${image} ${profile}`, resources.use(probe));
    }
  }
});

after(async () => {
  await resources.disposeAsync();
  tcp.close();
  await rm(scratch, { recursive: true, force: true });
});

function refused(boxed: CallCase["boxed"], answer: Answer): boolean {
  if (typeof boxed === "function") return boxed(answer);
  return answer.kind === "errno" && boxed.includes(answer.errno);
}

describe("escape: one request each", () => {
  for (const row of [...cases].sort((a, b) => a.number - b.number)) {
    for (const image of row.images ?? IMAGES) {
      const name = `escape ${String(row.number).padStart(2, "0")}: ${row.title} (${image})`;
      it(name, async (test) => {
        for (const profile of row.profiles ?? PROFILES) {
          const probe = probes.get(`box ${image} ${profile}`);
          assert.ok(probe);
          const answer = await probe.ask(requestOf(row.what, image));
          assert.ok(refused(row.boxed, answer), `${profile}: ${JSON.stringify(answer)}`);
        }
        const { control } = row;
        if ("skip" in control) {
          test.diagnostic(`no control: ${control.skip}`);
          return;
        }
        const probe = await controlProbe(control.place, image);
        const answer = await probe.ask(requestOf(control.instead ?? row.what, image));
        if (answer.kind === "errno" && control.also?.includes(answer.errno)) {
          test.diagnostic(`control reaches the kernel's own check: ${answer.errno}`);
          return;
        }
        if (typeof row.boxed === "function") {
          assert.equal(row.boxed(answer), false, `control is refused too: ${JSON.stringify(answer)}`);
        }
        assert.equal(answer.kind, "value", `control in ${control.place}: ${JSON.stringify(answer)}`);
      });
    }
  }

  it("escape: all boxes still answer, and the host kept its descriptors", async () => {
    const count = (await readdir("/proc/self/fd")).length;
    for (const [key, probe] of probes) {
      if (!key.startsWith("box")) continue;
      const answer = await probe.ask({ exitChild: -1, seq: [[numbers["getpid"] ?? -1]] });
      assert.deepEqual(answer, { kind: "value", value: 1 }, key);
    }
    assert.equal((await readdir("/proc/self/fd")).length, count);
  });
});
