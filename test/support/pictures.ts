// Compares screenshots, as Chromium writes them, pixel by pixel.

import assert from "node:assert/strict";
import { inflateSync } from "node:zlib";
import { concat, view } from "../../src/base/bytes.ts";

/** Share of pixels that differ by more than anti-aliasing; pictures of different size differ where one has none. */
export function differingShare(first: Uint8Array, second: Uint8Array): number {
  const a = decodePng(first);
  const b = decodePng(second);
  const width = Math.max(a.width, b.width);
  const height = Math.max(a.height, b.height);
  let differing = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (x >= a.width || x >= b.width || y >= a.height || y >= b.height) differing++;
      else {
        const one = (y * a.width + x) * a.channels;
        const other = (y * b.width + x) * b.channels;
        let worst = 0;
        for (let c = 0; c < 3; c++) {
          worst = Math.max(worst, Math.abs((a.pixels[one + c] ?? 0) - (b.pixels[other + c] ?? 0)));
        }
        if (worst > 8) differing++;
      }
    }
  }
  return differing / (width * height);
}

/** What Chromium writes: 8 bits, RGB or RGBA, not interlaced. */
function decodePng(file: Uint8Array): {
  width: number;
  height: number;
  channels: number;
  pixels: Uint8Array;
} {
  const data: Uint8Array[] = [];
  let width = 0;
  let height = 0;
  let channels = 3;
  for (let at = 8; at < file.length; ) {
    const length = view(file).getUint32(at);
    const name = String.fromCharCode(...file.subarray(at + 4, at + 8));
    const body = file.subarray(at + 8, at + 8 + length);
    if (name === "IHDR") {
      width = view(body).getUint32(0);
      height = view(body).getUint32(4);
      assert.equal(body[8], 8);
      channels = body[9] === 6 ? 4 : 3;
    } else if (name === "IDAT") data.push(body);
    at += 12 + length;
  }
  const raw = inflateSync(concat(data));
  const stride = width * channels;
  const pixels = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    for (let x = 0; x < stride; x++) {
      const left = x >= channels ? (pixels[y * stride + x - channels] ?? 0) : 0;
      const up = y > 0 ? (pixels[(y - 1) * stride + x] ?? 0) : 0;
      const corner = y > 0 && x >= channels ? (pixels[(y - 1) * stride + x - channels] ?? 0) : 0;
      const predicted =
        filter === 1
          ? left
          : filter === 2
            ? up
            : filter === 3
              ? (left + up) >> 1
              : filter === 4
                ? paeth(left, up, corner)
                : 0;
      pixels[y * stride + x] = (raw[y * (stride + 1) + 1 + x] ?? 0) + predicted;
    }
  }
  return { width, height, channels, pixels };
}

function paeth(left: number, up: number, corner: number): number {
  const estimate = left + up - corner;
  const [a, b, c] = [Math.abs(estimate - left), Math.abs(estimate - up), Math.abs(estimate - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}
