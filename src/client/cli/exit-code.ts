// Error code -> exit code of the command line (docs/spec/exit-codes.md). One closed list; scripts rely on it.

export const EXIT = {
  ok: 0,
  functionFailed: 1,
  usage: 2,
  invalid: 3,
  denied: 4,
  torNotReady: 5,
  unreachable: 6,
  badToken: 7,
  integrity: 8,
  partial: 9,
  full: 10,
  internal: 70,
  timeLimit: 124,
  interrupted: 130,
} as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export const EXIT_BY_CODE: Readonly<Record<string, ExitCode>> = {
  usage: EXIT.usage,
  "bad-config": EXIT.invalid,
  "cannot-listen": EXIT.invalid,
  "bad-manifest": EXIT.invalid,
  "bad-package": EXIT.invalid,
  "unknown-source": EXIT.invalid,
  "bad-request": EXIT.invalid,
  "call-unsupported": EXIT.invalid,
  "policy-refused": EXIT.denied,
  "store-closed": EXIT.denied,
  "net-refused": EXIT.denied,
  "tor-not-ready": EXIT.torNotReady,
  "tor-socks-unreachable": EXIT.torNotReady,
  "tor-control-unreachable": EXIT.torNotReady,
  "tor-control-auth": EXIT.torNotReady,
  "tor-missing": EXIT.torNotReady,
  "tor-start-failed": EXIT.torNotReady,
  "testnet-not-up": EXIT.torNotReady,
  "testnet-busy": EXIT.torNotReady,
  "testnet-timeout": EXIT.torNotReady,
  "testnet-links-failed": EXIT.torNotReady,
  "testnet-bad-options": EXIT.usage,
  "testnet-dir-in-use": EXIT.usage,
  "balancer-out-of-reach": EXIT.unreachable,
  "box-unreachable": EXIT.unreachable,
  "box-failed": EXIT.unreachable,
  "box-timeout": EXIT.unreachable,
  "connection-lost": EXIT.unreachable,
  "input-lost": EXIT.unreachable,
  stalled: EXIT.unreachable,
  "not-found": EXIT.unreachable,
  "bad-method": EXIT.unreachable,
  "slow-request": EXIT.unreachable,
  "shutting-down": EXIT.unreachable,
  "functions-unavailable": EXIT.unreachable,
  internal: EXIT.unreachable,
  "bad-token": EXIT.badToken,
  "already-ended": EXIT.badToken,
  "taken-over": EXIT.partial,
  "offset-gone": EXIT.partial,
  partial: EXIT.partial,
  "dropbox-empty": EXIT.partial,
  "too-few-shards": EXIT.partial,
  integrity: EXIT.integrity,
  digest: EXIT.integrity,
  "bad-answer": EXIT.integrity,
  "too-large": EXIT.full,
  "box-full": EXIT.full,
  "too-many-instances": EXIT.full,
  "disk-full": EXIT.full,
};

/** The exit code for an error code; what Tor says about a stream counts as "not reached". */
export function exitCodeOf(code: string): ExitCode {
  const known = EXIT_BY_CODE[code];
  if (known !== undefined) return known;
  return code.startsWith("tor-") ? EXIT.unreachable : EXIT.functionFailed;
}
