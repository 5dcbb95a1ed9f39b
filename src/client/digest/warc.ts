// A page with everything in it as a web archive (WARC/1.1, ISO 28500:2017), for replay programs and archives: one
// warcinfo record, then a response record for each resource and one more where a redirect led to it. Header fields are those that the digest carries; the
// archive says so. URLs and types come from the web and are written through the library, which encodes them.

import { WARCRecord, WARCSerializer } from "warcio";
import { BentoError } from "../../base/errors.ts";
import type { ContentRecord } from "../../wire/digest.ts";

export interface WarcOptions {
  /** When the page was received: Unix milliseconds. */
  readonly receivedAtMs: number;
  /** Name and version of the program. */
  readonly software: string;
}

/** The file in pieces, each record a gzip member of its own. */
export async function* warcOf(
  resources: readonly ContentRecord[],
  options: WarcOptions,
): AsyncGenerator<Uint8Array> {
  const date = new Date(options.receivedAtMs).toISOString();
  yield await serialized(
    WARCRecord.createWARCInfo(
      { filename: "page.warc.gz", warcVersion: "WARC/1.1" },
      {
        software: options.software,
        format: "WARC File Format 1.1",
        conformsTo: "http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/",
        description:
          "A page as a box beside a Tor relay fetched it. Of the header fields only Content-Type is known.",
      },
    ),
  );
  for (const resource of resources) {
    if (resource.url !== resource.finalUrl) yield await redirect(resource, date);
    yield await response(resource, date);
  }
}

async function redirect({ url, finalUrl }: ContentRecord, date: string): Promise<Uint8Array> {
  return await serialized(
    WARCRecord.create(
      {
        type: "response",
        warcVersion: "WARC/1.1",
        url: printableUrl(url),
        date,
        httpHeaders: { Location: printableUrl(finalUrl), "Content-Length": "0" },
        statusline: "HTTP/1.1 302 Found",
      },
      empty(),
    ),
  );
}

async function response({ finalUrl, status, type, body }: ContentRecord, date: string): Promise<Uint8Array> {
  return await serialized(
    WARCRecord.create(
      {
        type: "response",
        warcVersion: "WARC/1.1",
        url: printableUrl(finalUrl),
        date,
        httpHeaders: {
          ...(type === "" ? {} : { "Content-Type": fieldValue(type) }),
          "Content-Length": String(body.length),
        },
        statusline: `HTTP/1.1 ${status}`,
      },
      (async function* () {
        yield body;
      })(),
    ),
  );
}

async function serialized(record: Promise<WARCRecord> | WARCRecord): Promise<Uint8Array> {
  return await WARCSerializer.serialize(await record, { gzip: true });
}

async function* empty(): AsyncGenerator<Uint8Array> {}

/** A URL that stays within its header line. */
function printableUrl(text: string): string {
  const url = URL.parse(text);
  if (!url) throw new BentoError("bad-answer", "Cannot archive page: found a resource without a URL");
  return url.href;
}

/** RFC 9110 5.5: visible ASCII and spaces; anything else of a hostile Content-Type is left out. */
function fieldValue(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, "");
}
