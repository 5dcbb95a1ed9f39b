// The refusal of the whole room: something the boundary needs is missing on this machine, so nothing is started.

import { BentoError } from "../../base/errors.ts";

/** Functions cannot be started on this machine. `message` names what was found, `advice` what to change. */
export class SandboxUnavailable extends BentoError {
  override readonly name = "SandboxUnavailable";

  constructor(message: string, options: { cause?: unknown; advice?: string } = {}) {
    super("sandbox-unavailable", message, options);
  }
}
