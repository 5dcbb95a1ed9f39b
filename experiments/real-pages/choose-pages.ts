// Which pages: of each documentation package those with at least so many sub-resources that exist, in an order that
// nobody chose (the hash of the path), at most so many of one package.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { access, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { parse } from "parse5";

export interface ChosenPage {
  readonly package: string;
  /** Under /usr/share, with a leading slash. */
  readonly path: string;
  readonly resources: number;
}

interface TreeNode {
  readonly nodeName: string;
  readonly attrs?: readonly { readonly name: string; readonly value: string }[];
  readonly childNodes?: readonly TreeNode[];
}

export async function choosePages(
  packages: readonly string[],
  options: { readonly perPackage: number; readonly resourcesMin: number },
): Promise<ChosenPage[]> {
  const chosen: ChosenPage[] = [];
  for (const name of packages) {
    const { stdout } = await promisify(execFile)("dpkg", ["-L", name], { maxBuffer: 2 ** 26 });
    const files = stdout
      .split("\n")
      .filter((file) => file.startsWith("/usr/share/") && file.endsWith(".html"))
      .sort((a, b) => hashOf(a).localeCompare(hashOf(b)));
    let taken = 0;
    for (const file of files) {
      if (taken === options.perPackage) break;
      const resources = await countResources(file);
      if (resources < options.resourcesMin) continue;
      chosen.push({ package: name, path: file.slice("/usr/share".length), resources });
      taken++;
    }
  }
  return chosen;
}

function hashOf(file: string): string {
  return createHash("sha256").update(file).digest("hex");
}

/** Distinct style sheets, scripts and pictures of a document that are files here. */
async function countResources(file: string): Promise<number> {
  // Some names are folders, some links lead nowhere.
  const text = await readFile(file, "latin1").catch(() => undefined);
  if (text === undefined) return 0;
  const found = new Set<string>();
  const stack: TreeNode[] = [parse(text)];
  for (let node = stack.pop(); node; node = stack.pop()) {
    stack.push(...(node.childNodes ?? []));
    const get = (name: string) => node?.attrs?.find((one) => one.name === name)?.value;
    const reference =
      node.nodeName === "link" && get("rel")?.toLowerCase() === "stylesheet"
        ? get("href")
        : ["img", "script"].includes(node.nodeName)
          ? get("src")
          : undefined;
    if (reference === undefined || /^[a-z]+:|^\/\//i.test(reference)) continue;
    const target = fileNamed(reference, file);
    if (target !== undefined && (await exists(target))) found.add(target);
  }
  return found.size;
}

/** Undefined for what cannot be a name. */
function fileNamed(reference: string, from: string): string | undefined {
  try {
    return join(dirname(from), decodeURI(reference.split(/[?#]/)[0] ?? ""));
  } catch {
    return undefined;
  }
}

async function exists(file: string): Promise<boolean> {
  return await access(file).then(
    () => true,
    () => false,
  );
}
