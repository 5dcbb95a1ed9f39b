// The policy that the box publishes, from what its operator decided and what the relay's exit policy says
// (docs/spec/policy.md 2). Pure. What is published is what is enforced: the broker decides by the same lines.

import { EXIT_RULES_MAX, type Policy } from "../../wire/policy.ts";
import type { NetConfig, PolicyConfig } from "../config.ts";

/**
 * @param relayExit the relay's exit policy, one rule a line ("accept *:443"); null while it is unknown, and then
 *   functions get no network (fail closed); so it is with more than EXIT_RULES_MAX rules
 */
export function publishedPolicy(config: PolicyConfig, relayExit: readonly string[] | null): Policy {
  const { net } = config;
  const exit = net && relayExit ? [...notPublic(net), ...net.reject, ...relayExit] : [];
  // Rules cannot be left out, and clients take no more than this: then there is no network rather than a wrong policy.
  const isExit =
    exit.length <= EXIT_RULES_MAX && (relayExit?.some((line) => /^accept6?\s/.test(line)) ?? false);
  return {
    version: 1,
    store: config.store,
    images: [...config.images],
    isolation: "process",
    syscalls: [...config.syscalls],
    net:
      net && relayExit && isExit
        ? {
            exit: [...notPublic(net), ...net.reject, ...relayExit],
            connections: net.connections,
            bytes: net.bytes,
          }
        : null,
    storage: config.storage,
    bento: config.bento,
    tor: config.tor,
    relays: config.relays,
    box: [...config.box],
    packageBytes: config.packageBytes,
    function: config.function,
    total: config.total,
  };
}

/**
 * The broker refuses all that is not public, whatever the relay says; published so that clients see it. Where a test
 * network is allowed, a rule for the rest cannot be put shortly, and only the broker's refusal tells.
 */
function notPublic({ privateNetworksAllowed }: NetConfig): readonly string[] {
  return privateNetworksAllowed.length === 0 ? ["reject private:*"] : [];
}
