// A conversation: answers each message until the client ends its input, then says how many there were.

import { defineFunction } from "bento/function";

export default defineFunction({
  async invoke(session) {
    const decoder = new TextDecoder();
    let count = 0;
    await session.send("Say something.\n");
    for await (const message of session) {
      count++;
      await session.send(`You said: ${decoder.decode(message).trimEnd()}\n`);
    }
    await session.send(`That was ${count === 1 ? "1 message" : `${count} messages`}.\n`);
  },
});
