// What a running function may ask of its host, as interfaces: the guest link (guest-link.ts) turns a guest's
// calls into these, net.ts and storage.ts carry them out. A service that was not granted is absent.
// Everything a guest passes in has been parsed and bounded before it reaches a service.

import type { Duplex } from "node:stream";
import type { TorUse } from "../../tor/firewall/owner.ts";
import type { JsonValue } from "../../wire/api.ts";

export interface HostServices {
  readonly net?: InstanceNet;
  readonly storage?: FunctionStorage;
  readonly tor?: InstanceTor;
  /** `env.box`: the facts that the grant names, freshly measured. */
  readonly box?: () => Promise<Readonly<Record<string, JsonValue>>>;
  /** Ends the function as its owner could, but for the instance that asks. Idempotent. */
  readonly removeSelf?: () => Promise<void>;
}

/** The services that hold something for their instance: closed when it has ended. */
export function servicesToClose(services: HostServices): readonly AsyncDisposable[] {
  return Object.values(services).filter(
    (service): service is AsyncDisposable => typeof service === "object" && Symbol.asyncDispose in service,
  );
}

/** Connections out of one instance. Counts and closes what it opened. */
export interface InstanceNet extends AsyncDisposable {
  /**
   * Resolves, checks grant and exit policy on the resolved address, connects. Throws BentoError with code
   * "net-refused" (policy; message says which rule), "net-limit", "net-unreachable" or "net-timeout".
   */
  connect(target: { host: string; port: number }, options: { signal: AbortSignal }): Promise<Duplex>;
}

/** Tor for one instance. Ends what it made. */
export interface InstanceTor extends AsyncDisposable {
  /** The instance's part of the tor that runs now. Throws BentoError "tor-gone" when none does for long. */
  use(signal: AbortSignal): Promise<TorUse>;
}

/** Storage of one function, shared by its instances. Throws BentoError "storage-quota", "storage-key", "disk-full". */
export interface FunctionStorage {
  /** Stores the whole value or nothing. Resolves when it can be read back. */
  put(
    key: string,
    value: AsyncIterable<Uint8Array>,
    options: { signal: AbortSignal },
  ): Promise<{ bytes: number }>;
  /** undefined when there is no such key. The value stays readable while it is replaced or deleted. */
  get(
    key: string,
    options: { signal: AbortSignal; offset?: number },
  ): Promise<{ bytes: number; value: AsyncIterable<Uint8Array> } | undefined>;
  /** Whether there was such a key. */
  delete(key: string): Promise<boolean>;
  /** Keys that begin with `prefix`, in order of bytes, after `after`, at most `limit` of them. */
  list(options: {
    prefix: string;
    after?: string;
    limit: number;
  }): Promise<readonly { key: string; bytes: number }[]>;
}
