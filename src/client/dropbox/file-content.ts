// A file on this machine as content to put: as it is, or sealed under a key; readable from any byte, so that a put
// can resume. A file that changes meanwhile is noticed: one key never seals two contents.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { BentoError, systemCode } from "../../base/errors.ts";
import {
  type Padding,
  SEGMENT_BYTES,
  SEGMENT_CAPACITY,
  sealedSize,
  sealFile,
} from "../../wire/sealed-file.ts";
import type { PutContent } from "./put.ts";

export interface FileFacts {
  readonly path: string;
  readonly size: number;
  /** Time of the last change: Unix milliseconds. */
  readonly modifiedAt: number;
}

/** Throws BentoError "usage" unless `path` is a file that can be read twice. */
export async function fileFacts(path: string): Promise<FileFacts> {
  try {
    const facts = await stat(path);
    if (facts.isFile()) return { path, size: facts.size, modifiedAt: Math.floor(facts.mtimeMs) };
  } catch (cause) {
    throw new BentoError("usage", `Cannot read ${path}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
  throw new BentoError("usage", `Cannot put ${path}: it is no regular file`);
}

/** The file's bytes as they are. */
export function plainContent(file: FileFacts): PutContent {
  return { size: file.size, read: (from) => readFrom(file, from) };
}

/** The file sealed under `key`, which belongs to this file alone. */
export function sealedContent(file: FileFacts, key: Uint8Array, padding: Padding): PutContent {
  return {
    size: sealedSize(file.size, padding),
    async *read(from: number) {
      const first = Math.floor(from / SEGMENT_BYTES);
      const content = readFrom(file, Math.min(first * SEGMENT_CAPACITY, file.size));
      let skip = from % SEGMENT_BYTES;
      for await (const segment of sealFile(content, key, { padding, first, fileBytes: file.size })) {
        if (skip < segment.length) yield segment.subarray(skip);
        skip = Math.max(0, skip - segment.length);
      }
    },
  };
}

async function* readFrom(file: FileFacts, from: number): AsyncGenerator<Uint8Array> {
  await refuseChanged(file);
  let left = file.size - from;
  if (left > 0) {
    const stream = createReadStream(file.path, {
      start: from,
      end: file.size - 1,
      highWaterMark: 256 * 1024,
    });
    for await (const chunk of stream as AsyncIterable<Uint8Array>) {
      left -= chunk.length;
      yield chunk;
    }
  }
  if (left !== 0) throw changed(file);
  await refuseChanged(file);
}

async function refuseChanged(file: FileFacts): Promise<void> {
  const now = await fileFacts(file.path);
  if (now.size !== file.size || now.modifiedAt !== file.modifiedAt) throw changed(file);
}

function changed(file: FileFacts): BentoError {
  return new BentoError("usage", `Cannot go on: ${file.path} has changed meanwhile`, {
    advice: "Put it anew.",
  });
}
