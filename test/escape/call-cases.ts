// Forbidden things that need one request each and leave the probe alive, as a table: what is attempted, what the
// box must answer, and where the same request succeeds. System calls by name; `at` picks which call of a sequence
// must be the one refused.

import type { SandboxProfile } from "../../src/box/sandbox/seccomp-profiles.ts";
import type { Answer, Argument, Place } from "./harness.ts";

/** Named system calls, resolved to numbers by the suite. */
export type Calls = readonly (readonly [string, ...Argument[]])[];

export interface CallCase {
  readonly number: number;
  readonly title: string;
  readonly what: Calls | Readonly<Record<"deno" | "python", string>>;
  /** Accepted errno names; or a predicate on the whole answer. */
  readonly boxed: readonly string[] | ((answer: Answer) => boolean);
  /** Default: both. */
  readonly profiles?: readonly SandboxProfile[];
  readonly images?: readonly ("deno" | "python")[];
  /** Where the same request must get through, and errnos that prove it reached the kernel's own checks. */
  readonly control:
    | { readonly place: Place; readonly also?: readonly string[]; readonly instead?: Calls }
    | { readonly skip: string };
}

const s = (text: string): Argument => ({ s: text });
const r = (index: number): Argument => ({ r: index });
const zeros = (bytes: number): Argument => ({ b: "00".repeat(bytes) });

const AT_FDCWD = -100;
const O_WRONLY = 1;
const O_CREAT = 0o100;
const CLONE_NEWUSER = 0x1000_0000;
const CLONE_NEWNS = 0x2_0000;
const SIGCHLD = 17;

const host = { place: "host" } as const;
const root = { place: "root" } as const;
const bare = { place: "bare" } as const;
const capable = { place: "capable" } as const;
const denied = ["EPERM"] as const;

/** EXPECTED: a refusal for every row, in both images. `paths` come from the suite's own fixtures. */
export interface Fixtures {
  readonly abstractName: string;
  readonly socketPath: string;
  readonly tcpPort: number;
  readonly secretPath: string;
  readonly writablePath: string;
  readonly scratch: string;
  readonly hostPid: number;
}

/** struct sockaddr_un / sockaddr_in, little endian as on every machine Bento runs on. */
const unixAddress = (path: string): string => `0100${Buffer.from(path).toString("hex")}`;
const inetAddress = (ip: readonly number[], port: number): string =>
  `0200${port.toString(16).padStart(4, "0")}${Buffer.from(ip).toString("hex")}${"00".repeat(8)}`;

const connect = (family: number, type: number, address: string): Calls => [
  ["socket", family, type, 0],
  ["connect", r(0), { b: address }, address.length / 2],
];

const openFor = (path: string, flags = 0): Calls => [["openat", AT_FDCWD, s(path), flags, 0o600]];

function namespaceCases(): CallCase[] {
  const row = (
    title: string,
    call: Calls[number],
    control: CallCase["control"],
    boxed = ["EPERM"],
  ): CallCase => ({
    number: 1,
    title,
    what: [call],
    boxed,
    control,
  });
  // A second thread is in the way of these outside too: the kernel then answers EINVAL instead of EPERM.
  const threaded = ["EINVAL"];
  return [
    // First: after the next row the control sits in a namespace that may not make another.
    row("clone into a user namespace", ["clone", CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0], bare),
    row("unshare user namespace", ["unshare", CLONE_NEWUSER], { ...bare, also: threaded }),
    row("clone3 at all", ["clone3", zeros(88), 88], { ...host, also: threaded }, ["ENOSYS"]),
    { ...row("unshare mount namespace", ["unshare", CLONE_NEWNS], capable), number: 2 },
    {
      ...row("mount a tmpfs", ["mount", s("none"), s("/tmp"), s("tmpfs"), 0, 0], capable),
      number: 2,
    },
    { ...row("fsopen", ["fsopen", s("tmpfs"), 0], capable), number: 2 },
    { ...row("chroot", ["chroot", s("/")], capable), number: 2 },
    { ...row("umount", ["umount2", s("/tmp"), 2], capable), number: 2 },
    {
      ...row("pivot_root", ["pivot_root", s("/tmp"), s("/tmp")], { ...capable, also: ["EBUSY", "EINVAL"] }),
      number: 2,
    },
    { ...row("setns", ["setns", 0, CLONE_NEWNS], { ...capable, also: ["EINVAL"] }), number: 2 },
    {
      ...row("move_mount", ["move_mount", AT_FDCWD, s("/tmp"), AT_FDCWD, s("/tmp"), 0], {
        ...capable,
        also: ["EINVAL", "ELOOP", "ENOENT"],
      }),
      number: 2,
    },
  ];
}

