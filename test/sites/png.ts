// Pictures made of numbers: PNG files for the test sites, each of its own look and size.

import { crc32, deflateSync } from "node:zlib";
import { concat, utf8, view } from "../../src/base/bytes.ts";

/** An RGB picture of `width` x `height`; `colour` gives 0xRRGGBB for each place. */
export function png(width: number, height: number, colour: (x: number, y: number) => number): Uint8Array {
  const rows = new Uint8Array(height * (1 + 3 * width));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * (1 + 3 * width) + 1 + 3 * x;
      const rgb = colour(x, y);
      rows.set([rgb >> 16, (rgb >> 8) & 0xff, rgb & 0xff], at);
    }
  }
  const header = new Uint8Array(13);
  view(header).setUint32(0, width);
  view(header).setUint32(4, height);
  header.set([8, 2, 0, 0, 0], 8);
  return concat([
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(rows)),
    chunk("IEND", new Uint8Array()),
  ]);
}

function chunk(name: string, body: Uint8Array): Uint8Array {
  const typed = concat([utf8(name), body]);
  const length = new Uint8Array(4);
  view(length).setUint32(0, body.length);
  const sum = new Uint8Array(4);
  view(sum).setUint32(0, crc32(typed));
  return concat([length, typed, sum]);
}

/** Stripes of two colours: tells pictures apart at a glance. */
export function stripes(width: number, height: number, first: number, second: number): Uint8Array {
  return png(width, height, (x, y) => ((x + y) % 16 < 8 ? first : second));
}

/** Noise that no compressor makes smaller, the same for the same seed. */
export function noise(width: number, height: number, seed: number): Uint8Array {
  let state = seed >>> 0 || 1;
  return png(width, height, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 8;
  });
}
