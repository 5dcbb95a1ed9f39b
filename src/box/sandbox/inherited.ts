// Descriptors that this process was born with and would pass on to every child: Node opens its own with
// close-on-exec, but whatever the shell, the service manager or a test runner left open stays open across exec,
// down into a box. They are found once and closed in every instance before its program starts.

import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import { SandboxUnavailable } from "./sandbox-unavailable.ts";

const O_CLOEXEC = 0o2000000;
/** More than any service manager hands over; each costs every start a descriptor to close. */
const INHERITED_MAX = 64;

/** Numbers of inherited descriptors, and one on /dev/null to put in their place. */
export class InheritedDescriptors implements Disposable {
  readonly numbers: readonly number[];
  readonly nullFd: number;
  #isOpen = true;

  constructor() {
    this.numbers = readdirSync("/proc/self/fdinfo").map(Number).filter(isInherited);
    if (this.numbers.length > INHERITED_MAX) {
      throw new SandboxUnavailable(
        `Cannot start functions: ${this.numbers.length} descriptors inherited, wanted at most ${INHERITED_MAX}`,
        { advice: "Start the box from a parent that closes its descriptors." },
      );
    }
    this.nullFd = openSync("/dev/null", "r");
  }

  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    closeSync(this.nullFd);
  }
}

/** `flags:\t0100001` in fdinfo is octal. 0, 1 and 2 are replaced in every child anyway. */
function isInherited(fd: number): boolean {
  if (fd <= 2) return false;
  try {
    const flags = /^flags:\s+([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1];
    return flags !== undefined && (Number.parseInt(flags, 8) & O_CLOEXEC) === 0;
  } catch {
    return false; // the descriptor of the listing itself is gone by now
  }
}
