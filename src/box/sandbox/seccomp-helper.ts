// A short-lived Deno program: turns rules (JSON on stdin) into a BPF program (hex on stdout) with the machine's
// libseccomp. It runs outside any box, at the box's start, on data of ours only. Deno, because the pinned Node
// has no foreign function interface; libseccomp, because it knows every architecture's numbers.
// Documentation: seccomp_init(3), seccomp_rule_add(3), seccomp_export_bpf(3).

/** Rules as they travel: 64-bit numbers as decimal text. */
export interface HelperInput {
  readonly rules: readonly {
    readonly name: string;
    readonly tests: readonly { readonly argument: number; readonly mask: string; readonly value: string }[];
  }[];
  /** Names to look up besides those in the rules; for tests. */
  readonly names: readonly string[];
}

type ForeignFunction = (...values: readonly unknown[]) => number;

declare const Deno: {
  readonly stdin: { readonly readable: ReadableStream<Uint8Array> };
  dlopen(
    library: string,
    symbols: Readonly<Record<string, { readonly parameters: readonly unknown[]; readonly result: string }>>,
  ): { readonly symbols: Readonly<Record<string, ForeignFunction>> };
};

const ACT_KILL_PROCESS = 0x8000_0000;
const ACT_ALLOW = 0x7fff_0000;
const ACT_ERRNO = 0x0005_0000;
const EPERM = 1;
const ENOSYS = 38;
const FLTATR_ACT_BADARCH = 2;
const FLTATR_CTL_OPTIMIZE = 8;
const CMP_MASKED_EQ = 7;
/** struct scmp_arg_cmp { unsigned arg; enum op; uint64_t datum_a, datum_b; } */
const COMPARISON_BYTES = 24;

const seccomp = Deno.dlopen("libseccomp.so.2", {
  seccomp_init: { parameters: ["u32"], result: "pointer" },
  seccomp_attr_set: { parameters: ["pointer", "i32", "u32"], result: "i32" },
  seccomp_syscall_resolve_name: { parameters: ["buffer"], result: "i32" },
  seccomp_rule_add_array: { parameters: ["pointer", "u32", "i32", "u32", "buffer"], result: "i32" },
  seccomp_export_bpf: { parameters: ["pointer", "i32"], result: "i32" },
}).symbols;
const libc = Deno.dlopen("libc.so.6", {
  memfd_create: { parameters: ["buffer", "u32"], result: "i32" },
  lseek: { parameters: ["i32", "i64", "i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "i32" },
}).symbols;

function call(
  functions: Readonly<Record<string, ForeignFunction>>,
  name: string,
  ...values: unknown[]
): number {
  const symbol = functions[name];
  if (!symbol) throw new Error(`Cannot call ${name}: not in the library`);
  return symbol(...values);
}

function mustWork(what: string, result: number): void {
  if (result < 0) throw new Error(`Cannot ${what}: error ${-result}`);
}

const cString = (text: string) => new TextEncoder().encode(`${text}\0`);

function numberOf(name: string): number {
  return call(seccomp, "seccomp_syscall_resolve_name", cString(name));
}

function comparisons(tests: HelperInput["rules"][number]["tests"]): Uint8Array {
  const bytes = new Uint8Array(Math.max(tests.length, 1) * COMPARISON_BYTES);
  const fields = new DataView(bytes.buffer);
  for (const [index, test] of tests.entries()) {
    const at = index * COMPARISON_BYTES;
    fields.setUint32(at, test.argument, true);
    fields.setUint32(at + 4, CMP_MASKED_EQ, true);
    fields.setBigUint64(at + 8, BigInt(test.mask), true);
    fields.setBigUint64(at + 16, BigInt(test.value), true);
  }
  return bytes;
}

/** The program as bytes, by way of an anonymous file: libseccomp 2.5 only writes to descriptors. */
function exported(filter: unknown): Uint8Array {
  const descriptor = call(libc, "memfd_create", cString("filter"), 0);
  mustWork("make an anonymous file", descriptor);
  mustWork("export the filter", call(seccomp, "seccomp_export_bpf", filter, descriptor));
  const length = call(libc, "lseek", descriptor, 0n, 1);
  call(libc, "lseek", descriptor, 0n, 0);
  const bytes = new Uint8Array(length);
  if (call(libc, "read", descriptor, bytes, BigInt(length)) !== length)
    throw new Error("Cannot read the filter");
  return bytes;
}

function build(input: HelperInput): { program: string; numbers: Record<string, number> } {
  const filter: unknown = call(seccomp, "seccomp_init", ACT_ERRNO | EPERM);
  if (!filter) throw new Error("Cannot make a filter: libseccomp refused");
  // The library's default for foreign architectures ends only the calling thread.
  mustWork(
    "set an attribute",
    call(seccomp, "seccomp_attr_set", filter, FLTATR_ACT_BADARCH, ACT_KILL_PROCESS),
  );
  mustWork("set an attribute", call(seccomp, "seccomp_attr_set", filter, FLTATR_CTL_OPTIMIZE, 2));
  const numbers: Record<string, number> = {};
  const add = (action: number, name: string, tests: HelperInput["rules"][number]["tests"]) => {
    const number = numberOf(name);
    if (number === -1) throw new Error(`Cannot allow ${name}: unknown to this libseccomp`);
    numbers[name] = number;
    if (number < 0) return; // this architecture has no such call
    const array = comparisons(tests);
    mustWork(
      `add ${name}`,
      call(seccomp, "seccomp_rule_add_array", filter, action, number, tests.length, array),
    );
  };
  for (const rule of input.rules) add(ACT_ALLOW, rule.name, rule.tests);
  add(ACT_ERRNO | ENOSYS, "clone3", []);
  for (const name of input.names) numbers[name] ??= numberOf(name);
  const program = Array.from(exported(filter), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { program, numbers };
}

let text = "";
for await (const part of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) text += part;
// oxlint-disable-next-line no-console -- standard output is this program's result
console.log(JSON.stringify((JSON.parse(text) as readonly HelperInput[]).map(build)));
