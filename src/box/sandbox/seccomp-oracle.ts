// A second opinion on the filters, for tests: runs a seccomp program as the kernel would, and says from the rules
// alone what it should answer. Written from the BPF instruction set, not from libseccomp's output.
// Kernel documentation: userspace-api/seccomp_filter; struct seccomp_data { int nr; u32 arch; u64 ip; u64 args[6]; }

import { assert } from "../../base/errors.ts";
import { rulesOf, type SandboxProfile } from "./seccomp-profiles.ts";

/** One system call as a filter sees it. Arguments are unsigned 64-bit. */
export interface SystemCall {
  readonly number: number;
  readonly architecture: number;
  readonly args: readonly bigint[];
}

export type Decision = "allow" | "kill" | `errno ${number}`;

export const AUDIT_ARCH = {
  x64: 0xc000_003e,
  arm64: 0xc000_00b7,
  ia32: 0x4000_0003,
  arm: 0x4000_0028,
} as const;

const INSTRUCTION_BYTES = 8;
const X32_BIT = 0x4000_0000;
const EPERM = 1;
const ENOSYS = 38;

function layOut(call: SystemCall): DataView {
  const data = new DataView(new ArrayBuffer(64));
  data.setInt32(0, call.number, true);
  data.setUint32(4, call.architecture, true);
  for (const [index, value] of call.args.entries()) data.setBigUint64(16 + index * 8, value, true);
  return data;
}

function decisionOf(value: number): Decision {
  const action = (value & 0xffff_0000) >>> 0;
  if (action === 0x7fff_0000) return "allow";
  if (action === 0x0005_0000) return `errno ${value & 0xffff}`;
  assert(action === 0x8000_0000, `filter returned ${value.toString(16)}`);
  return "kill";
}

/** Runs the program; supports exactly the instructions that seccomp permits and libseccomp emits. */
export function runFilter(program: Uint8Array, call: SystemCall): Decision {
  const data = layOut(call);
  const code = new DataView(program.buffer, program.byteOffset, program.byteLength);
  let accumulator = 0;
  for (let at = 0; at < program.length / INSTRUCTION_BYTES; ) {
    const offset = at * INSTRUCTION_BYTES;
    const operation = code.getUint16(offset, true);
    const k = code.getUint32(offset + 4, true);
    const jump = (holds: boolean) => {
      at += 1 + code.getUint8(offset + (holds ? 2 : 3));
    };
    switch (operation) {
      case 0x20: // ld [k]
        accumulator = data.getUint32(k, true);
        at++;
        break;
      case 0x54: // and k
        accumulator = (accumulator & k) >>> 0;
        at++;
        break;
      case 0x05: // ja k
        at += 1 + k;
        break;
      case 0x15: // jeq k
        jump(accumulator === k);
        break;
      case 0x25: // jgt k
        jump(accumulator > k);
        break;
      case 0x35: // jge k
        jump(accumulator >= k);
        break;
      case 0x45: // jset k
        jump((accumulator & k) !== 0);
        break;
      case 0x06: // ret k
        return decisionOf(k);
      default:
        assert(false, `instruction ${operation.toString(16)} at ${at}`);
    }
  }
  throw new RangeError("the program ends without an answer");
}

/** What the rules say, without any filter. `numbers` maps names to this architecture's numbers. */
export function expectedDecision(
  profile: SandboxProfile,
  numbers: Readonly<Record<string, number>>,
  call: SystemCall,
  native: number,
): Decision {
  if (call.architecture !== native) return "kill";
  // -1 is what a tracer leaves behind to skip a call; libseccomp treats it as unknown, not as x32.
  if (native === AUDIT_ARCH.x64 && call.number >>> 0 >= X32_BIT && call.number !== -1) return "kill";
  if (call.number === numbers["clone3"]) return `errno ${ENOSYS}`;
  const allowed = rulesOf(profile).some(
    (rule) =>
      numbers[rule.name] === call.number &&
      rule.tests.every(({ argument, mask, value }) => ((call.args[argument] ?? 0n) & mask) === value),
  );
  return allowed ? "allow" : `errno ${EPERM}`;
}