function kernelCases(): CallCase[] {
  const rows: [number, string, Calls, CallCase["control"]][] = [
    [3, "ptrace", [["ptrace", 0, 0, 0, 0]], host],
    [3, "process_vm_readv", [["process_vm_readv", 1, 0, 0, 0, 0, 0]], { ...host, also: ["ESRCH"] }],
    [3, "kcmp", [["getpid"], ["kcmp", r(0), r(0), 0, 0, 0]], host],
    [3, "pidfd_getfd", [["getpid"], ["pidfd_open", r(0), 0], ["pidfd_getfd", r(1), 0, 0]], host],
    [4, "bpf", [["bpf", 0, { b: `02000000040000000400000001000000${"00".repeat(56)}` }, 72]], root],
    [
      4,
      "perf_event_open",
      [["perf_event_open", { b: `0100000070000000${"00".repeat(112)}` }, 0, -1, -1, 0]],
      { ...root, also: ["ENOENT"] },
    ],
    [4, "userfaultfd", [["userfaultfd", 1]], host],
    [4, "io_uring_setup", [["io_uring_setup", 1, zeros(120)]], host],
    [5, "add_key", [["add_key", s("user"), s("bento"), s("x"), 1, -2]], host],
    [5, "keyctl", [["keyctl", 0, -2, 1]], host],
    [
      5,
      "request_key",
      [["request_key", s("user"), s("bento-none"), 0, 0]],
      { ...host, also: ["ENOKEY", "126"] },
    ],
    [12, "memfd_create", [["memfd_create", s("x"), 0]], host],
    [
      12,
      "execveat of an anonymous file",
      [
        ["memfd_create", s("x"), 0],
        ["execveat", r(0), s(""), 0, 0, 0x1000],
      ],
      { ...host, also: ["EACCES", "ENOEXEC"] },
    ],
    [19, "TIOCSTI", [["ioctl", 0, 0x5412, s("x")]], { ...host, also: ["ENOTTY"] }],
    [19, "TIOCLINUX", [["ioctl", 0, 0x541c, s("\u0002")]], { ...host, also: ["ENOTTY"] }],
    [20, "setuid(0)", [["setuid", 0]], capable],
    [20, "sethostname", [["sethostname", s("x"), 1]], capable],
    [20, "settimeofday", [["settimeofday", 0, 0]], root],
    [20, "reboot", [["reboot", 0, 0, 0, 0]], { ...capable, also: ["EINVAL"] }],
    [20, "swapon", [["swapon", s("/nonexistent"), 0]], { ...root, also: ["ENOENT", "EISDIR"] }],
    [20, "iopl", [["iopl", 0]], { ...host, also: ["ENOSYS"] }],
    [20, "modify_ldt", [["modify_ldt", 0, zeros(16), 16]], { ...host, also: ["ENOSYS"] }],
    [20, "personality", [["personality", 0xffff_ffff]], host],
    [
      20,
      "seccomp",
      [["seccomp", 2, 0, s("\u0000\u0000\u0000\u0000")]],
      { ...host, also: ["EFAULT", "EINVAL", "EOPNOTSUPP"] },
    ],
    [
      20,
      "open_by_handle_at",
      [["open_by_handle_at", 0, zeros(16), 0]],
      { ...root, also: ["ESTALE", "EINVAL", "EBADF", "ENOTDIR"] },
    ],
    [21, "raise RLIMIT_NOFILE", [["prlimit64", 0, 7, { b: "00040000000000000004000000000000" }, 0]], host],
    [21, "change scheduler", [["sched_setscheduler", 0, 3, zeros(4)]], host],
    [21, "change priority", [["setpriority", 0, 0, 5]], host],
    [21, "pin to a CPU", [["sched_setaffinity", 0, 8, { b: "ff00000000000000" }]], host],
  ];
  return [
    ...rows.map(([number, title, what, control]) => ({ number, title, what, boxed: denied, control })),
    {
      number: 48,
      title: "sysinfo (memory, load, uptime of the host)",
      what: [["sysinfo", zeros(128)]],
      boxed: denied,
      // Chromium does not live without (docs/adr/0008-chromium.md).
      profiles: ["strict", "unforked", "standard"],
      control: host,
    },
  ];
}

