import assert from "node:assert/strict";
import test from "node:test";
import * as fc from "fast-check";
import { concat, utf8 } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import { parseArguments, quote, type Reply, ReplyParser, unquote } from "./control-reply.ts";

const SAMPLE =
  "250-version=0.4.9.11\r\n250+ns/name/a0=\r\nr a0 x\r\n..dotted\r\n\r\n.\r\n250 OK\r\n" +
  "650 BW 10 20\r\n552 Unrecognized key\r\n";

const SAMPLE_REPLIES: Reply[] = [
  {
    code: 250,
    lines: [{ text: "version=0.4.9.11" }, { text: "ns/name/a0=", data: "r a0 x\n.dotted\n" }, { text: "OK" }],
  },
  { code: 650, lines: [{ text: "BW 10 20" }] },
  { code: 552, lines: [{ text: "Unrecognized key" }] },
];

test("ReplyParser: reads mid, data and end lines, events apart", () => {
  assert.deepEqual(new ReplyParser().push(utf8(SAMPLE)), SAMPLE_REPLIES);
});

test("ReplyParser: any split of the input gives the same replies", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: SAMPLE.length }), { maxLength: 20 }), (cuts) => {
      const bytes = utf8(SAMPLE);
      const parser = new ReplyParser();
      const edges = [0, ...cuts.sort((a, b) => a - b), bytes.length];
      const replies = edges.slice(1).flatMap((end, i) => parser.push(bytes.slice(edges[i], end)));
      assert.deepEqual(replies, SAMPLE_REPLIES);
    }),
  );
});

const PLAIN = { noNullPrototype: true } as const;
const lineText = fc
  .string({ unit: "binary", maxLength: 40 })
  .map((text) => text.replaceAll(/[\r\n]/gu, ""))
  .filter((text) => text.isWellFormed() && !text.includes("\ufeff"));

function serialize(reply: Reply): string {
  return reply.lines
    .map(({ text, data }, index) => {
      const isLast = index === reply.lines.length - 1;
      if (data === undefined) return `${String(reply.code)}${isLast ? " " : "-"}${text}\r\n`;
      const stuffed = data
        .split("\n")
        .map((line) => `${line.startsWith(".") ? "." : ""}${line}\r\n`)
        .join("");
      return `${String(reply.code)}+${text}\r\n${stuffed}.\r\n`;
    })
    .join("");
}

test("ReplyParser: reads back every reply that can be written", () => {
  const data = fc.array(lineText, { minLength: 1, maxLength: 5 }).map((lines) => lines.join("\n"));
  const line = fc.record({ text: lineText }, PLAIN);
  const reply = fc.record(
    {
      code: fc.constantFrom(250, 251, 510, 552, 650),
      lines: fc
        .tuple(
          fc.array(fc.oneof(line, fc.record({ text: lineText, data }, PLAIN)), {
            maxLength: 4,
          }),
          line,
        )
        .map(([first, last]) => [...first, last]),
    },
    PLAIN,
  );
  fc.assert(
    fc.property(fc.array(reply, { maxLength: 5 }), (replies) => {
      assert.deepEqual(new ReplyParser().push(utf8(replies.map(serialize).join(""))), replies);
    }),
  );
});

test("ReplyParser: garbage is a ProtocolError or waits, and never grows past its limit", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 }), (chunks) => {
      const parser = new ReplyParser({ lineBytesMax: 100, replyBytesMax: 1000 });
      try {
        for (const chunk of chunks) parser.push(chunk);
        assert.ok(concat(chunks).lastIndexOf(0x0a) >= concat(chunks).length - 100);
      } catch (error) {
        assert.ok(error instanceof ProtocolError);
        assert.throws(() => parser.push(utf8("250 OK\r\n")), ProtocolError);
      }
    }),
  );
});

test("ReplyParser: lineBytesMax holds at n and fails at n+1", () => {
  const limits = { lineBytesMax: 20, replyBytesMax: 1000 };
  const line = (length: number) => utf8(`250 ${"x".repeat(length - 6)}\r\n`);
  assert.equal(new ReplyParser(limits).push(line(20)).length, 1);
  assert.throws(() => new ReplyParser(limits).push(line(21)), ProtocolError);
  assert.throws(() => new ReplyParser(limits).push(line(40).subarray(0, 21)), ProtocolError);
});

test("ReplyParser: replyBytesMax holds at n and fails at n+1", () => {
  const limits = { lineBytesMax: 100, replyBytesMax: 2 * (64 + 8) };
  assert.equal(new ReplyParser(limits).push(utf8("250-ab\r\n250 ab\r\n")).length, 1);
  assert.throws(() => new ReplyParser(limits).push(utf8("250-ab\r\n250 abc\r\n")), ProtocolError);
});

test("ReplyParser: a bare LF and an event inside a reply are refused", () => {
  assert.throws(() => new ReplyParser().push(utf8("250 OK\n")), ProtocolError);
  assert.throws(() => new ReplyParser().push(utf8("250-a\r\n650 BW 1 2\r\n")), ProtocolError);
});

test("parseArguments: positional, keyword, quoted and relay names", () => {
  const { positional, keywords } = parseArguments(
    '7 BUILT $AB~a0,$CD~a1 PURPOSE=GENERAL SOCKS_USERNAME="fn \\"1\\" x" EMPTY=',
  );
  assert.deepEqual(positional, ["7", "BUILT", "$AB~a0,$CD~a1"]);
  assert.deepEqual(
    [...keywords],
    [
      ["PURPOSE", "GENERAL"],
      ["SOCKS_USERNAME", 'fn "1" x'],
      ["EMPTY", ""],
    ],
  );
});

test("parseArguments: any text gives arguments or a ProtocolError", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (text) => {
      try {
        parseArguments(text);
      } catch (error) {
        assert.ok(error instanceof ProtocolError);
      }
    }),
  );
});

test("quote: unquote reads it back, and it stays on one line", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (text) => {
      const quoted = quote(text);
      assert.ok(!/[\r\n]/u.test(quoted));
      assert.deepEqual(unquote(quoted), { value: text, end: quoted.length });
    }),
  );
});

test("unquote: octal escapes are UTF-8 bytes", () => {
  assert.equal(unquote('"\\303\\251\\t"').value, "é\t");
  assert.throws(() => unquote('"open'), ProtocolError);
  assert.throws(() => unquote('"open\\'), ProtocolError);
});
