import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  LINK_BYTES,
  LINK_ED25519,
  LINK_RSA,
  LINK_TIME_MS,
  LINK_TLS_CERTIFICATE,
} from "../../../test/vectors/onion-link.ts";
import { concat } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { fromHex, hex, u16, u32 } from "../fields.ts";
import { HANDSHAKE_CELLS_MAX } from "../limits.ts";
import { CELL, type Cell, CellParser, fixedCell, versionsCell } from "./cell.ts";
import { checkCerts } from "./certs-cell.ts";
import { type HandshakeOptions, LinkHandshake, type LinkOpened } from "./handshake.ts";

const options: HandshakeOptions = {
  tlsCertificate: fromHex(LINK_TLS_CERTIFICATE),
  expect: {},
  nowMs: LINK_TIME_MS,
};

function shake(
  chunks: readonly Uint8Array[],
  change: Partial<HandshakeOptions> = {},
): LinkOpened | undefined {
  const handshake = new LinkHandshake({ ...options, ...change });
  for (const chunk of chunks) {
    const { opened } = handshake.receive(chunk);
    if (opened) return opened;
  }
  return undefined;
}

/** The recorded cells, each as bytes. */
function recorded(): { versions: Uint8Array; certs: Uint8Array; challenge: Uint8Array; netinfo: Uint8Array } {
  const parser = new CellParser();
  parser.push(LINK_BYTES);
  parser.next();
  parser.widen();
  const found: Cell[] = [];
  for (let cell = parser.next(); cell; cell = parser.next()) found.push(cell);
  const body = (command: number) => found.find((cell) => cell.command === command)?.body ?? new Uint8Array(0);
  return {
    versions: versionsCell([3, 4, 5]),
    certs: variable(CELL.certs, body(CELL.certs)),
    challenge: variable(CELL.authChallenge, body(CELL.authChallenge)),
    netinfo: fixedCell(0, CELL.netinfo, body(CELL.netinfo)),
  };
}

function variable(command: number, body: Uint8Array): Uint8Array {
  return concat([u32(0), Uint8Array.of(command), u16(body.length), body]);
}

test("a real relay's half completes the handshake and proves its identities, however it is cut", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(LINK_BYTES.length), { maxLength: 6 }), (cuts) => {
      const places = [0, ...cuts.sort((a, b) => a - b), LINK_BYTES.length];
      const opened = shake(places.slice(1).map((to, index) => LINK_BYTES.subarray(places[index], to)));
      assert.ok(opened);
      assert.equal(opened.version, 5);
      assert.equal(hex(opened.peer.ed25519), LINK_ED25519);
      assert.equal(hex(opened.peer.rsa), LINK_RSA);
      assert.ok(Math.abs(opened.clockSkewS ?? 99) <= 5);
    }),
    { numRuns: 30 },
  );
});

test("we say VERSIONS first, and NETINFO only once the relay has proved itself", () => {
  const handshake = new LinkHandshake(options);
  assert.deepEqual(handshake.start(), versionsCell([4, 5]));
  const { versions, certs, challenge, netinfo } = recorded();
  for (const cell of [versions, certs, challenge]) assert.equal(handshake.receive(cell).send.length, 0);
  const { send, opened } = handshake.receive(netinfo);
  assert.ok(opened);
  assert.equal(send[4], CELL.netinfo);
  assert.deepEqual([...send.subarray(5, 9)], [0, 0, 0, 0], "our clock is not told");
});

test("the highest common version counts; 4 alone is enough, 3 is not", () => {
  const { certs, challenge, netinfo } = recorded();
  const rest = concat([certs, challenge, netinfo]);
  assert.equal(shake([versionsCell([3, 4]), rest])?.version, 4);
  assert.equal(shake([versionsCell([4, 5, 6]), rest])?.version, 5);
  assert.throws(() => shake([versionsCell([3]), rest]), { code: "onion-link" });
  assert.throws(() => shake([Uint8Array.of(0, 0, 7, 0, 3, 0, 4, 0), rest]), { code: "onion-link" });
});

