import assert from "node:assert/strict";
import test from "node:test";
import { firstHopOf } from "./client-tor.ts";
import { parseBoxConfig } from "./config.ts";

test("firstHopOf: functions choose first relays except where the box hides", () => {
  const of = (mode: string) => firstHopOf(parseBoxConfig(`[onion]\nmode = "${mode}"\n`).onion);
  assert.deepEqual(["none", "single-hop", "hidden"].map(of), ["any", "any", "guard"]);
});
