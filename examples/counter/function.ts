// Counts its invocations in the storage that belongs to the function, and outlives each instance.

import { defineFunction } from "bento/function";

export default defineFunction({
  async invoke(session, env) {
    if (!env.storage) throw new Error("no storage was granted");
    const last = await env.storage.get("count");
    const count = Number((await last?.text()) ?? 0) + 1;
    await env.storage.put("count", String(count));
    await session.send(`${count}\n`);
  },
});
