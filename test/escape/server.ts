// A box's server reduced to its sandbox room, for tests that kill it: opens a host in the directory of argv, starts
// two instances, prints one line of JSON and waits. `--report-descriptors` makes it ask a guest and a control which
// descriptors they hold, and end.

import { SandboxHost } from "../../src/box/sandbox/sandbox.ts";
import { baseOptions, Probe, spec, startControl } from "./harness.ts";

const DESCRIPTORS = `
import os
value = []
for fd in range(3, 300):
    try:
        os.fstat(fd)
        value.append(fd)
    except OSError:
        pass
`;

const dir = process.argv[2] ?? "";
const host = await SandboxHost.open({ ...baseOptions(dir), images: ["python"] });
if (process.argv[3] === "--report-descriptors") {
  const probe = await Probe.of(await host.start(spec("python", "strict")));
  const control = await startControl("root", "python");
  const boxed = await probe.ask({ eval: DESCRIPTORS });
  const outside = await control.ask({ eval: DESCRIPTORS });
  await control[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
  process.stdout.write(`${JSON.stringify({ boxed, outside })}\n`);
} else {
  const sandboxes = [
    await host.start(spec("python", "strict")),
    await host.start(spec("python", "standard")),
  ];
  for (const sandbox of sandboxes) await new Promise((resolve) => sandbox.stdout.once("readable", resolve));
  process.stdout.write(`${JSON.stringify(sandboxes.map(({ pid }) => pid))}\n`);
}
