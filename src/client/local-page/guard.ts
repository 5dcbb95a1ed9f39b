// What the servers on loopback share, which every page in the user's browser and every user of the machine can reach:
// answers that no other site can use, and a key that is known by the address printed once, and then by a cookie.

import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";

/** What every answer has. */
export function protect(response: ServerResponse): void {
  response.setHeader("x-content-type-options", "nosniff");
  response.setHeader("referrer-policy", "no-referrer");
  response.setHeader("cache-control", "no-store");
  response.setHeader("cross-origin-resource-policy", "same-origin");
}

/** The empty text where there is none. */
export function cookieOf(request: IncomingMessage, name: string): string {
  const [, value = ""] = new RegExp(`(?:^|; )${name}=([\\w-]*)`).exec(request.headers.cookie ?? "") ?? [];
  return value;
}

/** Compares without telling how much was right. */
export function isSame(found: string, wanted: string): boolean {
  const hash = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(found), hash(wanted));
}

export function send(response: ServerResponse, type: string, body: Uint8Array): void {
  response.setHeader("content-type", type);
  response.end(body);
}

export function redirect(response: ServerResponse, to: string): void {
  response.writeHead(303, { location: to }).end();
}

export function refuse(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { "content-type": "text/plain; charset=utf-8" }).end(`${text}\n`);
}
