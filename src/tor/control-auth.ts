// Proving ourselves to a control port, and the control port to us, with the cookie file both can read.
// Pure except for reading the cookie. A cookie is a secret: never logged, compared in constant time.
// Spec: control-spec 3.21 (PROTOCOLINFO), 3.24 (AUTHCHALLENGE).

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { readFile } from "node:fs/promises";
import { BentoError, messageOf, ProtocolError } from "../base/errors.ts";
import { parseArguments, quote, type Reply, unquote } from "./control-reply.ts";

const COOKIE_BYTES = 32;
const SERVER_KEY = "Tor safe cookie authentication server-to-controller hash";
const CLIENT_KEY = "Tor safe cookie authentication controller-to-server hash";

export interface ProtocolInfo {
  readonly methods: readonly string[];
  readonly cookieFile: string | undefined;
  readonly torVersion: string | undefined;
}

// Sample:
//   250-PROTOCOLINFO 1
//   250-AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE="/var/lib/tor/control_auth_cookie"
//   250-VERSION Tor="0.4.9.11"
//   250 OK
export function parseProtocolInfo(reply: Reply): ProtocolInfo {
  let methods: string[] = [];
  let cookieFile: string | undefined;
  let torVersion: string | undefined;
  for (const { text } of reply.lines) {
    if (text.startsWith("AUTH ")) {
      const { keywords } = parseArguments(text);
      methods = (keywords.get("METHODS") ?? "").split(",").filter((name) => name !== "");
      cookieFile = keywords.get("COOKIEFILE");
    } else if (text.startsWith('VERSION Tor="')) {
      torVersion = unquote(text, "VERSION Tor=".length).value;
    }
  }
  return { methods, cookieFile, torVersion };
}

/** Sends one command and resolves with its 250 reply. */
type Ask = (command: string) => Promise<Reply>;

/** Authenticates a fresh control connection: SAFECOOKIE, or nothing at all where the port offers NULL. */
export async function authenticate(ask: Ask): Promise<ProtocolInfo> {
  const info = parseProtocolInfo(await ask("PROTOCOLINFO 1"));
  if (info.methods.includes("SAFECOOKIE") && info.cookieFile !== undefined) {
    await safeCookie(ask, await readCookie(info.cookieFile));
  } else if (info.methods.includes("NULL")) {
    await ask("AUTHENTICATE");
  } else {
    throw new BentoError(
      "tor-control-auth",
      `Cannot authenticate to Tor's control port: it offers ${info.methods.join(", ") || "nothing"}, wanted SAFECOOKIE`,
      { advice: "Put `CookieAuthentication 1` into the torrc." },
    );
  }
  return info;
}

async function readCookie(path: string): Promise<Uint8Array> {
  let cookie: Uint8Array;
  try {
    cookie = await readFile(path);
  } catch (cause) {
    throw new BentoError(
      "tor-control-auth",
      `Cannot authenticate to Tor's control port: cookie file unreadable (${messageOf(cause)})`,
      {
        cause,
        advice: "Run as a member of Tor's group and set `CookieAuthFileGroupReadable 1` in the torrc.",
      },
    );
  }
  // control-spec 3.24: a controller must refuse a cookie file whose length is not exactly 32 bytes.
  if (cookie.length !== COOKIE_BYTES)
    throw new ProtocolError(
      "tor-control-auth",
      `Cannot authenticate to Tor's control port: cookie has ${String(cookie.length)} bytes, wanted ${String(COOKIE_BYTES)}`,
    );
  return cookie;
}

// Sample: AUTHCHALLENGE SERVERHASH=B3E1...(64 hex) SERVERNONCE=AA01...(64 hex)
async function safeCookie(ask: Ask, cookie: Uint8Array): Promise<void> {
  const clientNonce = randomBytes(32);
  const reply = await ask(`AUTHCHALLENGE SAFECOOKIE ${clientNonce.toString("hex")}`);
  const { keywords } = parseArguments(reply.lines[0]?.text ?? "");
  const serverHash = hex32(keywords.get("SERVERHASH"));
  const serverNonce = hex32(keywords.get("SERVERNONCE"));
  const digest = (key: string) =>
    createHmac("sha256", key).update(cookie).update(clientNonce).update(serverNonce).digest();
  // A process that squats on the port cannot know the cookie; without this check we would prove ourselves to it.
  if (!timingSafeEqual(digest(SERVER_KEY), serverHash))
    throw new ProtocolError(
      "tor-control-auth",
      "Cannot authenticate to Tor's control port: it does not know its own cookie",
    );
  await ask(`AUTHENTICATE ${digest(CLIENT_KEY).toString("hex")}`);
}

function hex32(text: string | undefined): Uint8Array {
  if (text === undefined || !/^[0-9A-Fa-f]{64}$/u.test(text))
    throw new ProtocolError(
      "tor-control-protocol",
      `Cannot read AUTHCHALLENGE reply: ${quote(text ?? "")} is not 32 bytes of hex`,
    );
  return Buffer.from(text, "hex");
}
