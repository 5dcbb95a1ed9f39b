import assert from "node:assert/strict";
import { test } from "node:test";
import { shapedAnswer } from "../../../test/support/shaped-answer.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import { BROWSE_DEFAULTS, type BrowseRequest, CELL_BYTES, decodeRequest, RATES } from "../../wire/browse.ts";
import { BoxClient, directDial } from "../client.ts";
import { TestBox, type TestCall } from "../test-box.ts";
import { BrowseSession } from "./browse-session.ts";

const SIZES = [2 * CELL_BYTES, 20 * CELL_BYTES];
const SETTINGS = {
  ...BROWSE_DEFAULTS,
  shape: { kind: "bucket", bytes: SIZES, rate: RATES[0] },
} as const;
const PACKAGE = { manifest: { name: "browser", image: "deno" as const }, source: "x" };

const answer = (request: BrowseRequest, sizes: readonly number[] = SIZES) => shapedAnswer(request, sizes);

/** A browser function that answers at once; `onRequest` may do something else. */
function browserBox(onRequest?: (request: BrowseRequest, call: TestCall) => boolean | Promise<boolean>) {
  const seen: BrowseRequest[] = [];
  const uploads: number[] = [];
  const box = TestBox.start({
    script: async (call) => {
      for await (const message of call.input) {
        uploads.push(message.length);
        const request = decodeRequest(message);
        seen.push(request);
        if (await onRequest?.(request, call)) continue;
        for (const cell of answer(request)) call.output(cell);
      }
      return { kind: "returned" };
    },
  });
  return { box, seen, uploads };
}

const textOf = (html: Uint8Array) => new TextDecoder().decode(html);