function socketCases(): CallCase[] {
  const rows: [string, readonly [number, number, number], CallCase["control"]][] = [
    ["AF_NETLINK", [16, 3, 0], host],
    ["AF_VSOCK", [40, 1, 0], { ...host, also: ["EAFNOSUPPORT"] }],
    ["AF_PACKET", [17, 3, 0], { ...root, also: ["EAFNOSUPPORT"] }],
    ["AF_ALG", [38, 5, 0], { ...host, also: ["EAFNOSUPPORT"] }],
    ["AF_INET6", [10, 1, 0], { ...host, also: ["EAFNOSUPPORT"] }],
    ["raw IPv4", [2, 3, 1], root],
    ["UDP", [2, 2, 0], host],
    ["MPTCP", [2, 1, 262], { ...host, also: ["EPROTONOSUPPORT", "ENOPROTOOPT"] }],
  ];
  return rows.map(([title, args, control]) => ({
    number: 6,
    title: `socket ${title}`,
    what: [["socket", ...args]],
    boxed: denied,
    control,
  }));
}

function networkCases(fixtures: Fixtures): CallCase[] {
  const profiles = ["standard", "chromium"] as const;
  const abstract = connect(1, 1, unixAddress(`\0${fixtures.abstractName}`));
  const local = connect(2, 1, inetAddress([127, 0, 0, 1], fixtures.tcpPort));
  const away = inetAddress([192, 0, 2, 1], 80);
  return [
    {
      number: 8,
      title: "abstract socket of the host",
      what: abstract,
      boxed: ["ECONNREFUSED"],
      profiles,
      control: host,
    },
    {
      number: 9,
      title: "unix socket of the host by path",
      what: connect(1, 1, unixAddress(`${fixtures.socketPath}\0`)),
      boxed: ["ENOENT"],
      profiles,
      control: host,
    },
    {
      number: 10,
      title: "an address outside",
      what: connect(2, 1, away),
      boxed: ["ENETUNREACH"],
      profiles,
      // Connecting a datagram socket asks for a route and sends nothing.
      control: { place: "host", instead: connect(2, 2, away), also: ["ENETUNREACH"] },
    },
    {
      number: 11,
      title: "a service on the host's 127.0.0.1",
      what: local,
      boxed: ["ECONNREFUSED"],
      profiles,
      control: host,
    },
    {
      number: 10,
      title: "any socket at all",
      what: local,
      boxed: denied,
      profiles: ["strict"],
      control: host,
    },
  ];
}

