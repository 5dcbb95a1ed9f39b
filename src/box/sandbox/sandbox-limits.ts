// Every bound of the sandbox room in one place: unit and reason. What a function may ask for is decided by
// policy; these are the numbers below or above which the mechanism itself stops making sense.
// Spec: docs/spec/sandbox.md 4.

const KIB = 1024;
const MIB = 1024 * KIB;

export const SANDBOX_LIMITS = {
  /** Bytes. Below this CPython cannot finish its start-up imports; Deno needs more (see image.ts). */
  memoryBytesMin: 16 * MIB,
  /** Processes and threads. Deno starts 8 threads by itself and bwrap adds one process. */
  pidsMin: 16,
  /** Processes and threads. Also RLIMIT_NPROC of every instance, the second line behind the cgroup. */
  pidsMax: 1024,
  /** Percent of one CPU. The kernel refuses a quota below 1 ms per 100 ms period. */
  cpuPercentMin: 1,
  /** Bytes of /tmp. Deno unpacks nothing, but one page per file is the least a tmpfs can give. */
  tmpBytesMin: 64 * KIB,
  /** File descriptors. Deno holds 13 at rest. */
  openFilesMin: 32,
  /** File descriptors. Above this one instance could exhaust the kernel's file table with others. */
  openFilesMax: 4096,
  /** Bytes of stderr kept per instance: enough for two tracebacks, dropped from the front. */
  stderrBytesMax: 64 * KIB,
  /** Milliseconds from spawn until bwrap reports its child. It takes 5 ms; a loaded machine gets time. */
  setupMs: 10_000,
  /** Milliseconds from release until a pool member wrote its first byte. */
  readyMs: 15_000,
  /** Milliseconds until a killed group must be empty. SIGKILL waits only for uninterruptible I/O. */
  killMs: 10_000,
  /** Instances that are being set up at one time: more would only fight for the same CPUs. */
  startsAtOnce: 4,
  /** Milliseconds from the claim of a pool member to the start of its successor: the member's first output goes first. */
  refillDelayMs: 20,
  /** Milliseconds between attempts to refill a pool whose members die: first, and longest. */
  refillBackoffMs: { first: 250, longest: 30_000 },
  /** Bytes of stack per thread (RLIMIT_STACK): the kernel's usual default, fixed for every instance. */
  stackBytes: 8 * MIB,
} as const;
