// A box as a process of its own, so that tests can kill it. Arguments: data directory, range of the user ids of
// functions, further sections of box.toml.
// Prints one line of JSON with its ports when it serves; stops on SIGTERM.

import { once } from "node:events";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { remoteBoxes } from "../../src/bin/remote-boxes.ts";
import { Box } from "../../src/box/box.ts";
import { parseBoxConfig } from "../../src/box/config.ts";

const [dataDir = "", uids = "", toml = ""] = process.argv.slice(2);
const anyPort = { kind: "tcp", host: "127.0.0.1", port: 0 } as const;
const config = parseBoxConfig(`
[box]
data_dir = "${dataDir}"
[sandbox]
uids = "${uids}"
${toml.includes("[policy.total]") ? "" : "[policy.total]\ninstances = 16"}
[onion]
mode = "none"
${toml}
`);
const log = createLog((line) => process.stderr.write(line), "debug");
const box = await Box.start(
  { ...config, listen: [anyPort], legacy2021: anyPort },
  { clock: systemClock, log, remote: remoteBoxes },
);
const ports = [...box.addresses.listen, box.addresses.legacy2021].map((address) =>
  address?.kind === "tcp" ? address.port : 0,
);
process.stdout.write(`${JSON.stringify({ port: ports[0], legacyPort: ports[1] })}\n`);
await once(process, "SIGTERM");
await box[Symbol.asyncDispose]();