function fileCases(fixtures: Fixtures): CallCase[] {
  const gone = ["ENOENT"];
  // Kernels are built without these two here and there; then there is nothing to be compared.
  const absent = ["ENOENT"];
  const reads: [number, string, CallCase["control"]][] = [
    [13, "/proc/self/maps", bare],
    [14, "/proc/1/environ", { place: "bare", also: ["EACCES"] }],
    [14, "/proc/1/cmdline", bare],
    [14, "/proc/1/root", { place: "bare", also: ["EACCES"] }],
    [14, "/proc/self/environ", bare],
    [15, "/proc/kallsyms", bare],
    [15, "/proc/kcore", { place: "root", also: absent }],
    [15, "/proc/sysrq-trigger", { place: "root", also: ["EIO", "EINVAL", ...absent] }],
    [15, "/proc/sys/kernel/core_pattern", bare],
    [15, "/proc/meminfo", bare],
    [15, "/sys/kernel", root],
    [15, "/sys/fs/cgroup", root],
    [16, "/dev/null", bare],
    [16, "/dev", bare],
    [17, "/etc/passwd", root],
    [17, "/etc/shadow", root],
    [17, "/root", root],
    [17, "/etc/os-release", root],
    [17, fixtures.secretPath, root],
    [17, `/tmp/../..${fixtures.secretPath}`, root],
    [17, `/usr/../../../../..${fixtures.secretPath}`, root],
    [12, "/bin/sh", bare],
    [12, "/usr/bin/env", bare],
    [12, "/usr/bin/bwrap", bare],
  ];
  const refusedWrite = ["EROFS", "EACCES"];
  return [
    ...reads.map(([number, path, control]) => ({
      number,
      title: `read ${path === fixtures.secretPath ? "a key file of the box" : path.replace(fixtures.secretPath, "/...key")}`,
      what: openFor(path),
      boxed: gone,
      control,
    })),
    // Outside, the file is there; that it cannot be written is the kernel's ETXTBSY.
    {
      number: 13,
      title: "write /proc/self/exe",
      what: openFor("/proc/self/exe", O_WRONLY),
      boxed: ["ENOENT", "EROFS", "EACCES"],
      control: { place: "root", also: ["ETXTBSY"] },
    },
    {
      number: 18,
      title: "write to /",
      what: openFor("/x", O_WRONLY | O_CREAT),
      boxed: refusedWrite,
      control: capable,
    },
    {
      number: 18,
      title: "write a file that everybody may write, from the read-only root",
      what: openFor(fixtures.writablePath.replace(/.*\//, "/bento/"), O_WRONLY),
      boxed: ["EROFS"],
      control: { place: "host", instead: openFor(fixtures.writablePath, O_WRONLY) },
    },
    {
      number: 16,
      title: "mknod",
      what: [["mknodat", AT_FDCWD, s("/tmp/node"), 0o20600, 0x103]],
      boxed: denied,
      control: {
        place: "root",
        instead: [["mknodat", AT_FDCWD, s(`${fixtures.scratch}/node`), 0o20600, 0x103]],
        also: ["EEXIST"],
      },
    },
    {
      number: 17,
      title: "a symlink to a host file",
      what: [
        ["symlinkat", s(fixtures.secretPath), AT_FDCWD, s("/tmp/link")],
        ["openat", AT_FDCWD, s("/tmp/link"), 0, 0],
      ],
      boxed: gone,
      profiles: ["standard", "chromium"],
      control: {
        place: "root",
        instead: [["openat", AT_FDCWD, s(fixtures.secretPath), 0, 0]],
      },
    },
    {
      number: 28,
      title: "sparse file of 1 TB",
      what: [
        ["openat", AT_FDCWD, s("/tmp/sparse"), O_WRONLY | O_CREAT, 0o600],
        ["ftruncate", r(0), 2 ** 40],
      ],
      boxed: ["EPERM"],
      profiles: ["strict"],
      control: {
        place: "root",
        instead: [
          ["openat", AT_FDCWD, s(`${fixtures.scratch}/sparse`), O_WRONLY | O_CREAT, 0o600],
          ["ftruncate", r(0), 2 ** 40],
        ],
      },
    },
  ];
}

function processCases(fixtures: Fixtures): CallCase[] {
  return [
    {
      number: 22,
      title: "kill",
      what: [["kill", fixtures.hostPid, 0]],
      boxed: denied,
      profiles: ["strict"],
      control: root,
    },
    {
      number: 22,
      title: "kill a process of the host",
      what: [["kill", fixtures.hostPid, 0]],
      boxed: ["ESRCH"],
      profiles: ["standard", "chromium"],
      control: root,
    },
    {
      number: 31,
      title: "pass a descriptor over stdout",
      what: [["sendmsg", 1, zeros(56), 0]],
      boxed: ["EPERM", "ENOTSOCK"],
      // Node's own kind of pipe is a socket pair: there the same call goes through.
      control: { place: "host", also: ["ENOTCONN"] },
    },
    {
      number: 31,
      title: "ask stdin who its peer is",
      what: [["getpeername", 0, zeros(128), { b: "80000000" }]],
      boxed: ["EPERM", "ENOTSOCK"],
      control: host,
    },
    {
      number: 14,
      title: "the server's environment",
      what: {
        python: "import os; value = dict(os.environ)",
        deno: "return Deno.env.toObject();",
      },
      boxed: (answer) =>
        answer.kind === "value" && !JSON.stringify(answer.value).includes("BENTO_ESCAPE_SECRET"),
      control: { place: "host" },
    },
    {
      number: 48,
      title: "hostname and user of the relay",
      what: {
        python: "import os; value = [os.uname().nodename, os.getuid(), os.getgid()]",
        deno: "return [Deno.hostname(), Deno.uid(), Deno.gid()];",
      },
      boxed: (answer) => JSON.stringify(answer.kind === "value" && answer.value) === '["bento",1000,1000]',
      control: host,
    },
  ];
}

export function callCases(fixtures: Fixtures): CallCase[] {
  return [
    ...namespaceCases(),
    ...kernelCases(),
    ...socketCases(),
    ...networkCases(fixtures),
    ...fileCases(fixtures),
    ...processCases(fixtures),
  ];
}
