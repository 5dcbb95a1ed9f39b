// The smallest function: one message out.

import { defineFunction } from "bento/function";

export default defineFunction({
  async invoke(session, _env, name: string = "world") {
    await session.send(`hello ${name}`);
  },
});
