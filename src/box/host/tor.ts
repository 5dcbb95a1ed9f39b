// Tor for one instance: its part of the box's tor client, behind the firewall (src/tor/firewall). Tor may end and be
// started again while the instance runs; what the instance has used up stays used up.

import { orAborted } from "../../base/abort.ts";
import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import type { TorFirewall } from "../../tor/firewall/firewall.ts";
import type { FirewallOwner, TorUse } from "../../tor/firewall/owner.ts";
import { OwnerAccount } from "../../tor/firewall/owner-account.ts";
import type { TorGrant } from "../../wire/grant.ts";
import type { InstanceTor } from "./services.ts";

/** How long a call waits for tor to be there: milliseconds. It bootstraps within seconds where it can at all. */
export const TOR_WAIT_MS = 60_000;

/** What runs tor: client-tor.ts. */
export interface TorSource {
  client(signal: AbortSignal): Promise<{ readonly firewall: TorFirewall | undefined }>;
}

export class FunctionTor implements InstanceTor {
  readonly #tor: TorSource;
  readonly #account: OwnerAccount;
  readonly #ended = new AbortController();
  #owner: FirewallOwner | undefined;

  constructor(options: { readonly grant: TorGrant; readonly tor: TorSource; readonly clock: Clock }) {
    this.#tor = options.tor;
    this.#account = new OwnerAccount(options.grant, options.clock);
  }

  async use(signal: AbortSignal): Promise<TorUse> {
    this.#ended.signal.throwIfAborted();
    if (this.#owner && !this.#owner.hasEnded) return this.#owner;
    const firewall = await this.#firewall(AbortSignal.any([signal, this.#ended.signal]));
    this.#ended.signal.throwIfAborted();
    // Another call may have been faster.
    if (!this.#owner || this.#owner.hasEnded) this.#owner = firewall.owner(this.#account);
    return this.#owner;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort(new BentoError("tor-closed", "Cannot use tor: the instance has ended"));
    await this.#owner?.[Symbol.asyncDispose]();
  }

  async #firewall(signal: AbortSignal): Promise<TorFirewall> {
    const gone = new BentoError("tor-gone", "Cannot use tor: the box's tor is not running");
    const { firewall } = await runningTor(this.#tor, { clock: this.#account.clock, signal, gone });
    if (!firewall) throw new BentoError("tor-gone", "Cannot use tor: this box has none for functions");
    return firewall;
  }
}

/** The box's tor as soon as it runs. Throws the signal's reason, or `gone` after TOR_WAIT_MS. */
export async function runningTor<T>(
  tor: { client(signal: AbortSignal): Promise<T> },
  { clock, signal, gone }: { readonly clock: Clock; readonly signal: AbortSignal; readonly gone: BentoError },
): Promise<T> {
  const late = new AbortController();
  const cancel = clock.after(TOR_WAIT_MS, () => {
    late.abort(gone);
  });
  const both = AbortSignal.any([signal, late.signal]);
  try {
    return await orAborted(tor.client(both), both);
  } finally {
    cancel();
  }
}
