import assert from "node:assert/strict";
import { test } from "node:test";
import { array, bigInt, constantFrom, assert as holds, integer, oneof, property, record } from "fast-check";
import { findDeno } from "./image.ts";
import { buildFilters, type SeccompFilter } from "./seccomp.ts";
import { AUDIT_ARCH, expectedDecision, runFilter, type SystemCall } from "./seccomp-oracle.ts";
import { rulesOf, SANDBOX_PROFILES, type SandboxProfile } from "./seccomp-profiles.ts";

const NATIVE = process.arch === "arm64" ? AUDIT_ARCH.arm64 : AUDIT_ARCH.x64;
const NEVER = [
  "io_uring_setup",
  "ptrace",
  "process_vm_readv",
  "process_vm_writev",
  "bpf",
  "perf_event_open",
  "userfaultfd",
  "keyctl",
  "add_key",
  "request_key",
  "mount",
  "umount2",
  "unshare",
  "setns",
  "pivot_root",
  "chroot",
  "fsopen",
  "open_by_handle_at",
  "pidfd_getfd",
  "pidfd_open",
  "kcmp",
  "personality",
  "memfd_create",
  "seccomp",
  "init_module",
  "finit_module",
  "kexec_load",
  "reboot",
  "setuid",
  "setgid",
  "setresuid",
  "setrlimit",
  "execveat",
  "shmget",
  "msgget",
  "inotify_init1",
  "fanotify_init",
  "splice",
  "vmsplice",
  "tee",
  "mknodat",
  "quotactl",
  "syslog",
  "sethostname",
  "clock_settime",
  "settimeofday",
  "sched_setscheduler",
  "sched_setaffinity",
  "setpriority",
  "landlock_create_ruleset",
]; // prettier-ignore
const filters = await buildFilters(findDeno() ?? "", SANDBOX_PROFILES, [...NEVER, "clone3", "unshare"]);

function check(filter: SeccompFilter, call: SystemCall): void {
  const expected = expectedDecision(filter.profile, filter.numbers, call, NATIVE);
  assert.equal(
    runFilter(filter.program, call),
    expected,
    `${filter.profile} ${JSON.stringify(call, (_, v) => (typeof v === "bigint" ? `0x${v.toString(16)}` : v))}`,
  );
}

/** Values at which some rule changes its mind, and their neighbours. */
function interesting(): bigint[] {
  const values = new Set<bigint>([0n, 1n, 0xffff_ffffn, 0xffff_ffff_ffff_ffffn, 1n << 32n, 0x8000_0000n]);
  for (const profile of SANDBOX_PROFILES) {
    for (const { tests } of rulesOf(profile)) {
      for (const { value, mask } of tests) {
        for (const each of [
          value,
          mask & 0xffff_ffffn,
          value ^ 1n,
          value | (1n << 32n),
          value | (1n << 63n),
        ]) {
          values.add(BigInt.asUintN(64, each));
        }
      }
    }
  }
  for (const flag of [0x0001_0000n, 0x0002_0000n, 0x1000_0000n, 0x1001_0000n, 0x003d_0f00n, 0x11n])
    values.add(flag);
  return [...values];
}

test("buildFilters: agrees with the oracle on every number with no, zero and full arguments", () => {
  for (const filter of filters) {
    for (let number = -1; number < 1024; number++) {
      for (const value of [0n, 1n, 0xffff_ffff_ffff_ffffn]) {
        check(filter, { number, architecture: NATIVE, args: Array<bigint>(6).fill(value) });
      }
    }
  }
});

test("buildFilters: agrees with the oracle on every conditional call for every deciding argument", () => {
  const values = interesting();
  for (const filter of filters) {
    for (const rule of rulesOf(filter.profile).filter(({ tests }) => tests.length > 0)) {
      const number = filter.numbers[rule.name] ?? -1;
      if (number < 0) continue;
      const base = Array<bigint>(6).fill(0n);
      for (const { argument, value } of rule.tests) base[argument] = value;
      check(filter, { number, architecture: NATIVE, args: base });
      for (const { argument } of rule.tests) {
        for (const value of values)
          check(filter, { number, architecture: NATIVE, args: base.with(argument, value) });
      }
    }
  }
});

test("buildFilters: agrees with the oracle on any call", () => {
  const value = oneof(constantFrom(...interesting()), bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }));
  const call = record({
    number: oneof(integer({ min: 0, max: 600 }), integer({ min: -0x8000_0000, max: 0x7fff_ffff })),
    architecture: constantFrom(...Object.values(AUDIT_ARCH), 0, 0xffff_ffff),
    args: array(value, { minLength: 6, maxLength: 6 }),
  });
  holds(
    property(call, constantFrom(...filters), (each, filter) => {
      check(filter, each);
    }),
    { numRuns: 3000 },
  );
});

test("buildFilters: never allows what the design forbids, whatever the arguments", () => {
  for (const filter of filters) {
    for (const name of NEVER) {
      const number = filter.numbers[name] ?? -1;
      assert.notEqual(number, -1, name);
      for (const value of interesting()) {
        const call = { number, architecture: NATIVE, args: Array<bigint>(6).fill(value) };
        assert.equal(runFilter(filter.program, call), "errno 1", `${filter.profile} ${name}`);
      }
    }
  }
});

test("rulesOf: each profile allows what the one before does, and only the widest forks", () => {
  const key = (rule: unknown) =>
    JSON.stringify(rule, (_, v: unknown) => (typeof v === "bigint" ? String(v) : v));
  for (const [at, wider] of SANDBOX_PROFILES.slice(1).entries()) {
    const narrower = SANDBOX_PROFILES[at] ?? "standard";
    const allowed = new Set(rulesOf(wider).map(key));
    for (const rule of rulesOf(narrower)) assert.ok(allowed.has(key(rule)), `${wider}: ${rule.name}`);
  }
  const names = (profile: SandboxProfile) => rulesOf(profile).map(({ name }) => name);
  for (const name of ["fork", "vfork", "kill", "wait4"]) {
    assert.ok(!names("unforked").includes(name) && names("standard").includes(name), name);
  }
});

test("runFilter: a program without an answer is an error", () => {
  assert.throws(
    () => runFilter(new Uint8Array(8).fill(0x05, 0, 1), { number: 0, architecture: NATIVE, args: [] }),
    RangeError,
  );
});

test("buildFilters: a missing Deno is refused with what to do", async () => {
  for (const path of ["/nonexistent/deno", "/dev/null/deno", "/bin/false"]) {
    await assert.rejects(buildFilters(path, ["strict"]), { code: "sandbox-unavailable" });
  }
});
