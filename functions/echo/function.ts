// Sends every message back as it came, until the client ends its input.

import { defineFunction } from "bento/function";

export default defineFunction({
  async invoke(session) {
    for await (const message of session) await session.send(message);
  },
});