test("BrowseSession: several pages over one instance, forms among them, each upload of one size", async () => {
  const { box, seen, uploads } = browserBox();
  await using running = await box;
  using client = new BoxClient({ address: running.address, dial: directDial });
  {
    await using session = new BrowseSession({ client, package: PACKAGE, settings: SETTINGS });
    const stages: string[] = [];
    const first = await session.visit(
      { url: "http://a.test/" },
      { onShowable: (_html, stage) => stages.push(stage) },
    );
    const only: string[] = [];
    await session.visit(
      { url: "http://a.test/" },
      { showsStyled: false, onShowable: (_html, stage) => only.push(stage) },
    );
    assert.deepEqual(only, ["complete"]);
    assert.match(textOf(first.html), /GET http:\/\/a\.test\//);
    assert.ok(first.verified && first.isShaped);
    assert.deepEqual(stages, ["styled", "complete"]);
    assert.equal(first.contentBytes + first.paddingBytes, SIZES[0]);
    const form = { fields: [["q", "a b"]] as const };
    const [got, posted] = await Promise.all([
      session.visit({ url: "http://a.test/s?old=1", form }),
      session.visit({ url: "http://a.test/s", method: "POST", form, referrer: "http://a.test/" }),
    ]);
    assert.match(textOf(got.html), /GET http:\/\/a\.test\/s\?q=a\+b /);
    assert.match(textOf(posted.html), /POST http:\/\/a\.test\/s q=a\+b/);
    assert.equal(seen[3]?.referrer, "http://a.test/");
  }
  assert.deepEqual(uploads, [2048, 2048, 2048, 2048]);
  assert.deepEqual(
    seen.map((one) => one.id),
    [1, 2, 3, 4],
  );
});

test("BrowseSession: links lead where the caller says, in pages that are not files", async () => {
  const { box } = browserBox();
  await using running = await box;
  using client = new BoxClient({ address: running.address, dial: directDial });
  await using session = new BrowseSession({ client, package: PACKAGE, settings: SETTINGS });
  const links = {
    linkTo: (url: string) => `/go?"${url}`,
    formAction: () => "/send",
    formSource: "'self'",
  };
  const page = await session.visit({ url: "http://a.test/" }, { links });
  assert.match(textOf(page.html), /href="\/go\?&quot;http:\/\/a\.test\/next"/);
  assert.match(textOf(page.html), /form-action 'self'"/);
});

test("BrowseSession: who stops waiting gets no page, and the answer is read to its end all the same", async () => {
  const gate = Promise.withResolvers<void>();
  const { box } = browserBox(async (request, call) => {
    if (!request.url.endsWith("/slow")) return false;
    const cells = answer(request);
    call.output(cells[0] ?? new Uint8Array());
    await gate.promise;
    for (const cell of cells.slice(1)) call.output(cell);
    return true;
  });
  await using running = await box;
  using client = new BoxClient({ address: running.address, dial: directDial });
  await using session = new BrowseSession({ client, package: PACKAGE, settings: SETTINGS });
  const controller = new AbortController();
  const left = session.visit({ url: "http://a.test/slow" }, { signal: controller.signal });
  const next = session.visit({ url: "http://a.test/next" });
  controller.abort(new Error("seen enough"));
  await assert.rejects(left, /seen enough/);
  assert.equal(session.pending, 2);
  gate.resolve();
  assert.match(textOf((await next).html), /a\.test\/next/);
  assert.equal(session.pending, 0);
});

test("BrowseSession: closing waits for what is under way; the function is removed", async () => {
  const gate = Promise.withResolvers<void>();
  const { box } = browserBox(async () => {
    await gate.promise;
    return false;
  });
  await using running = await box;
  using client = new BoxClient({ address: running.address, dial: directDial });
  const session = new BrowseSession({ client, package: PACKAGE, settings: SETTINGS });
  const page = session.visit({ url: "http://a.test/" }, { last: true });
  const closed = session.close();
  setImmediate(gate.resolve);
  await closed;
  assert.ok((await page).verified);
  assert.deepEqual(await session.outcome(), { kind: "returned" });
});

test("BrowseSession: acknowledges in equal steps, however fast it reads; other sessions do so at once", async () => {
  const firstAcks: number[] = [];
  await using box = await TestBox.start({
    script: async (call) => {
      const cells = shapedAnswer(
        { id: 1, url: "http://a.test/", method: "GET", body: undefined, referrer: undefined, stop: false },
        [40 * CELL_BYTES],
      );
      // In the control no number of messages comes to a step.
      if (firstAcks.length > 0) call.output(new Uint8Array(10));
      for (const cell of cells) {
        call.output(cell);
        // One by one, as they come from a function that paces them.
        await new Promise((resolve) => setImmediate(resolve));
      }
      await call.acknowledged(1);
      firstAcks.push([...box.instances.values()].at(-1)?.acked ?? 0);
      return { kind: "returned" };
    },
  });
  using client = new BoxClient({ address: box.address, dial: directDial });
  const settings = { ...SETTINGS, shape: { ...SETTINGS.shape, bytes: [40 * CELL_BYTES] } };
  {
    await using session = new BrowseSession({ client, package: PACKAGE, settings });
    await session.visit({ url: "http://a.test/" }, { last: true });
  }
  assert.equal((firstAcks[0] ?? 0) % (64 * 1024), 0, `${firstAcks[0]}`);
  // The control: without steady acknowledgements the first comes when nothing more waits.
  const plain = await client.run({ package: PACKAGE }, { args: [] }, { endInput: true });
  await plain.drain();
  assert.ok((firstAcks[1] ?? 0) > 0 && (firstAcks[1] ?? 0) % (64 * 1024) !== 0, `${firstAcks[1]}`);
});

test("BrowseSession: after the end of an instance the next page gets a new one", async () => {
  let calls = 0;
  await using box = await TestBox.start({
    script: async (call) => {
      calls++;
      for await (const message of call.input) {
        for (const cell of answer(decodeRequest(message))) call.output(cell);
        break;
      }
      return { kind: "returned" };
    },
  });
  using client = new BoxClient({ address: box.address, dial: directDial });
  await using session = new BrowseSession({ client, package: PACKAGE, settings: SETTINGS });
  await session.visit({ url: "http://a.test/1" });
  await session.outcome();
  const again = await session.visit({ url: "http://a.test/2" });
  assert.match(textOf(again.html), /a\.test\/2/);
  assert.equal(calls, 2);
});

test("BrowseSession: an instance that dies leaves what came of a page, and an error for those that did not begin", async () => {
  await using box = await TestBox.start({
    script: async (call) => {
      for await (const message of call.input) {
        const [cell] = answer(decodeRequest(message));
        call.output(cell ?? new Uint8Array());
        return { kind: "killed", reason: "out-of-memory" };
      }
      return { kind: "returned" };
    },
  });
  using client = new BoxClient({ address: box.address, dial: directDial });
  await using session = new BrowseSession({ client, package: PACKAGE, settings: SETTINGS });
  const first = session.visit({ url: "http://a.test/1" });
  const second = session.visit({ url: "http://a.test/2" });
  await assert.rejects(second, (error) => error instanceof BentoError && error.code !== "internal");
  const page = await first.catch((error: unknown) => error);
  // The digest was complete in its first cell, or it was not: never a page that claims more than came.
  assert.ok(
    page instanceof ProtocolError || (page as { verified?: boolean }).verified === false,
    String(page),
  );
  assert.equal((await session.outcome())?.kind, "killed");
});

test("BrowseSession: an answer of another size is told, output that nobody asked for ends the session", async () => {
  const other = [3 * CELL_BYTES];
  const { box } = browserBox((request, call) => {
    for (const cell of answer(request, other)) call.output(cell);
    if (request.url.endsWith("/more")) call.output(new Uint8Array(10));
    return true;
  });
  await using running = await box;
  using client = new BoxClient({ address: running.address, dial: directDial });
  await using session = new BrowseSession({ client, package: PACKAGE, settings: SETTINGS });
  const page = await session.visit({ url: "http://a.test/" });
  assert.ok(page.verified && !page.isShaped);
  await session.visit({ url: "http://a.test/more" });
  await assert.rejects(session.outcome(), ProtocolError);
});
