// The keys of box.toml, their forms and their defaults, as one schema (docs/spec/policy.md 1). The operator
// writes the file and is trusted, but errs: every key has a safe default, and what is unknown is refused.
// config.ts turns the result into a BoxConfig and errors into sentences.

import { isIP } from "node:net";
import { z } from "zod";
import { Limits } from "../wire/limits.ts";
import { BOX_FACTS, BOXES_MAX, IMAGES, SELF, SYSCALL_GROUPS, TOR_ROUTINES } from "../wire/policy.ts";
import { parseBytes, parseDuration } from "../wire/quantity.ts";

/** Where a server listens, or a control port is: an address with port, or a Unix socket. */
export type SocketAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

const ADDRESS = 'an address such as "127.0.0.1:5005", "[::1]:5005" or "unix:/run/bento.sock"';

/** `"[::1]:5005"` -> tcp, `"unix:/run/bento.sock"` -> unix; undefined when it is neither. Host names are not resolved, so not taken. */
export function parseSocketAddress(text: string): SocketAddress | undefined {
  if (text.startsWith("unix:/")) {
    const path = text.slice("unix:".length);
    // sun_path holds 108 bytes, the closing zero included (unix(7)).
    return Buffer.byteLength(path) <= 107 && !path.includes("\0") ? { kind: "unix", path } : undefined;
  }
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? "";
  const port = Number(match?.[3]);
  const family = match?.[1] === undefined ? 4 : 6;
  if (isIP(host) !== family || port < 1 || port > 65535) return undefined;
  return { kind: "tcp", host, port };
}

const text = (bytesMax: number) =>
  z
    .string()
    .max(bytesMax, `expected at most ${bytesMax} characters`)
    .regex(/^\P{Cc}*$/u, "expected text without control characters");

const socketAddress = converted(parseSocketAddress, ADDRESS);
const tcpAddress = converted((value) => {
  const address = parseSocketAddress(value);
  return address?.kind === "tcp" ? address : undefined;
}, 'an IP address and port such as "192.0.2.1:5005"');

const path = z.string().regex(/^\/[^\0]*$/, "expected an absolute path");
const bytes = converted(parseBytes, 'a size such as "64MiB"');
const time = converted(parseDuration, 'a duration such as "10m"');
const percent = converted(
  (value) => (/^\d{1,5}%$/.test(value) ? Number(value.slice(0, -1)) : undefined),
  'percent of one core, such as "50%"',
);
const whole = (min: number, max: number) => {
  const wanted = `expected a whole number from ${min} to ${max}`;
  return z.int(wanted).min(min, wanted).max(max, wanted);
};
const choice = <const T extends readonly string[]>(values: T) =>
  z.enum(values, `expected one of ${values.map((value) => `"${value}"`).join(", ")}`);
const subset = <const T extends readonly string[]>(values: T) => z.array(choice(values)).max(values.length);

/** `10.0.0.0/8`, `fd00::/8`. Whether it is a network at all is for the broker's parser; this is the form. */
const network = converted((value) => {
  const [address = "", prefix = "", more] = value.split("/");
  const bits = { 4: 32, 6: 128 }[isIP(address)];
  if (bits === undefined || more !== undefined || !/^\d{1,3}$/.test(prefix)) return undefined;
  return Number(prefix) <= bits ? value : undefined;
}, 'a network such as "10.0.0.0/8"');

const rejectRule = z
  .string()
  .max(200)
  .regex(/^reject6? \S+$/, 'expected a rule such as "reject *:25" or "reject 192.0.2.0/24:*"');

const uidRange = converted((value) => {
  const [, first, last] = /^(\d{1,9})-(\d{1,9})$/.exec(value) ?? [];
  const range = { first: Number(first), last: Number(last) };
  // Below 1000 lie the system's own users (Debian policy 9.2.2).
  return range.first >= 1000 && range.last >= range.first && range.last - range.first < 100_000
    ? range
    : undefined;
}, 'user ids such as "20000-20999", 1000 or above');

/** Functions that instances wait for. */
const READY_MAX = 16;

