// `bento doctor`: what this machine has and lacks, each with what to do. Exit code 0 when a box could start functions.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { systemClock } from "../../base/clock.ts";
import { BentoError, messageOf } from "../../base/errors.ts";
import { type DoctorCheck, examine } from "../../box/sandbox/doctor.ts";
import { hasStem } from "../../box/sandbox/image.ts";
import { DEFAULT_UID_RANGE } from "../../box/sandbox/uid-pool.ts";
import { type Cli, socksAddress } from "../../client/cli/cli.ts";
import { EXIT } from "../../client/cli/exit-code.ts";
import { printable } from "../../client/cli/io.ts";
import { Progress } from "../../client/cli/progress.ts";
import { buildGuests } from "../../guest/build.ts";
import { findTor } from "../find-tor.ts";

export async function doctor(cli: Cli, options: { socks?: string }): Promise<number> {
  const { io } = cli;
  const checks: DoctorCheck[] = [];
  {
    using _progress = new Progress(io, "Examining this machine");
    checks.push(await checkTor(), await checkStem());
    if (options.socks !== undefined) checks.push(await checkSocks(options.socks));
    const dir = await mkdtemp(path.join(tmpdir(), "bento-doctor-"));
    try {
      const guest = await buildGuests(dir);
      checks.push(
        ...(await examine({
          guest,
          images: ["deno", "python", "chromium"],
          uidRange: DEFAULT_UID_RANGE,
          clock: systemClock,
        })),
      );
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }
  const isWell = checks.every(({ ok, isRequired }) => ok || !isRequired);
  for (const check of checks) {
    io.event({ event: "check", ...check });
    if (io.json) continue;
    const mark = check.ok ? io.green("✓") : check.isRequired ? io.red("✗") : io.dim("!");
    io.print(`${mark} ${check.name}: ${printable(check.found)}`);
    if (!check.ok && check.fix !== undefined) io.print(`    ${printable(check.fix)}`);
  }
  io.note(
    isWell
      ? "A box on this machine can start functions."
      : "A box on this machine would refuse to start functions.",
  );
  return isWell ? EXIT.ok : EXIT.invalid;
}

async function checkTor(): Promise<DoctorCheck> {
  const version = await findTor();
  return {
    name: "tor",
    ok: version !== undefined,
    isRequired: false,
    found: version ?? "not installed",
    fix: "Install tor (Debian: apt-get install tor): private networks and onion services need it.",
  };
}

/** Only functions that are written for it miss it. */
async function checkStem(): Promise<DoctorCheck> {
  const ok = await hasStem();
  return {
    name: "Stem in the python image",
    ok,
    isRequired: false,
    found: ok ? "installed" : "not installed",
    fix: "Install python3-stem (Debian: apt-get install python3-stem): Python functions that control Tor need it.",
  };
}

/** Whether a SOCKS port is there and speaks as Tor does. */
async function checkSocks(text: string): Promise<DoctorCheck> {
  const proxy = socksAddress(text);
  const { socksConnect } = await import("../../tor/socks.ts");
  const name = `SOCKS port ${text}`;
  try {
    // A name that cannot exist: Tor answers with a refusal of its own, anything else does not.
    const stream = await socksConnect({
      proxy,
      host: "bento-doctor.invalid",
      port: 1,
      signal: AbortSignal.timeout(15_000),
    });
    stream.destroy();
    return { name, ok: true, isRequired: true, found: "answers", fix: undefined };
  } catch (error) {
    const ok =
      error instanceof BentoError &&
      error.code !== "tor-socks-unreachable" &&
      error.code !== "tor-socks-protocol";
    return {
      name,
      ok,
      isRequired: true,
      found: ok ? "answers" : messageOf(error),
      fix: "Start tor, or name its SOCKS port.",
    };
  }
}
