import { assert, install, run, test } from "bento/testing";

test("answers each message before the next is sent", async () => {
  await using chat = await install();
  await using session = await chat.start();
  assert.equal(await session.receive(), "Say something.\n");
  for (const word of ["one", "two"]) {
    await session.send(word);
    assert.equal(await session.receive(), `You said: ${word}\n`);
  }
  await session.endInput();
  assert.equal(await session.receive(), "That was 2 messages.\n");
  assert.equal(await session.receive(), undefined);
  assert.equal((await session.ended).kind, "returned");
});

test("all of the input at once", async () => {
  const { messages } = await run({ input: ["a", "b", "c"] });
  assert.equal(messages.length, 5);
});
