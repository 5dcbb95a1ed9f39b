import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { random } from "../crypto/primitives.ts";
import { FieldReader } from "../fields.ts";
import { decodeLinkSpecifiers, encodeLinkSpecifiers } from "./link-specifier.ts";
import { RelayLayer } from "./relay-layer.ts";
import {
  decodeBegin,
  decodeRelay,
  decodeSendme,
  encodeBegin,
  encodeRelay,
  encodeSendme,
  RELAY_DATA_BYTES,
} from "./relay-message.ts";

test("relay messages come out as they went in, and the padding cannot be predicted", () => {
  fc.assert(
    fc.property(
      fc.nat(255),
      fc.nat(0xffff),
      fc.uint8Array({ maxLength: RELAY_DATA_BYTES }),
      (command, streamId, data) => {
        const body = encodeRelay({ command, streamId, data });
        assert.equal(body.length, 509);
        assert.deepEqual(decodeRelay(body), { command, streamId, data });
      },
    ),
  );
  const [a, b] = [
    encodeRelay({ command: 2, streamId: 1, data: utf8("x") }),
    encodeRelay({ command: 2, streamId: 1, data: utf8("x") }),
  ];
  assert.deepEqual(a?.subarray(0, 16), b?.subarray(0, 16));
  assert.notDeepEqual(a?.subarray(16), b?.subarray(16));
});

test("a relay message holds RELAY_DATA_BYTES and not one more", () => {
  const body = encodeRelay({ command: 2, streamId: 1, data: new Uint8Array(RELAY_DATA_BYTES) });
  assert.equal(decodeRelay(body).data.length, RELAY_DATA_BYTES);
  body[10] = (body[10] ?? 0) + 1;
  assert.throws(() => decodeRelay(body), { code: "onion-relay-cell" });
});

test("BEGIN: names, addresses, and what onion services get", () => {
  assert.deepEqual(decodeBegin(encodeBegin("Example.COM", 80)), { host: "example.com", port: 80 });
  assert.deepEqual(decodeBegin(encodeBegin("2001:db8::1", 443)), { host: "2001:db8::1", port: 443 });
  assert.deepEqual(decodeBegin(utf8(":80\0")), { host: "", port: 80 });
  for (const bad of ["", "x:80", "x:0\0", "x:65536\0", "x\0", "x y:80\0", ":\0", "x:8o\0"])
    assert.throws(() => decodeBegin(utf8(bad)), ProtocolError, bad);
});

test("SENDME carries 20 bytes of digest; version 0 carries none", () => {
  const digest = random(32);
  assert.deepEqual(decodeSendme(encodeSendme(digest)), digest.subarray(0, 20));
  assert.equal(decodeSendme(new Uint8Array(0)), undefined);
  assert.throws(() => decodeSendme(Uint8Array.of(1, 0, 19, ...random(19))), ProtocolError);
});

test("link specifiers: both address versions, unknown kinds, what is missing", () => {
  const identity = { rsa: random(20), ed25519: random(32) };
  for (const host of ["192.0.2.1", "2001:db8::1"]) {
    const bytes = encodeLinkSpecifiers({ host, port: 9001, identity });
    assert.deepEqual(decodeLinkSpecifiers(new FieldReader(bytes, "test")), { host, port: 9001, identity });
    const more = concat([Uint8Array.of(4, 77, 2, 1, 2), bytes.subarray(1)]);
    assert.equal(decodeLinkSpecifiers(new FieldReader(more, "test")).host, host);
    for (let length = 0; length < bytes.length; length++)
      assert.throws(
        () => decodeLinkSpecifiers(new FieldReader(bytes.subarray(0, length), "test")),
        ProtocolError,
      );
  }
  const zeroPort = encodeLinkSpecifiers({ host: "192.0.2.1", port: 0, identity });
  assert.throws(() => decodeLinkSpecifiers(new FieldReader(zeroPort, "test")), ProtocolError);
  assert.throws(() => decodeLinkSpecifiers(new FieldReader(Uint8Array.of(17), "test")), ProtocolError);
});

test("a layer knows its own cells, in order, among others, of both kinds", () => {
  for (const kind of ["relay", "onion"] as const) {
    const size = kind === "relay" ? ([16, 20] as const) : ([32, 32] as const);
    const [key, seed] = [random(size[0]), random(size[1])];
    const sender = new RelayLayer(kind, key, seed);
    const receiver = new RelayLayer(kind, key, seed);
    for (let turn = 0; turn < 40; turn++) {
      const body = encodeRelay({ command: 2, streamId: turn, data: random(turn) });
      const isForOther = turn % 3 === 0;
      // A cell for a hop beyond: random to us, with "recognized" zero by chance now and then.
      if (isForOther) {
        body.set(random(509));
        if (turn % 2 === 0) body.fill(0, 1, 3);
      }
      const digest = isForOther ? undefined : sender.seal(body);
      // As from a socket, whose chunks are of another class, or as from a stream.
      const opened = receiver.crypt(turn % 4 < 2 ? Buffer.from(sender.crypt(body)) : sender.crypt(body));
      const before = Uint8Array.from(opened);
      assert.deepEqual(receiver.recognize(opened), digest);
      if (isForOther) assert.deepEqual(Uint8Array.from(opened), before);
    }
  }
});

test("a changed, repeated or left-out cell is not recognized", () => {
  const [key, seed] = [random(16), random(20)];
  const make = () => ({
    sender: new RelayLayer("relay", key, seed),
    receiver: new RelayLayer("relay", key, seed),
  });
  const sealed = (sender: RelayLayer) => {
    const body = encodeRelay({ command: 2, streamId: 1, data: utf8("data") });
    sender.seal(body);
    return sender.crypt(body);
  };
  for (let at = 0; at < 509; at += 7) {
    const { sender, receiver } = make();
    const cell = sealed(sender);
    cell[at] = (cell[at] ?? 0) ^ 4;
    assert.equal(receiver.recognize(receiver.crypt(cell)), undefined, `byte ${String(at)}`);
  }
  const { sender, receiver } = make();
  const first = sealed(sender);
  assert.ok(receiver.recognize(receiver.crypt(first.slice())));
  assert.equal(receiver.recognize(receiver.crypt(first)), undefined, "repeated");
  const other = make();
  sealed(other.sender);
  assert.equal(other.receiver.recognize(other.receiver.crypt(sealed(other.sender))), undefined, "left out");
});
