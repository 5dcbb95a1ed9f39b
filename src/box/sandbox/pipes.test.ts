import assert from "node:assert/strict";
import { closeSync, readSync, writeSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Fifos, PipeSource } from "./pipes.ts";

let dir: string;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-pipes-"));
});
after(async () => {
  await rm(dir, { recursive: true, force: true });
});

/** Bytes go through one pipe each way. */
async function use(fifos: Fifos): Promise<void> {
  const to = fifos.toGuest();
  const from = fifos.fromGuest();
  try {
    to.stream.write("to the guest");
    await new Promise((resolve) => setImmediate(resolve));
    const read = Buffer.alloc(64);
    assert.equal(read.toString("utf8", 0, readSync(to.guestFd, read)), "to the guest");
    writeSync(from.guestFd, "from the guest");
    const [chunk] = (await from.stream.take(1).toArray()) as [Buffer];
    assert.equal(chunk.toString(), "from the guest");
  } finally {
    for (const { guestFd, stream } of [to, from]) {
      closeSync(guestFd);
      stream.destroy();
    }
  }
}

test("PipeSource: many that start at once each have their pipes, however long it is until they open them", async () => {
  await using source = await PipeSource.open(dir);
  const all = await Promise.all(Array.from({ length: 100 }, () => source.take(3)));
  for (const fifos of all) await use(fifos);
  for (const fifos of all) fifos[Symbol.dispose]();
});

test("PipeSource: names that were not used are removed", async () => {
  await using source = await PipeSource.open(dir);
  const names = async () => (await readdir(join(dir, "pipes"))).length;
  const first = await names();
  const fifos = await source.take(3);
  await use(fifos);
  assert.equal(await names(), first - 2, "control: two were opened, and their names are gone");
  fifos[Symbol.dispose]();
  assert.equal(await names(), first - 3);
});
