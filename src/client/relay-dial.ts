// The Dial to a box at its relay's own address: over circuits that end at that very relay, which tor builds when its control
// port asks for them. There is no other way to such an address: a plain SOCKS stream would leave Tor somewhere else.

import { ControlClient } from "../tor/control-client.ts";
import type { ControlAddress } from "../tor/control-connection.ts";
import { ExitAddressDialer } from "../tor/exit-address.ts";
import type { SocksAddress } from "../tor/socks.ts";
import type { Dial } from "./dial.ts";

/** Dials to boxes at their relays, over any number of tors. Dispose it to close the circuits that they had built. */
export class RelayDialers implements AsyncDisposable {
  /** One for each tor: two at one tor would have to ask each other's streams around. */
  readonly #byTor = new Map<string, TorDialer>();

  /** `control` and `proxy` belong to the same tor; `fingerprint` has 40 hex digits. Nothing is opened until it is dialled. */
  dial(control: ControlAddress, proxy: SocksAddress, fingerprint: string): Dial {
    const key = JSON.stringify([control, proxy]);
    const tor = this.#byTor.get(key) ?? new TorDialer(control, proxy);
    this.#byTor.set(key, tor);
    return async ({ host, port }, { isolation, firstBytes, signal }) => {
      const dialer = await tor.open();
      return dialer.connect(
        { fingerprint, address: host, port },
        {
          isolation: { username: isolation, password: "bento" },
          signal,
          ...(firstBytes ? { optimisticData: firstBytes } : {}),
        },
      );
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const tors = [...this.#byTor.values()];
    this.#byTor.clear();
    await Promise.all(tors.map((tor) => tor[Symbol.asyncDispose]()));
  }
}

/** One tor: its control connection, opened with the first dial and again when it was lost. */
class TorDialer implements AsyncDisposable {
  readonly #address: ControlAddress;
  readonly #proxy: SocksAddress;
  #opened: Promise<{ control: ControlClient; dialer: ExitAddressDialer }> | undefined;

  constructor(address: ControlAddress, proxy: SocksAddress) {
    this.#address = address;
    this.#proxy = proxy;
  }

  async open(): Promise<ExitAddressDialer> {
    const opened = this.#opened ?? this.#open();
    this.#opened = opened;
    try {
      return (await opened).dialer;
    } catch (error) {
      if (this.#opened === opened) this.#opened = undefined;
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const opened = await this.#opened?.catch(() => undefined);
    await opened?.dialer[Symbol.asyncDispose]();
    await opened?.control[Symbol.asyncDispose]();
  }

  async #open(): Promise<{ control: ControlClient; dialer: ExitAddressDialer }> {
    const control = await ControlClient.connect(this.#address);
    void control.closed.finally(() => {
      this.#opened = undefined;
    });
    return { control, dialer: new ExitAddressDialer(control, this.#proxy) };
  }
}

/** 40 hex digits in upper case; undefined when `text` is no fingerprint. */
export function tryParseFingerprint(text: string): string | undefined {
  return /^\$?([0-9A-Fa-f]{40})$/.exec(text)?.[1]?.toUpperCase();
}
