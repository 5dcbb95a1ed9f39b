// What a program's connections carry, seen from inside: when it hands bytes over, and when it gets some.

import type { Dial } from "../../../client/dial.ts";
import type { Passed } from "../../../testnet/observed-link.ts";

/** Notes what the program hands to the connection ("up"), and what comes out of it. */
export function observedDial(dial: Dial, seen: Passed[]): Dial {
  return async (target, options) => {
    const stream = await dial(target, options);
    const note = (direction: Passed["direction"], bytes: number) =>
      seen.push({ link: 0, atMs: Date.now(), direction, bytes });
    const write = stream.write.bind(stream) as (...args: unknown[]) => boolean;
    stream.write = ((chunk: Uint8Array, ...rest: unknown[]) => {
      note("up", chunk.length);
      return write(chunk, ...rest);
    }) as typeof stream.write;
    const push = stream.push.bind(stream);
    stream.push = (chunk: Uint8Array | null, encoding) => {
      if (chunk) note("down", chunk.length);
      return push(chunk, encoding);
    };
    return stream;
  };
}
