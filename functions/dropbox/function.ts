// Keeps one file. The first put fixes its owner and its content; gets hand it out until so many downloads or bytes,
// then the function removes itself; the box ends it when it expires. No process lives between invocations.
// Whoever holds the invocation token may be hostile to the owner. Protocol: docs/spec/dropbox.md.

import { defineFunction, type Json } from "bento/function";
import type { DropboxAnswer } from "../../src/wire/dropbox.ts";
import { get } from "./get.ts";
import { put } from "./put.ts";
import { Refusal } from "./request.ts";
import { status } from "./status.ts";

export default defineFunction({
  async invoke(session, env, operation: Json = null, request: Json = {}) {
    const { storage } = env;
    if (!storage) throw new Error("Cannot keep anything: no storage was granted");
    try {
      switch (operation) {
        case "put":
          return await put(session, storage, request);
        case "get":
          return await get(session, storage, env.self, request);
        case "status":
          return await status(session, storage, request);
        default:
          throw new Refusal("bad-request");
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      await session.send(JSON.stringify({ refused: error.reason } satisfies DropboxAnswer));
    }
  },
});
