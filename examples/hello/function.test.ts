import { assert, run, test } from "bento/testing";

test("greets the world when nobody is named", async () => {
  assert.equal((await run()).text, "hello world\n");
});

test("greets each argument in a message of its own", async () => {
  const { messages, text } = await run({ args: ["Ada", "Tor"] });
  assert.equal(messages.length, 2);
  assert.equal(text, "hello Ada\nhello Tor\n");
});
