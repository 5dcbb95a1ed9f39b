// Choosing the loopback block of a network so that no other network or service on this machine is in it.
// A block is free when nothing listens in it, and ours while we hold its claim port or our daemons listen there.

import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { BentoError, systemCode } from "../base/errors.ts";
import { CLAIM_PORT, planTestnet } from "./plan.ts";

/** 127.0 is everybody's; 127.255 holds the broadcast address. */
const BLOCK_MIN = 1;
const BLOCK_MAX = 250;

export interface BlockClaim extends AsyncDisposable {
  readonly block: number;
}

/** Claims the first free block. Release the claim when the network's own daemons listen. */
export async function claimBlock(): Promise<BlockClaim> {
  for (let block = BLOCK_MIN; block <= BLOCK_MAX; block++) {
    const claim = await listen(planTestnet(block).claimAddress);
    if (!claim) continue;
    // Looked at after the claim: whoever had the claim before us either listens by now or has given up.
    const used = blocksInUse(await readFile("/proc/net/tcp", "latin1"));
    if (!used.has(block))
      return {
        block,
        async [Symbol.asyncDispose]() {
          await close(claim);
        },
      };
    await close(claim);
  }
  throw new BentoError(
    "testnet-no-block",
    "Cannot start network: every loopback block 127.1-127.250 is in use",
    {
      advice: "Stop networks that are no longer needed: `bento net down`.",
    },
  );
}

async function listen(host: string): Promise<Server | undefined> {
  const server = createServer();
  const { promise, resolve, reject } = Promise.withResolvers<Server | undefined>();
  server.once("error", (error) => {
    if (systemCode(error) === "EADDRINUSE") resolve(undefined);
    else reject(error);
  });
  server.listen({ host, port: CLAIM_PORT }, () => {
    resolve(server);
  });
  return promise;
}

async function close(server: Server): Promise<void> {
  await new Promise((resolve) => server.close(resolve));
}

// Sample of /proc/net/tcp (proc(5)); addresses are little-endian hex, state 0A is LISTEN:
//   sl  local_address rem_address   st ...
//    0: 0103017F:5209 00000000:0000 0A ...      127.1.3.1:21001
// The claim port itself does not count.
/** The second bytes of 127.A.x.y of everything that listens. */
export function blocksInUse(table: string): Set<number> {
  const used = new Set<number>();
  for (const match of table.matchAll(/^\s*\d+: ([0-9A-F]{8}):([0-9A-F]{4}) [0-9A-F:]+ 0A /gmu)) {
    const [, address = "", port = ""] = match;
    if (address.slice(6) === "7F" && Number.parseInt(port, 16) !== CLAIM_PORT)
      used.add(Number.parseInt(address.slice(4, 6), 16));
  }
  used.delete(0);
  return used;
}
