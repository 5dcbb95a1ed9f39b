// Images: what a guest runtime's mini-root consists of. A plan names files of this machine and where they appear
// inside; stage.ts lays them out. Inside there is the runtime, its libraries and our runner, and nothing else:
// no /dev, /sys or shell, and no procfs. Host side; nothing here is chosen by a function.

import { execFile } from "node:child_process";
import { access, readdir, realpath } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import type { ImageName } from "../../wire/policy.ts";
import { chromiumPlan } from "./chromium-image.ts";
import { findLibraries } from "./libraries.ts";

export type { ImageName };

/** The runner of one image, brought by the caller. */
export interface GuestRunner {
  /** File name in the guest directory, which appears as /bento. */
  readonly file: string;
  /** Further arguments to the runtime, before the file: Deno's permissions, say. */
  readonly flags?: readonly string[];
  /** Further environment. What is in here, a function can read. */
  readonly env?: Readonly<Record<string, string>>;
}

/** The files that run inside the box on our behalf. */
export interface GuestFiles {
  /** Host directory bound read-only at /bento. It holds nothing secret: functions can read it. */
  readonly dir: string;
  readonly runners: Readonly<Partial<Record<ImageName, GuestRunner>>>;
}

/** A host path and where it appears in the mini-root. */
export interface Placement {
  readonly source: string;
  readonly target: string;
}

export interface ImagePlan {
  readonly name: ImageName;
  /** The runtime's own version, as `2.9.6`. */
  readonly version: string;
  readonly argv: readonly string[];
  /** The whole environment inside. */
  readonly env: Readonly<Record<string, string>>;
  /** Small files and trees that are linked or copied into the mini-root. */
  readonly staged: readonly Placement[];
  /** Large ones that are bound in place. */
  readonly bound: readonly Placement[];
  readonly texts: readonly { readonly target: string; readonly text: string }[];
  readonly symlinks: readonly { readonly target: string; readonly to: string }[];
  /** Device files of the host that appear inside under the same names. */
  readonly devices: readonly string[];
  /** Bytes of memory below which the runtime does not start. */
  readonly memoryBytesMin: number;
}

/** Something an image needs and this machine lacks. */
export interface MissingPart {
  readonly what: string;
  readonly fix: string;
}

export type ImageProbe =
  | { readonly kind: "complete"; readonly plan: ImagePlan }
  | { readonly kind: "incomplete"; readonly missing: readonly MissingPart[] };

const MIB = 1024 * 1024;
const CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt";
const PYTHON_PACKAGES = "/usr/lib/python3/dist-packages";
const REQUESTS = ["requests", "urllib3", "certifi", "idna"];
/** Present or not depending on the release of requests. */
const REQUESTS_OPTIONAL = ["chardet", "charset_normalizer", "six.py", "socks.py"];
/** Of python3-stem, for functions that use Tor; everything else works without it. */
const STEM = "stem";

/** Name lookups end in this file; without it every lookup would wait for a name server that is not there. */
const NAME_FILES = [
  { target: "/etc/hosts", text: "127.0.0.1 localhost\n" },
  { target: "/etc/nsswitch.conf", text: "hosts: files\n" },
];

const run = promisify(execFile);

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

/** Looks what an image needs on this machine. Never throws for missing parts. */
export async function probeImage(
  name: ImageName,
  guest: GuestFiles,
  options: { readonly denoPath?: string } = {},
): Promise<ImageProbe> {
  const runner = guest.runners[name];
  if (!runner)
    return incomplete(`runner for ${name}`, "This is an error of the program that starts the box.");
  const main = join(guest.dir, runner.file);
  if (!(await exists(main))) return incomplete(main, "Reinstall Bento: its guest files are not complete.");
  if (name === "python") return await probePython(guest, runner);
  const deno = await probeDeno(guest, runner, options.denoPath ?? findDeno());
  return name === "deno" || deno.kind === "incomplete" ? deno : await chromiumPlan(deno.plan);
}

function incomplete(what: string, fix: string): ImageProbe {
  return { kind: "incomplete", missing: [{ what, fix }] };
}

/** Path of the Deno binary that npm installed for this machine, or undefined. */
export function findDeno(): string | undefined {
  const architecture = process.arch === "arm64" ? "arm64" : "x64";
  const require = createRequire(import.meta.url);
  try {
    return join(dirname(require.resolve(`@deno/linux-${architecture}-glibc/package.json`)), "deno");
  } catch {
    return undefined; // not installed: the probe says so
  }
}

