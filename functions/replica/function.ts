// Replica of an onion service behind a load balancer (functions/loadbalancer): meets the clients that it is told to, and
// serves them files or a TCP target. Started by load balancers, not by people.

import process from "node:process";
import { defineFunction, type Json } from "bento/function";
import { systemClock } from "../../src/base/clock.ts";
import { checkedReplicaStart } from "./protocol.ts";
import { runReplica } from "./replica.ts";
import { functionLog, torAccessOf } from "./tor-access.ts";

export default defineFunction({
  async invoke(session, env, given: Json = null) {
    const start = checkedReplicaStart(given);
    await runReplica(start, {
      session,
      tor: torAccessOf(env),
      storage: env.storage,
      net: env.net,
      clock: systemClock,
      log: functionLog(env.log),
      cpuUs: () => {
        const { user, system } = process.cpuUsage();
        return user + system;
      },
    });
  },
});
