// The fake load balancer as a function of a real box: what `bento lb` is tested with where no Tor runs.

import { defineFunction } from "bento/function";
import type { LoadBalancerStart } from "../../../src/wire/loadbalancer.ts";
import { fakeBalancer } from "./balancer.ts";

export default defineFunction({
  async invoke(session, env, start) {
    await fakeBalancer(start as unknown as LoadBalancerStart, {
      input: session,
      send: (text) => session.send(text),
    });
    await env.self.remove();
  },
});
