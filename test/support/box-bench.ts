// A box's server, operations and store without a sandbox: what clients can do to it, with guests that each test scripts.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { Admission } from "../../src/box/admit/admit.ts";
import { BundledFunctions } from "../../src/box/admit/bundled-functions.ts";
import { publishedPolicy } from "../../src/box/admit/policy.ts";
import { parseBoxConfig } from "../../src/box/config.ts";
import { BoxServer } from "../../src/box/serve/box-server.ts";
import { Operations } from "../../src/box/serve/operations.ts";
import { SPOOLED_BLOCK_BYTES_MAX } from "../../src/box/session/backlog-block.ts";
import { Instances } from "../../src/box/session/instances.ts";
import { Spool } from "../../src/box/session/spool.ts";
import { type FunctionId, FunctionStore } from "../../src/box/store/function-store.ts";
import { infoSchema } from "../../src/wire/api.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import { BoxClient } from "./box-client.ts";
import { FakeGuests } from "./fake-guests.ts";

/** What the box comes with; the fake guests know the source. */
export const BUNDLED: readonly PackageInput[] = [
  { manifest: { name: "bundled", image: "deno" }, source: `hello ${"x".repeat(20_000)}` },
];

export class BoxBench implements AsyncDisposable {
  readonly guests = new FakeGuests();
  readonly forgotten: FunctionId[] = [];
  readonly #owned = new AsyncDisposableStack();
  #client: BoxClient | undefined;
  #server: BoxServer | undefined;
  #instances: Instances | undefined;
  #operations: Operations | undefined;

  static async start(toml = "", clock = systemClock, serverClock = clock): Promise<BoxBench> {
    const bench = new BoxBench();
    const owned = bench.#owned;
    const dir = await mkdtemp(join(tmpdir(), "bento-http-"));
    owned.defer(() => rm(dir, { recursive: true }));
    const log = silentLog;
    const store = owned.use(
      await FunctionStore.open({ dir, functionsMax: 1000, bytesMax: 2 ** 28, clock, log }),
    );
    const admission = new Admission(publishedPolicy(parseBoxConfig(toml).policy, null));
    admission.setAvailable(true);
    const spool = owned.use(
      await Spool.open({ directory: dir, blockBytes: SPOOLED_BLOCK_BYTES_MAX, bytesMax: 2 ** 28 }),
    );
    const instances = owned.use(
      new Instances({
        clock,
        log,
        guests: bench.guests,
        spool,
        reserve: ({ functionId, grant }) => admission.reserveInstance(functionId, grant.limits),
        services: async () => ({}),
      }),
    );
    const bundled = new BundledFunctions(BUNDLED);
    const operations = new Operations({
      clock,
      store,
      instances,
      admission,
      bundled,
      storageBytes: () => 0,
      forget: async (id) => void bench.forgotten.push(id),
    });
    const info = () =>
      infoSchema.parse({
        software: "bento",
        protocol: 1,
        name: "<b>test</b>",
        relay: null,
        contact: null,
        onion: null,
        accepting: admission.accepting,
        functions: bundled.published,
      });
    const server = owned.use(new BoxServer({ operations, info, clock: serverClock, log }));
    bench.#client = new BoxClient(await server.listen({ host: "127.0.0.1", port: 0 }));
    bench.#server = server;
    bench.#instances = instances;
    bench.#operations = operations;
    return bench;
  }

  get client(): BoxClient {
    assert.ok(this.#client);
    return this.#client;
  }

  get server(): BoxServer {
    assert.ok(this.#server);
    return this.#server;
  }

  get instances(): Instances {
    assert.ok(this.#instances);
    return this.#instances;
  }

  get operations(): Operations {
    assert.ok(this.#operations);
    return this.#operations;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned.disposeAsync();
    assert.equal(this.guests.alive, 0, "no guest is left");
  }
}
