// The chromium image: the deno image, and beside it Debian's headless shell of Chromium with what that needs to draw a
// page. A function drives it over a pipe (guest/deno/chromium.ts). Host side; nothing here is chosen by a function.
// Why this program, without its own sandbox, and what stands in for procfs and devices: docs/adr/0008-chromium.md.

import { execFile } from "node:child_process";
import { access, readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { CHROMIUM_PATH } from "../../guest/images.ts";
import { IMAGE_NEEDS } from "../../wire/policy.ts";
import type { ImagePlan, ImageProbe, MissingPart, Placement } from "./image.ts";
import { findLibraries } from "./libraries.ts";

const DIRECTORY = "/usr/lib/chromium";
const PROGRAM = "chromium-headless-shell";
const SHELL_FIX = "apt-get install --no-install-recommends chromium-headless-shell";
/** What the shell opens beside itself. */
const DATA = ["headless_lib_data.pak", "headless_lib_strings.pak", "icudtl.dat", "v8_context_snapshot.bin"];
/** What network security services load by name, without naming it in their headers. */
const LOADED = ["libsoftokn3.so", "libfreeblpriv3.so", "libnssckbi.so"];
const LIBRARIES = process.arch === "arm64" ? "/usr/lib/aarch64-linux-gnu" : "/usr/lib/x86_64-linux-gnu";
const FONTS = "/usr/share/fonts/truetype/dejavu";
const FONTS_FIX = "apt-get install --no-install-recommends fonts-dejavu-core";
/** Of fonts-dejavu-core. The same on every box: which fonts a machine has would tell it apart to every page. */
const FONT_FILES = [
  "DejaVuSans.ttf",
  "DejaVuSans-Bold.ttf",
  "DejaVuSansMono.ttf",
  "DejaVuSansMono-Bold.ttf",
  "DejaVuSerif.ttf",
  "DejaVuSerif-Bold.ttf",
];

/** https://www.freedesktop.org/software/fontconfig/fontconfig-user.html */
const FONT_SETTINGS = `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
<dir>/usr/share/fonts</dir>
<cachedir>/tmp/.fonts</cachedir>
<alias><family>serif</family><prefer><family>DejaVu Serif</family></prefer></alias>
<alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
`;

const run = promisify(execFile);

/**
 * What the image needs beyond `deno`, or what of it this machine lacks.
 * @param directory where Debian puts Chromium; tests have others.
 */
export async function chromiumPlan(deno: ImagePlan, directory = DIRECTORY): Promise<ImageProbe> {
  const shell = join(directory, PROGRAM);
  const data = DATA.map((name) => join(directory, name));
  const missing: MissingPart[] = [];
  const lacks = async (path: string, fix: string) => {
    try {
      await access(path);
    } catch {
      missing.push({ what: path, fix });
    }
  };
  for (const path of [shell, ...data]) await lacks(path, SHELL_FIX);
  for (const name of FONT_FILES) await lacks(join(FONTS, name), FONTS_FIX);
  if (missing.length > 0) return { kind: "incomplete", missing };
  const loaded = await presentIn(LIBRARIES, LOADED);
  const libraries = await findLibraries([shell, ...loaded], [`${LIBRARIES}/pulseaudio`]);
  if (libraries.missing.length > 0) return { kind: "incomplete", missing: libraries.missing };
  const atItsPlace = (path: string): Placement => ({ source: path, target: path });
  const staged = new Map(
    [
      ...deno.staged,
      ...libraries.found,
      ...loaded.map(atItsPlace),
      ...FONT_FILES.map((name) => atItsPlace(join(FONTS, name))),
    ].map((placement) => [placement.target, placement]),
  );
  return {
    kind: "complete",
    plan: {
      ...deno,
      name: "chromium",
      version: await versionOf(shell),
      staged: [...staged.values()],
      bound: [...deno.bound, ...[shell, ...data].map(atItsPlace)],
      texts: [
        ...deno.texts,
        { target: "/etc/fonts/fonts.conf", text: FONT_SETTINGS },
        // Standard input of its children, which they only read: no device is needed for that.
        { target: "/dev/null", text: "" },
      ],
      symlinks: [
        { target: CHROMIUM_PATH, to: shell },
        // How it finds its data, and what it starts its children from. Deno asks for the path only to see that there is one.
        { target: "/proc/self/exe", to: shell },
      ],
      // Its library for certificates takes randomness from nowhere else, and the browser ends when it gets none.
      devices: ["/dev/urandom"],
      memoryBytesMin: IMAGE_NEEDS.chromium.memoryBytes ?? deno.memoryBytesMin,
    },
  };
}

async function presentIn(directory: string, names: readonly string[]): Promise<string[]> {
  const entries = new Set(await readdir(directory).catch(() => []));
  return names.filter((name) => entries.has(name)).map((name) => join(directory, name));
}

async function versionOf(shell: string): Promise<string> {
  const { stdout } = await run(shell, ["--version"], { env: { HOME: "/nonexistent" } });
  return /(\d+(?:\.\d+)+)/.exec(stdout)?.[1] ?? "unknown";
}
