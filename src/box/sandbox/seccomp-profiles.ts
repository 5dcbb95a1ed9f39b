// Which system calls an instance may make: data only. Everything not listed gets EPERM; clone3 gets ENOSYS so
// that libc falls back to clone, whose flags a filter can see; a foreign architecture (i386, x32) is killed.
// This is the second wall: the first is that the mini-root, the namespaces and the cgroup offer nothing to reach.
// Never to be listed: io_uring_*, ptrace, process_vm_*, bpf, perf_event_open, userfaultfd, keyctl, add_key,
// request_key, the mount family, unshare, setns, open_by_handle_at, pidfd_getfd, kcmp, modify_ldt, personality,
// memfd_secret, seccomp. Spec: docs/spec/sandbox.md 3.

/**
 * How much an instance may do inside its box, each more than the one before: compute and read; change files in /tmp
 * and use sockets of its own loopback; start processes; be Chromium. None reaches the network: the namespace has none.
 */
export const SANDBOX_PROFILES = ["strict", "unforked", "standard", "chromium"] as const;
export type SandboxProfile = (typeof SANDBOX_PROFILES)[number];

/** A named set of rules. Policies and manifests speak of groups, never of system calls. */
export type SyscallGroup = "base" | "threads" | "fork" | "files" | "loopback" | "chromium";

/**
 * One condition on one argument (0-5): `(argument & mask) === value`, as unsigned 64-bit numbers.
 * Only integers: a filter cannot look behind pointers.
 */
export interface ArgumentTest {
  readonly argument: number;
  readonly mask: bigint;
  readonly value: bigint;
}

/** Allows `name` when every test holds. Several rules for one name are alternatives. */
export interface SyscallRule {
  readonly name: string;
  readonly tests: readonly ArgumentTest[];
}

const ALL_BITS = 0xffff_ffff_ffff_ffffn;

const plain = (...names: string[]): SyscallRule[] => names.map((name) => ({ name, tests: [] }));

/** `name` with the argument equal to one of `values`. */
const oneOf = (name: string, argument: number, values: readonly bigint[]): SyscallRule[] =>
  values.map((value) => ({ name, tests: [{ argument, mask: ALL_BITS, value }] }));

// include/uapi/linux/sched.h
const CLONE_THREAD = 0x0001_0000n;
const CLONE_NEW_ANY =
  0x0002_0000n | 0x0200_0000n | 0x0400_0000n | 0x0800_0000n | 0x1000_0000n | 0x2000_0000n | 0x4000_0000n;

const FCNTL = {
  DUPFD: 0n,
  GETFD: 1n,
  SETFD: 2n,
  GETFL: 3n,
  SETFL: 4n,
  GETLK: 5n,
  SETLK: 6n,
  SETLKW: 7n,
  OFD_GETLK: 36n,
  OFD_SETLK: 37n,
  OFD_SETLKW: 38n,
  DUPFD_CLOEXEC: 1030n,
} as const;

/** Terminal size and settings (isatty), bytes waiting, blocking and close-on-exec. Never TIOCSTI or TIOCLINUX. */
const IOCTL = { TCGETS: 0x5401n, TIOCGWINSZ: 0x5413n, FIONREAD: 0x541bn, FIONBIO: 0x5421n } as const;
const IOCTL_CLOEXEC = { FIONCLEX: 0x5450n, FIOCLEX: 0x5451n } as const;

/** Thread names, and names of memory areas, which V8 and glibc set. */
const PRCTL = { SET_NAME: 15n, GET_NAME: 16n, SET_VMA: 0x5356_4d41n } as const;

const ARCH_SET_FS = 0x1002n;

const AF_UNIX = 1n;
const AF_INET = 2n;
const SOCK_STREAM = 1n;
const SOCK_SEQPACKET = 5n;
const SOCK_TYPE_MASK = ALL_BITS ^ 0o2004000n; // all but SOCK_NONBLOCK and SOCK_CLOEXEC

const socketOf = (name: string, family: bigint, type: bigint, protocol: bigint): SyscallRule => ({
  name,
  tests: [
    { argument: 0, mask: ALL_BITS, value: family },
    { argument: 1, mask: SOCK_TYPE_MASK, value: type },
    { argument: 2, mask: ALL_BITS, value: protocol },
  ],
});

/** A stream socket of one family with the family's only protocol: no raw, no MPTCP, no SCTP. */
const streamSocket = (name: string, family: bigint, protocol: bigint): SyscallRule =>
  socketOf(name, family, SOCK_STREAM, protocol);

