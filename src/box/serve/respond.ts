// Answers as they leave the box. The same few headers on every one of them; no date, no software banner.

import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { MEDIA } from "../../wire/api.ts";
import { ERROR_CODES, isErrorCode, type Problem, problemOf } from "../../wire/error-code.ts";

const COMMON = {
  "Cache-Control": "no-store",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
} as const;

/** Nothing but the page's own inline style may load, nothing may frame or be submitted. */
const PAGE_POLICY =
  "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export function sendJson(response: ServerResponse, status: number, value: unknown): void {
  send(response, status, MEDIA.json, JSON.stringify(value));
}

export function sendPage(response: ServerResponse, html: string): void {
  response.setHeader("Content-Security-Policy", PAGE_POLICY);
  send(response, 200, "text/html; charset=utf-8", html);
}

/** Says what went wrong and hangs up afterwards when part of the request is still to come. */
export function sendError(response: ServerResponse, error: unknown): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const problem = problemOf(error);
  const { complete, headers } = response.req;
  const hasBody = headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
  if (hasBody && !complete) response.setHeader("Connection", "close");
  send(response, statusOf(problem), MEDIA.problem, JSON.stringify(problem));
}

/** An error before there is a response object: a malformed request or a refused upgrade. */
export function sendRawError(socket: Socket, error: unknown): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const problem = problemOf(error);
  const body = JSON.stringify(problem);
  const headers = [
    `HTTP/1.1 ${statusOf(problem)} ${problem.title}`,
    "Connection: close",
    `Content-Type: ${MEDIA.problem}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...Object.entries(COMMON).map(([name, value]) => `${name}: ${value}`),
  ];
  socket.end(`${headers.join("\r\n")}\r\n\r\n${body}`);
}

export function setCommonHeaders(response: ServerResponse): void {
  response.sendDate = false;
  for (const [name, value] of Object.entries(COMMON)) response.setHeader(name, value);
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  setCommonHeaders(response);
  response.statusCode = status;
  response.setHeader("Content-Type", type);
  response.setHeader("Content-Length", Buffer.byteLength(body));
  response.end(response.req.method === "HEAD" ? undefined : body);
}

function statusOf(problem: Problem): number {
  return isErrorCode(problem.code) ? ERROR_CODES[problem.code].status : 500;
}
