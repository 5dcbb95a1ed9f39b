// The process that box-process.ts starts: one box at a free port of loopback. Ends when the channel to its parent
// does; Ctrl-C reaches the whole process group, so it is the parent that decides.

import path from "node:path";
import { systemClock } from "../../../base/clock.ts";
import { messageOf } from "../../../base/errors.ts";
import { createLog } from "../../../base/log.ts";
import { Box } from "../../../box/box.ts";
import { parseBoxConfig } from "../../../box/config.ts";
import { bundledPackages } from "../../bundled-packages.ts";
import { remoteBoxes } from "../../remote-boxes.ts";
import type { BoxAnswer, BoxQuestion } from "./box-process.ts";

const [dir = "", toml = ""] = process.argv.slice(2);

const gone = Promise.withResolvers<void>();
process.once("disconnect", () => gone.resolve());
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => undefined);

try {
  const log = createLog((line) => process.stderr.write(`box: ${line}`), "warn");
  const config = parseBoxConfig(toml);
  await using box = await Box.start(
    {
      ...config,
      dataDir: path.join(dir, "data"),
      listen: [{ kind: "tcp", host: "127.0.0.1", port: 0 }],
    },
    {
      clock: systemClock,
      log,
      remote: remoteBoxes,
      bundled: await bundledPackages(config.policy.images),
    },
  );
  const [address] = box.addresses.listen;
  if (!box.info.accepting) tell({ kind: "failed", message: "the sandbox does not hold on this machine" });
  else if (address?.kind === "tcp") tell({ kind: "ready", port: address.port });
  process.on("message", (question: BoxQuestion) => {
    void reply(box, question);
  });
  await gone.promise;
} catch (error) {
  tell({ kind: "failed", message: messageOf(error) });
  await gone.promise;
}

async function reply(box: Box, question: BoxQuestion): Promise<void> {
  if (question === "warm") {
    await box.warmedUp();
    tell({ kind: "warm" });
    return;
  }
  for (let i = 0; i < 3; i++) globalThis.gc?.();
  const { heapUsed, external } = process.memoryUsage();
  tell({ kind: "memory", heapBytes: heapUsed, externalBytes: external });
}

function tell(answer: BoxAnswer): void {
  if (process.connected) process.send?.(answer);
}