test("another TLS connection, another time or another relay than expected is refused", () => {
  assert.ok(shake([LINK_BYTES], { expect: { ed25519: fromHex(LINK_ED25519), rsa: fromHex(LINK_RSA) } }));
  assert.throws(() => shake([LINK_BYTES], { tlsCertificate: new Uint8Array(32) }), /another TLS connection/u);
  assert.throws(() => shake([LINK_BYTES], { nowMs: LINK_TIME_MS + 400 * 86_400_000 }), /expired|not valid/u);
  assert.throws(() => shake([LINK_BYTES], { nowMs: Date.UTC(2000, 1) }), /not valid/u);
  assert.throws(() => shake([LINK_BYTES], { nowMs: Number.NaN }), ProtocolError);
  for (const expect of [{ ed25519: new Uint8Array(32) }, { rsa: new Uint8Array(20) }])
    assert.throws(() => shake([LINK_BYTES], { expect }), { code: "onion-wrong-relay" });
});

test("no bit of the certificates that prove the relay can be changed", () => {
  const { certs } = recorded();
  const body = certs.subarray(7);
  checkCerts(body, options);
  // Type 1 comes first and proves nothing: it is the identity of TLS connections without Ed25519.
  const from = 1 + 3 + (((body[2] ?? 0) << 8) | (body[3] ?? 0));
  let accepted = 0;
  for (let at = from; at < body.length; at += 3) {
    const changed = body.slice();
    changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8));
    try {
      checkCerts(changed, options);
      accepted++;
    } catch (error) {
      assert.ok(error instanceof ProtocolError, String(error));
    }
  }
  assert.equal(accepted, 0);
});

test("each certificate is needed, and only once", () => {
  const { certs } = recorded();
  const body = certs.subarray(7);
  const parts: Uint8Array[] = [];
  for (let at = 1; at < body.length; ) {
    const end = at + 3 + (((body[at + 1] ?? 0) << 8) | (body[at + 2] ?? 0));
    parts.push(body.subarray(at, end));
    at = end;
  }
  const cell = (some: readonly Uint8Array[]) => concat([Uint8Array.of(some.length), ...some]);
  checkCerts(cell(parts), options);
  for (const missing of parts) {
    const rest = parts.filter((part) => part !== missing);
    if (missing[0] === 1) checkCerts(cell(rest), options);
    else assert.throws(() => checkCerts(cell(rest), options), { code: "onion-certificate" });
  }
  assert.throws(() => checkCerts(cell([...parts, parts[1] ?? body]), options), /two certificates/u);
});

test("cells out of order, and more padding than a handshake needs, end it", () => {
  const { versions, certs, challenge, netinfo } = recorded();
  const refused = { code: "onion-link" };
  assert.throws(() => shake([versions, netinfo]), refused);
  assert.throws(() => shake([versions, challenge]), refused);
  assert.throws(() => shake([versions, certs, certs]), refused);
  assert.throws(() => shake([versions, certs, challenge, challenge]), refused);
  assert.throws(() => shake([versions, certs, fixedCell(1, CELL.relay, new Uint8Array(0))]), refused);
  assert.throws(() => shake([fixedCell(0, CELL.netinfo, new Uint8Array(0))]), refused);
  const padding = (count: number) =>
    Array.from({ length: count }, () => variable(CELL.vpadding, new Uint8Array(9)));
  assert.ok(shake([versions, ...padding(HANDSHAKE_CELLS_MAX - 4), certs, challenge, netinfo]));
  assert.throws(
    () => shake([versions, ...padding(HANDSHAKE_CELLS_MAX - 3), certs, challenge, netinfo]),
    refused,
  );
});

test("noise after VERSIONS is a ProtocolError or not enough", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 1200 }), (noise) => {
      try {
        assert.equal(shake([versionsCell([5]), noise]), undefined);
      } catch (error) {
        assert.ok(error instanceof ProtocolError);
      }
    }),
  );
});
