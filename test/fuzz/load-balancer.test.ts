// Hostile bytes at what LoadBalancer reads: replicas' messages, a replica's commands, clients' requests, sites, requests of
// whoever holds a token.

import { primaryMessage, standbyMessage } from "../../functions/loadbalancer/standby-protocol.ts";
import { checkedOwnerMessage, checkedStart } from "../../functions/loadbalancer/start.ts";
import {
  BadRequest,
  HeadReader,
  parseHead,
  parseRange,
  pathOf,
} from "../../functions/replica/http-request.ts";
import {
  checkedReplicaStart,
  decodeCommand,
  decodeMessage,
  encodeCommand,
  encodeMessage,
} from "../../functions/replica/protocol.ts";
import { Site } from "../../functions/replica/site.ts";
import { utf8 } from "../../src/base/bytes.ts";
import { siteOf, startOf } from "../support/load-balancer.ts";
import { MATERIAL } from "../support/rendezvous-material.ts";
import { fuzz, jsonOf } from "./fuzz.ts";

const LOAD = {
  connections: 1,
  bytesPerSecond: 2,
  bytesTotal: 3,
  cpuPercent: 4,
  met: 5,
  failed: 6,
  answered: 7,
  clients: [{ id: 1, bytesPerSecond: 2, bytesTotal: 3, ageMs: 4 }],
};
const STANDBY = { box: "b", silentMs: 5000, others: ["c"], own: "a" };
const { start: START } = startOf({ site: utf8("xxxx"), replica: {}, standby: {} }, { standby: STANDBY });
const SITE = siteOf({ "index.html": utf8("hello"), "a/b.css": utf8("x") });
const REQUEST = 'GET /a%20b?c HTTP/1.1\r\nHost: x.onion\r\nRange: bytes=1-2\r\nIf-None-Match: "x"\r\n\r\n';

fuzz([
  {
    name: "messages of replicas",
    seeds: [
      encodeMessage({ kind: "hello", epoch: 1, needsSite: true }),
      encodeMessage({ kind: "load", epoch: 1, load: LOAD }),
      encodeMessage({ kind: "failed", epoch: 1, number: 2, reason: "no" }),
    ],
    parse: decodeMessage,
  },
  {
    name: "commands to replicas",
    seeds: [
      encodeCommand({ kind: "meet", epoch: 1, number: 1, material: MATERIAL }),
      encodeCommand({ kind: "settings", epoch: 1, tellsClients: true }),
      encodeCommand({ kind: "end", epoch: 1 }),
    ],
    parse: decodeCommand,
  },
  {
    name: "requests of clients",
    seeds: [REQUEST, REQUEST.repeat(3), "HEAD http://x.onion/%ff HTTP/1.0\r\n\r\n"],
    words: ["\r\n", "\r\n\r\n", "Content-Length: 5\r\n", "Range: bytes=-", "%2e%2e/", ": "],
    parse: (_bytes, chunks) =>
      ignoring(BadRequest, () => {
        const reader = new HeadReader();
        for (const chunk of chunks) {
          reader.push(chunk);
          for (let head = reader.next(); head !== undefined; head = reader.next()) {
            const { target, headers } = parseHead(head);
            pathOf(target);
            parseRange(headers.get("range"), 100);
          }
        }
      }),
  },
  {
    name: "sites",
    seeds: [SITE, SITE.subarray(0, 40)],
    words: ['{"files":[', '"path":"', '"bytes":', '"type":"'],
    parse: async (bytes, chunks) =>
      Site.open(
        async function* read() {
          yield* chunks;
        },
        { bytes: bytes.length, digest: "ab".repeat(32) },
      ).catch(ours),
  },
  {
    name: "requests to balance, to stand by and to serve",
    seeds: [
      JSON.stringify(START),
      '{"watch":{"everyMs":100}}',
      '{"beat":1,"seen":[["ab","AAAA"]]}',
      '{"waiting":{"beat":1}}',
    ],
    words: ['"scale":', '"replicasMax":', '"standby":', "1e99", "null"],
    parse: (bytes) => {
      for (const read of [
        () => checkedStart(jsonOf(bytes)),
        () => checkedReplicaStart(jsonOf(bytes)),
        () => checkedOwnerMessage(bytes, START.scale),
        () => primaryMessage(bytes),
        () => standbyMessage(bytes),
      ])
        try {
          read();
        } catch (error) {
          ours(error);
        }
    },
  },
]);

/** What our readers say of what they refuse; anything else is a bug of theirs. */
function ours(error: unknown): void {
  const isOurs =
    error instanceof SyntaxError ||
    (error instanceof TypeError && error.message.includes("not valid for encoding utf-8")) ||
    (error instanceof Error && error.constructor === Error && error.message.startsWith("Cannot "));
  if (!isOurs) throw error;
}

function ignoring(kind: abstract new (...args: never[]) => Error, step: () => void): void {
  try {
    step();
  } catch (error) {
    if (!(error instanceof kind)) throw error;
  }
}
