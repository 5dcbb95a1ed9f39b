// Child of function-store-kill.test.ts: installs functions without end, several at a time, and prints each token
// as soon as its add was acknowledged. Argument: the store's folder.

import { writeSync } from "node:fs";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { FunctionStore } from "../../src/box/store/function-store.ts";
import { parsePackage } from "../../src/wire/package.ts";

const LANES = 8;
const DAY_MS = 86_400_000;

const store = await FunctionStore.open({
  dir: process.argv[2] ?? "",
  functionsMax: 1_000_000,
  bytesMax: 2 ** 30,
  clock: systemClock,
  log: silentLog,
});

async function addForEver(lane: number): Promise<never> {
  for (let index = 0; ; index++) {
    const source = `// ${lane} ${index}\n${"x".repeat((index * 997) % 20_000)}`;
    const added = await store.add(parsePackage({ manifest: { name: "f", image: "deno" }, source }), {
      expiresAt: systemClock.now() + DAY_MS,
    });
    // Every third is removed again, so that removal is killed in the middle too.
    const isRemoved = index % 3 === 2;
    if (isRemoved) await store.remove(added.id);
    // Synchronous: what was acknowledged has left this process before the next step.
    writeSync(1, `${isRemoved ? "removed" : "added"} ${added.invocationToken} ${added.shutdownToken}\n`);
  }
}

await Promise.all(Array.from({ length: LANES }, (_, lane) => addForEver(lane)));
