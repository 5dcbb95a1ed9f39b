// The bundled Browser function as a client sends it: its manifest asks for the web's usual ports, and for more only
// where a client needs more.

import type { BrowseSettings } from "../../wire/browse.ts";
import { type LoadedPackage, loadPackage } from "../package-loader.ts";

export interface BrowserNeeds {
  /** "rendered" takes a box that offers a browser. */
  readonly engine?: BrowseSettings["engine"] | undefined;
  /** Pages whose ports must be reachable, beyond 80 and 443. */
  readonly urls?: readonly URL[] | undefined;
  /** How long one session may last, such as "4h"; the manifest's own when left out. */
  readonly runtime?: string | undefined;
  /** What all pages of a session may transfer at the box, such as "1GiB". */
  readonly bytes?: string | undefined;
}

export async function loadBrowser(needs: BrowserNeeds = {}): Promise<LoadedPackage> {
  const loaded = await loadPackage(needs.engine === "rendered" ? "browser-rendered" : "browser");
  const { manifest } = loaded.package;
  const ports = (needs.urls ?? []).flatMap(({ port }) => (port === "" ? [] : [`*:${port}`]));
  const net = manifest.net && {
    ...manifest.net,
    allow: [...new Set([...manifest.net.allow, ...ports])],
    ...(needs.bytes === undefined ? {} : { bytes: needs.bytes }),
  };
  return {
    ...loaded,
    package: {
      ...loaded.package,
      manifest: {
        ...manifest,
        ...(net ? { net } : {}),
        ...(needs.runtime === undefined ? {} : { runtime: needs.runtime }),
      },
    },
  };
}
