// The thread that owns the function store's database, so that the box's own thread never waits for a disk.
// Requests that have arrived by the time one is served go into one transaction: one flush for all of them.
// Answers leave only after the commit.

import {
  isMainThread,
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from "node:worker_threads";
import { assert, BentoError, messageOf } from "../../base/errors.ts";
import { hashToken, type InvocationToken, type ShutdownToken } from "../../wire/token.ts";
import { FunctionTable, isDiskFull } from "./function-table.ts";
import { openPackage, sealPackage } from "./sealed-package.ts";
import type { StoreAnswer, StoreEvent, StoreRequest, WorkerOptions } from "./store-messages.ts";

/** Requests in one transaction. More would only make the first of them wait longer. */
const BATCH_REQUESTS_MAX = 256;

type Answer =
  | { readonly ok: StoreAnswer }
  | { readonly failed: "disk-full" | "internal"; readonly message: string };

function serve(port: MessagePort, options: WorkerOptions): void {
  const send = (event: StoreEvent) => {
    port.postMessage(event);
  };
  let table: FunctionTable;
  try {
    table = new FunctionTable(options.dir, options.bytesMax);
    send({ kind: "opened", count: table.count });
  } catch (error) {
    const { code, advice } = error instanceof BentoError ? error : { code: "internal", advice: undefined };
    send({ kind: "unusable", code, message: messageOf(error), advice });
    return;
  }
  port.on("message", (first: StoreRequest) => {
    const batch = [first];
    while (batch.length < BATCH_REQUESTS_MAX) {
      const next = receiveMessageOnPort(port);
      if (!next) break;
      batch.push(next.message as StoreRequest);
    }
    const answers = runBatch(table, batch);
    batch.forEach((request, index) => {
      const answer = answers[index];
      assert(answer, "every request has an answer");
      send({ kind: "answer", request: request.request, ...answer });
    });
    if (batch.some((request) => request.op === "remove" || request.op === "expire")) tidy(table);
    if (batch.some((request) => request.op === "close")) {
      table.close();
      port.close();
    }
  });
}

function runBatch(table: FunctionTable, batch: readonly StoreRequest[]): Answer[] {
  if (batch.length > 1 && batch.some(isWrite)) {
    try {
      return table.transaction(() => batch.map((request) => ({ ok: run(table, request) })));
    } catch {
      // One of them failed and nothing was kept: below each stands for itself, and gets its own error.
    }
  }
  return batch.map((request) => runAlone(table, request));
}

function runAlone(table: FunctionTable, request: StoreRequest): Answer {
  try {
    return { ok: isWrite(request) ? table.transaction(() => run(table, request)) : run(table, request) };
  } catch (error) {
    if (!isDiskFull(error)) return { failed: "internal", message: messageOf(error) };
    if (request.op === "add") return { failed: "disk-full", message: messageOf(error) };
  }
  try {
    return { ok: table.removeWithoutRoom(() => removeOneByOne(table, request)) };
  } catch (error) {
    return { failed: isDiskFull(error) ? "disk-full" : "internal", message: messageOf(error) };
  }
}

/** As `run`, with one small transaction for each function. */
function removeOneByOne(table: FunctionTable, request: StoreRequest): StoreAnswer {
  if (request.op !== "expire") return table.transaction(() => run(table, request));
  const removed: string[] = [];
  try {
    for (const id of table.expired(request.now)) {
      table.transaction(() => table.remove(id));
      removed.push(id);
    }
  } catch (error) {
    // Those that are gone must be told; the others are tried again when the next expiry is due.
    if (removed.length === 0) throw error;
  }
  return removed;
}

function isWrite(request: StoreRequest): boolean {
  return request.op === "add" || request.op === "remove" || request.op === "expire";
}

function run(table: FunctionTable, request: StoreRequest): StoreAnswer {
  switch (request.op) {
    case "add": {
      const { id, storedAt, expiresAt, invocationToken, shutdownToken } = request;
      const tokens = { invocation: invocationToken, shutdown: shutdownToken };
      table.add({
        id,
        storedAt,
        expiresAt,
        invocationHash: hashToken(invocationToken),
        shutdownHash: hashToken(shutdownToken),
        ...sealPackage(request.text, tokens, { id, storedAt, expiresAt }),
      });
      return undefined;
    }
    case "find":
      return find(table, request.kind, request.token);
    case "remove":
      return table.remove(request.id);
    case "expire":
      return table.expire(request.now);
    case "close":
      return undefined;
  }
}

function find(
  table: FunctionTable,
  kind: "invocation" | "shutdown",
  token: InvocationToken | ShutdownToken,
): StoreAnswer {
  const row = table.find(kind, hashToken(token));
  if (!row) return undefined;
  const { id, storedAt, expiresAt } = row;
  return { id, storedAt, expiresAt, text: openPackage(row.sealed, row.wrap, kind, token, row) };
}

function tidy(table: FunctionTable): void {
  try {
    table.tidy();
  } catch {
    // The rows are gone either way; the next removal tidies again.
  }
}

assert(!isMainThread && parentPort, "store-worker runs as a worker");
serve(parentPort, workerData as WorkerOptions);
