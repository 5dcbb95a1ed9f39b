// LoadBalancer: keeps one set of introduction points for an onion service and has replicas on many boxes meet its clients,
// each client where the load is least. Unmodified relays, unmodified clients; replicas hold no key (README.md).

import { defineFunction, type Json } from "bento/function";
import { systemClock } from "../../src/base/clock.ts";
import { functionLog, torAccessOf } from "../replica/tor-access.ts";
import { runLoadBalancer } from "./run.ts";

export default defineFunction({
  /** `given`: LoadBalancerStart or LoadBalancerResume (src/wire/loadbalancer.ts). */
  async invoke(session, env, given: Json = null) {
    const { bento, storage } = env;
    if (!bento) throw new Error("Cannot balance: no use of other boxes was granted");
    if (!storage) throw new Error("Cannot balance: no storage was granted");
    const end = await runLoadBalancer(given, {
      session,
      tor: torAccessOf(env),
      bento,
      storage,
      clock: systemClock,
      log: functionLog(env.log),
    });
    // Nothing is left to go on with. Of one that was fenced off the owner may want to see why.
    if (end === "stopped") await env.self.remove();
  },
});