async function probeDeno(
  guest: GuestFiles,
  runner: GuestRunner,
  path: string | undefined,
): Promise<ImageProbe> {
  if (path === undefined || !(await exists(path)))
    return incomplete("Deno", "Run ./bento once: it installs Deno.");
  const binary = await realpath(path);
  const libraries = await findLibraries([binary]);
  if (libraries.missing.length > 0) return { kind: "incomplete", missing: libraries.missing };
  const { stdout } = await run(binary, ["--version"], { env: { NO_COLOR: "1", DENO_DIR: "/dev/null/deno" } });
  const version = /^deno (\S+)/.exec(stdout)?.[1] ?? "unknown";
  // Without procfs V8 would copy its builtins into every process: --no-short-builtin-calls saves 2 MB each.
  const flags = ["--no-prompt", "--no-config", "--no-lock", "--no-remote", "--no-npm", "--cached-only"];
  return {
    kind: "complete",
    plan: {
      name: "deno",
      version,
      argv: [
        "/usr/bin/deno",
        "run",
        ...flags,
        "--v8-flags=--no-short-builtin-calls",
        ...(runner.flags ?? []),
        `/bento/${runner.file}`,
      ],
      env: {
        DENO_DIR: "/tmp/.deno",
        DENO_NO_UPDATE_CHECK: "1",
        // Each process compiles one source once. Under the strict filter, writing that to a cache costs 150 ms of retries.
        DENO_EMIT_CACHE_MODE: "disable",
        HOME: "/tmp",
        NO_COLOR: "1",
        ...runner.env,
      },
      staged: libraries.found,
      bound: [
        { source: binary, target: "/usr/bin/deno" },
        { source: await realpath(guest.dir), target: "/bento" },
      ],
      texts: NAME_FILES,
      // Deno ends itself when it cannot read its own path, which node: modules ask for. This is all of /proc.
      symlinks: [{ target: "/proc/self/exe", to: "/usr/bin/deno" }],
      devices: [],
      memoryBytesMin: 32 * MIB,
    },
  };
}

/** Whether Python functions get Stem. */
export async function hasStem(): Promise<boolean> {
  return await exists(join(PYTHON_PACKAGES, STEM));
}

async function probePython(guest: GuestFiles, runner: GuestRunner): Promise<ImageProbe> {
  const python = await realpath("/usr/bin/python3").catch(() => undefined);
  const version = /\/(python3\.\d+)$/.exec(python ?? "")?.[1];
  if (python === undefined || version === undefined) return incomplete("python3", "apt-get install python3");
  const library = `/usr/lib/${version}`;
  const missing: MissingPart[] = [];
  if (!(await exists(`${library}/os.py`))) missing.push({ what: library, fix: "apt-get install python3" });
  for (const name of REQUESTS) {
    const path = join(PYTHON_PACKAGES, name);
    if (!(await exists(path))) missing.push({ what: path, fix: "apt-get install python3-requests" });
  }
  if (!(await exists(CERTIFICATES)))
    missing.push({ what: CERTIFICATES, fix: "apt-get install ca-certificates" });
  if (missing.length > 0) return { kind: "incomplete", missing };
  const modules = (await readdir(`${library}/lib-dynload`)).map((name) => `${library}/lib-dynload/${name}`);
  const required = await findLibraries([python]);
  if (required.missing.length > 0) return { kind: "incomplete", missing: required.missing };
  // A module whose library is absent cannot be imported, here as on the host.
  const wanted = await findLibraries([python, ...modules]);
  const packages = [...REQUESTS];
  for (const name of [...REQUESTS_OPTIONAL, STEM])
    if (await exists(join(PYTHON_PACKAGES, name))) packages.push(name);
  const zones = "/usr/share/zoneinfo";
  return {
    kind: "complete",
    plan: {
      name: "python",
      version: (
        await run(python, ["-I", "-S", "-c", "import platform; print(platform.python_version())"])
      ).stdout.trim(),
      // -I: no environment, no user directories. -S: no site packages; the runner adds dist-packages itself.
      argv: [python, "-I", "-S", "-B", "-u", "-X", "utf8", ...(runner.flags ?? []), `/bento/${runner.file}`],
      env: { HOME: "/tmp", SSL_CERT_FILE: CERTIFICATES, ...runner.env },
      staged: [
        ...wanted.found,
        { source: python, target: python },
        { source: CERTIFICATES, target: CERTIFICATES },
        ...packages.map((name) => ({
          source: join(PYTHON_PACKAGES, name),
          target: join(PYTHON_PACKAGES, name),
        })),
      ],
      bound: [
        { source: library, target: library },
        ...((await exists(zones)) ? [{ source: zones, target: zones }] : []),
        { source: await realpath(guest.dir), target: "/bento" },
      ],
      texts: NAME_FILES,
      symlinks: [],
      devices: [],
      memoryBytesMin: 16 * MIB,
    },
  };
}
