// What Tor says to us: its control port, its SOCKS port; and what we read of the machine.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { BentoError } from "../../src/base/errors.ts";
import { parseBoxConfig } from "../../src/box/config.ts";
import { findCgroups, parseCgroupMounts, parseOwnCgroups } from "../../src/box/sandbox/cgroup-find.ts";
import { readElfNeeds } from "../../src/box/sandbox/elf.ts";
import { parseProtocolInfo } from "../../src/tor/control-auth.ts";
import { parseEvent } from "../../src/tor/control-event.ts";
import { parseArguments, ReplyParser, unquote } from "../../src/tor/control-reply.ts";
import { SocksReply } from "../../src/tor/socks.ts";
import { fuzz, textOf } from "./fuzz.ts";

const temp = mkdtempSync(join(tmpdir(), "bento-fuzz-"));
after(() => {
  rmSync(temp, { recursive: true, force: true });
});
const elf = join(temp, "program");

const replies = [
  "250 OK\r\n",
  "250-version=0.4.9.11\r\n250 OK\r\n",
  "250+ns/name/a0=\r\nr a0 cMPe 2026-11-20\r\n..dot\r\n.\r\n250 OK\r\n",
  '250-PROTOCOLINFO 1\r\n250-AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE="/run/tor/control\\n.authcookie"\r\n250-VERSION Tor="0.4.9.11"\r\n250 OK\r\n',
  "650 CIRC 12 BUILT $ABABABABABABABABABABABABABABABABABABABAB~a0 PURPOSE=GENERAL\r\n",
  '650 STREAM 7 NEW 0 example.com:80 SOURCE_ADDR=127.0.0.1:4312 SOCKS_USERNAME="x"\r\n',
  "650 HS_DESC UPLOADED abc UNKNOWN $AB~r0\r\n",
  '650 STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"\r\n',
  "650 BW 1024 2048\r\n",
];

fuzz([
  {
    name: "control port",
    seeds: [...replies, replies.join("")],
    words: ["250-", "250+", "650 ", "\r\n.\r\n", '="', "PROGRESS=", "$"],
    parse: (_, chunks) => {
      const parser = new ReplyParser();
      for (const chunk of chunks) {
        for (const reply of parser.push(chunk)) {
          ignoringOurs(() => parseEvent(reply));
          ignoringOurs(() => parseProtocolInfo(reply));
        }
      }
    },
  },
  {
    name: "control port arguments",
    seeds: ['a b KEY=value KEY="quoted \\"text\\" \\001"', '"a\\tb"'],
    parse: (bytes) => {
      ignoringOurs(() => parseArguments(textOf(bytes)));
      unquote(textOf(bytes));
    },
  },
  {
    name: "SOCKS replies",
    seeds: [
      Uint8Array.of(5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0, 65, 66),
      Uint8Array.of(5, 2, 1, 0, 5, 0, 0, 3, 3, 97, 98, 99, 0, 80),
      Uint8Array.of(1, 0, 5, 0xf0, 0, 1, 0, 0, 0, 0, 0, 0),
      Uint8Array.of(5, 0, 5, 0, 0, 4, ...new Uint8Array(18)),
    ],
    parse: (bytes, chunks) => {
      const isolation = (bytes.length & 1) === 1 ? { username: "a", password: "b" } : undefined;
      const reply = new SocksReply({ host: "example.com", port: 80, isolation });
      for (const chunk of chunks) if (!reply.isDone) reply.push(chunk);
    },
  },
  {
    name: "box.toml",
    seeds: [readFileSync(new URL("../../docs/box.example.toml", import.meta.url)), "[box]\nname = 'x'\n", ""],
    words: ["[policy]", "[policy.net]", "= [", '"64MiB"', "[[box]]", "1979-05-27", "nan", '"""', "a.b.c = {"],
    parse: (bytes) => parseBoxConfig(textOf(bytes)),
  },
  {
    name: "control group files",
    seeds: [
      "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
      "30 25 0:26 / /sys/fs/cgroup/cpu\\040acct rw - cgroup cgroup rw,cpu,cpuacct\n",
      "0::/user.slice/x\n4:memory:/a\n3:cpu,cpuacct:/\n",
    ],
    words: [" - ", "cgroup2", "cgroup", "::/", "\\040"],
    parse: (bytes) => [parseCgroupMounts(textOf(bytes)), parseOwnCgroups(textOf(bytes))],
  },
  {
    name: "control group search",
    seeds: [
      "25 1 0:22 / /nonexistent rw - cgroup2 cgroup2 rw\n",
      "30 25 0:26 / /nonexistent rw - cgroup cgroup rw,cpu\n",
    ],
    parse: (bytes) => findCgroups(textOf(bytes), "0::/x\n4:memory:/a\n"),
  },
  {
    name: "ELF files",
    seeds: [readFileSync("/bin/ls").subarray(0, 8192), readFileSync("/bin/true").subarray(0, 16_384)],
    parse: async (bytes) => {
      writeFileSync(elf, bytes);
      await readElfNeeds(elf);
    },
    slow: true,
  },
]);

/** Runs a parser whose refusal must not keep the ones after it from being tried. */
function ignoringOurs(parse: () => unknown): void {
  try {
    parse();
  } catch (error) {
    if (!(error instanceof BentoError)) throw error;
  }
}