const BASE: readonly SyscallRule[] = [
  // Start and end. execve is how bwrap starts the runtime; the mini-root holds nothing else to execute.
  ...plain("execve", "exit", "exit_group", "restart_syscall", "rt_sigreturn"),
  ...oneOf("arch_prctl", 0, [ARCH_SET_FS]),
  ...plain("set_tid_address", "set_robust_list", "rseq"),
  // Memory.
  ...plain("brk", "mmap", "munmap", "mremap", "mprotect", "madvise"),
  ...plain("pkey_alloc", "pkey_free", "pkey_mprotect", "membarrier"),
  // Signals within the process.
  ...plain("rt_sigaction", "rt_sigprocmask", "sigaltstack"),
  // Waiting and time.
  ...plain("futex", "nanosleep", "clock_nanosleep", "sched_yield"),
  ...plain("clock_gettime", "clock_getres", "gettimeofday", "time"),
  ...plain("epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2"),
  ...plain("poll", "ppoll", "select", "pselect6", "eventfd2"),
  ...plain("timerfd_create", "timerfd_settime", "timerfd_gettime"),
  // Who am I: all answers come from inside the namespaces.
  ...plain("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid"),
  ...plain("getrandom", "uname", "getcwd", "getrusage", "sched_getaffinity", "getcpu"),
  // Reading limits, never setting them: the new limit must be a null pointer.
  { name: "prlimit64", tests: [{ argument: 2, mask: ALL_BITS, value: 0n }] },
  ...plain("getrlimit"),
  // Descriptors, and files of the mini-root and /tmp.
  ...plain("read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "close", "close_range"),
  ...plain("open", "openat", "access", "faccessat", "faccessat2", "readlink", "readlinkat"),
  ...plain("stat", "fstat", "lstat", "newfstatat", "statx", "getdents64"),
  ...plain("dup", "dup2", "dup3", "pipe", "pipe2"),
  ...oneOf("fcntl", 1, Object.values(FCNTL)),
  ...oneOf("ioctl", 1, [...Object.values(IOCTL), ...Object.values(IOCTL_CLOEXEC)]),
  ...oneOf("prctl", 0, Object.values(PRCTL)),
  // The pair by which event loops (tokio's, asyncio's) wake themselves. It has no address and reaches nobody;
  // without sendmsg it carries no descriptors.
  streamSocket("socketpair", AF_UNIX, 0n),
  { name: "sendto", tests: [{ argument: 4, mask: ALL_BITS, value: 0n }] },
  ...plain("recvfrom", "shutdown"),
];

const THREADS: readonly SyscallRule[] = [
  // A thread of this process, in the namespaces it has.
  {
    name: "clone",
    tests: [{ argument: 0, mask: CLONE_THREAD | CLONE_NEW_ANY, value: CLONE_THREAD }],
  },
  ...plain("sched_getscheduler", "sched_getparam"),
];

const FORK: readonly SyscallRule[] = [
  { name: "clone", tests: [{ argument: 0, mask: CLONE_NEW_ANY, value: 0n }] },
  ...plain("fork", "vfork", "wait4", "waitid", "kill", "tgkill", "setpgid", "getpgid", "getpgrp", "setsid"),
];

const FILES: readonly SyscallRule[] = [
  ...plain("mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2"),
  ...plain("link", "linkat", "symlink", "symlinkat", "chmod", "fchmod", "fchmodat", "umask", "utimensat"),
  ...plain("ftruncate", "truncate", "fallocate", "fsync", "fdatasync", "flock"),
  ...plain("copy_file_range", "sendfile", "chdir", "fchdir", "preadv", "pwritev"),
];

const LOOPBACK: readonly SyscallRule[] = [
  streamSocket("socket", AF_INET, 0n),
  streamSocket("socket", AF_INET, 6n),
  streamSocket("socket", AF_UNIX, 0n),
  ...plain("bind", "listen", "accept", "accept4", "connect"),
  ...plain("getsockname", "getpeername", "getsockopt", "setsockopt"),
  ...plain("sendto", "sendmsg", "recvmsg"),
];

const CHROMIUM: readonly SyscallRule[] = [
  // How its processes reach each other, descriptors included. Like every pair it has no address and reaches nobody else.
  socketOf("socketpair", AF_UNIX, SOCK_SEQPACKET, 0n),
  // How the C library learns how much memory there is. Where it fails, Chromium takes the stack's garbage for the
  // answer and ends, now and then, before its first page. It tells the machine's memory, load and time since boot.
  ...plain("sysinfo"),
];

const GROUPS: Readonly<Record<SyscallGroup, readonly SyscallRule[]>> = {
  base: BASE,
  threads: THREADS,
  fork: FORK,
  files: FILES,
  loopback: LOOPBACK,
  chromium: CHROMIUM,
};

const PROFILES: Readonly<Record<SandboxProfile, readonly SyscallGroup[]>> = {
  strict: ["base", "threads"],
  unforked: ["base", "threads", "files", "loopback"],
  standard: ["base", "threads", "fork", "files", "loopback"],
  chromium: ["base", "threads", "fork", "files", "loopback", "chromium"],
};

/** The rules of a profile, in the order in which they are added to the filter. */
export function rulesOf(profile: SandboxProfile): readonly SyscallRule[] {
  return PROFILES[profile].flatMap((group) => GROUPS[group]);
}
