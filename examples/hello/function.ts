// Greets whoever it is told to: one message for each argument.

import { defineFunction } from "bento/function";

export default defineFunction({
  async invoke(session, env, ...names: string[]) {
    env.log.info(`greeting ${names.length || 1}`);
    for (const name of names.length > 0 ? names : ["world"]) await session.send(`hello ${name}\n`);
  },
});