export const boxSchema = section("Configuration of a Bento box.", {
  box: section("The box itself.", {
    name: text(100).default("unnamed box").describe("shown to clients"),
    contact: text(500)
      .optional()
      .meta({ description: "how people reach the operator", example: "operator at example dot org" }),
    region: z
      .string()
      .regex(/^[A-Za-z]{2}$/, 'expected a country code of two letters (ISO 3166-1) such as "DE"')
      .transform((value) => value.toUpperCase())
      .optional()
      .meta({ description: "country where the box is; clients can only believe it", example: "DE" }),
    data_dir: path.default("/var/lib/bento").describe("functions and their storage; mode 0700"),
    listen: z
      .array(socketAddress)
      .max(16)
      .prefault(["127.0.0.1:5005"])
      .describe("where the box serves; reach it through an onion service or exit port"),
    admin: socketAddress.optional().meta({
      description: "metrics and health, for the operator alone; off unless set",
      example: "unix:/run/bento/admin.sock",
    }),
  }),
  relay: section("The relay that the box runs beside. Without its control port functions reach nothing.", {
    control: socketAddress.optional().meta({
      description: "control port of the companion relay: its exit policy decides what functions may reach",
      example: "unix:/run/tor/control",
    }),
    fingerprint: z
      .string()
      .regex(/^[0-9A-Fa-f]{40}$/, "expected 40 hexadecimal digits")
      .transform((value) => value.toUpperCase())
      .optional()
      .meta({
        description: "of the companion relay; asked from it when absent",
        example: "0123456789ABCDEF0123456789ABCDEF01234567",
      }),
  }),
  tor: section("Processes of tor that the box starts itself, apart from the relay.", {
    program: z
      .string()
      .min(1, "expected the name or path of a tor program")
      .default("tor")
      .describe("name or path of the program"),
    torrc: path.optional().meta({
      description: "file that they read as well, for private networks",
      example: "/etc/bento/torrc",
    }),
  }),
  onion: section("How clients reach the box: as an onion service, which works beside every relay.", {
    mode: choice(["none", "single-hop", "hidden"])
      .default("single-hop")
      .describe("an onion service for the box; single-hop is faster but does not hide where the box is"),
    control: socketAddress
      .optional()
      .meta({ description: "use this running tor instead of starting one", example: "127.0.0.1:9051" }),
    port: whole(1, 65535).default(80).describe("port of the onion address"),
  }),
  exit_port: section("Another way in, without an onion service: a port on the relay's own address.", {
    listen: tcpAddress.optional().meta({
      description: "address of the relay itself that its exit policy accepts, for clients that exit there",
      example: "192.0.2.1:5006",
    }),
  }),
  legacy2021: section("A listener for clients of the 2021 release.", {
    listen: socketAddress.optional().meta({
      description: "serves the protocol of the 2021 release; off unless set",
      example: "127.0.0.1:8888",
    }),
  }),
  policy: section("What functions may have. Published; a manifest can only ask for less.", {
    images: subset(IMAGES)
      .prefault(["deno", "python"])
      .describe("runtimes offered; chromium, a browser that functions drive, only where it is named here"),
    syscalls: subset(SYSCALL_GROUPS)
      .prefault(["files", "loopback"])
      .describe("groups of system calls that functions may ask for"),
    store: z.boolean("expected true or false").default(true).describe("whether new functions are taken"),
    package: bytes.prefault("4MiB").describe("largest package"),
    box: subset(BOX_FACTS).prefault([]).describe("what functions may learn about the box"),
    net: section("Connections out, within the relay's exit policy.", {
      enabled: z
        .boolean("expected true or false")
        .default(true)
        .describe("none either way while the relay's exit policy is unknown"),
      connections: whole(1, 10_000).default(32).describe("of one instance at once"),
      bytes: bytes.prefault("1GiB").describe("of one instance, both ways together"),
      reject: z.array(rejectRule).max(500).prefault([]).describe("rules before the relay's own"),
      private_networks_allowed: z
        .array(network)
        .max(64)
        .prefault([])
        .describe("for private test networks only: networks that are refused otherwise"),
      resolver: z
        .array(tcpAddress)
        .max(8)
        .prefault([])
        .describe("DNS servers; those of the system when empty"),
    }),
    storage: section(
      "Storage that functions keep between their instances. Its keys are in memory only: a restart erases it.",
      {
        enabled: z.boolean("expected true or false").default(true).describe("whether functions may have any"),
        bytes: bytes.prefault("64MiB").describe("of one function"),
      },
    ),
    bento: section("Functions that deploy functions. Each number is for one function.", {
      boxes: z
        .array(z.string("expected text").max(300))
        .max(BOXES_MAX)
        .prefault([SELF])
        .describe('where: "self" this box, "*" all others over Tor, addresses; empty = nowhere'),
      functions: whole(0, 100_000).default(64).describe("deployed in all"),
      invocations: whole(0, 1_000_000).default(10_000).describe("of what was deployed, in all"),
      sessions: whole(0, 1000).default(32).describe("with them at once"),
      depth: whole(1, 8).default(2).describe("generations of functions that deploy functions"),
      bytes: bytes.prefault("1GiB").describe("of all sessions, both ways together"),
    }),
    tor: section(
      "Tor behind a filter: own circuits, streams, onion services. Each number is for one instance.",
      {
        routines: subset(TOR_ROUTINES).prefault([]).describe("what functions may do; empty = nothing"),
        circuits: whole(0, 1000).default(8).describe("at once"),
        streams: whole(0, 10_000).default(32).describe("at once"),
        onions: whole(0, 100).default(2).describe("onion services at once"),
        extends_per_minute: whole(0, 10_000).default(60).describe("hops built within a minute"),
        bytes: bytes.prefault("1GiB").describe("of all streams, both ways together"),
      },
    ),
    relays: section(
      "Links to relays of the Tor network, and to nothing else, for functions that speak Tor's protocol themselves. Each number is for one instance.",
      {
        enabled: z
          .boolean("expected true or false")
          .default(false)
          .describe("whether functions may have any; a relay sees this machine's address"),
        links: whole(0, 1000).default(16).describe("at once"),
        circuits_per_minute: whole(0, 100_000).default(240).describe("circuits begun within a minute"),
        bytes: bytes.prefault("4GiB").describe("of all links, both ways together"),
      },
    ),
    function: section("For each function or instance by itself.", {
      memory: bytes.prefault("128MiB").describe("of one instance"),
      cpu: percent.prefault("100%").describe("of one core, for one instance"),
      pids: whole(16, 1024).default(64).describe("processes and threads of one instance"),
      tmp: bytes.prefault("32MiB").describe("scratch directory of one instance, in memory"),
      instances: whole(1, 10_000).default(16).describe("of one function at once"),
      lifetime: time.prefault("30d").describe("how long a function is kept"),
      runtime: time.prefault("24h").describe("how long an instance may run"),
      backlog: bytes.prefault("16MiB").describe("output of one instance that waits for a reader"),
    }),
    total: section("For all of them together.", {
      functions: whole(0, 1_000_000).default(10_000).describe("installed functions"),
      packages: bytes.prefault("1GiB").describe("disk for installed functions"),
      instances: whole(0, 10_000).default(64).describe("running at once"),
      memory: bytes.prefault("2GiB").describe("of all instances together"),
      cpu: percent.prefault("150%").describe("of one core, for all instances together"),
      storage: bytes.prefault("4GiB").describe("of all functions together"),
    }),
  }),
  warm: section("Instances that wait for a function, so that it starts in milliseconds.", {
    deno: whole(0, 1000).default(2).describe("instances started ahead, about 9 MiB each"),
    python: whole(0, 1000).default(1).describe("instances started ahead, about 4 MiB each"),
    ready: z
      .array(z.string("expected text").max(128))
      .max(READY_MAX)
      .prefault(["browser"])
      .describe("bundled functions that instances wait for with their code loaded; empty = none"),
    ready_each: whole(0, 100).default(1).describe("of each of these, about 30 MiB each"),
  }),
  sandbox: section("What instances run in.", {
    uids: uidRange
      .prefault("20000-20999")
      .describe("user ids for instances, one each; used when the box may set them"),
    profile: choice(["strict", "standard"])
      .default("standard")
      .describe("widest system-call filter; strict offers no group of system calls"),
  }),
});

/** box.toml after defaults, names as in the file. */
export type BoxToml = z.output<typeof boxSchema>;

/** Largest package that the protocol carries; the policy may only lower it. */
export const PACKAGE_BYTES_MAX = Limits.packageBytesMax;

function section<const T extends z.core.$ZodLooseShape>(description: string, shape: T) {
  return z
    .strictObject(shape)
    .prefault({} as never)
    .describe(description);
}

/** Text that `parse` turns into a value; `wanted` says in a phrase what it should have been. */
function converted<T>(parse: (value: string) => T | undefined, wanted: string) {
  return z.string(`expected ${wanted}`).transform((value, context): T => {
    const result = parse(value);
    if (result !== undefined) return result;
    context.addIssue({ code: "custom", message: `expected ${wanted}` });
    return z.NEVER;
  });
}
