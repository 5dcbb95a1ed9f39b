import { assert, install, test } from "bento/testing";

test("goes on where the last instance ended", async () => {
  await using counter = await install();
  assert.equal((await counter.run()).text, "1\n");
  assert.equal((await counter.run()).text, "2\n");
});

test("each installed function counts for itself", async () => {
  await using one = await install();
  await one.run();
  await using other = await install();
  assert.equal((await other.run()).text, "1\n");
});
