// Fixed-size fields of Tor's binary formats: reading them within bounds, writing them.
// All integers are big-endian (tor-spec 0.1.1). What is read comes from relays, clients and services: hostile.

import { ProtocolError } from "../base/errors.ts";

/** Reads fields in order. Every read past the end throws ProtocolError `onion-format` naming the format. */
export class FieldReader {
  readonly #bytes: Uint8Array;
  readonly #what: string;
  #at = 0;

  /** @param what names the format in errors, such as "EXTENDED2". The bytes stay the caller's; reads are views. */
  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes;
    this.#what = what;
  }

  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  u8(): number {
    return this.bytes(1)[0] ?? 0;
  }

  u16(): number {
    const [a = 0, b = 0] = this.bytes(2);
    return (a << 8) | b;
  }

  u32(): number {
    const [a = 0, b = 0, c = 0, d = 0] = this.bytes(4);
    return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
  }

  /** The next `count` bytes, a view. */
  bytes(count: number): Uint8Array {
    if (count > this.remaining)
      throw new ProtocolError(
        "onion-format",
        `Cannot read ${this.#what}: ${String(this.remaining)} bytes left, ${String(count)} wanted`,
      );
    const view = this.#bytes.subarray(this.#at, this.#at + count);
    this.#at += count;
    return view;
  }

  /** Everything that is left, a view. */
  rest(): Uint8Array {
    return this.bytes(this.remaining);
  }

  /** Throws unless every byte was read. */
  end(): void {
    if (this.remaining > 0)
      throw new ProtocolError(
        "onion-format",
        `Cannot read ${this.#what}: ${String(this.remaining)} bytes after its end`,
      );
  }
}

export function u8(value: number): Uint8Array {
  return Uint8Array.of(value);
}

export function u16(value: number): Uint8Array {
  return Uint8Array.of(value >>> 8, value);
}

export function u32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
}

/** rend-spec 0.1: INT_8. */
export function u64(value: number | bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
  return bytes;
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

export function fromHex(text: string): Uint8Array {
  if (!/^(?:[0-9a-fA-F]{2})*$/u.test(text))
    throw new ProtocolError("onion-format", "Cannot read hexadecimal: other characters, or an odd number");
  return plain(Buffer.from(text, "hex"));
}

/** Tor writes base64 without its `=` in most places (dir-spec 1.2). */
export function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64").replace(/=+$/u, "");
}

/** Reads base64 with or without padding. Throws ProtocolError unless it is exactly that, of `length` bytes if given. */
export function fromBase64(text: string, length?: number): Uint8Array {
  const bare = text.replace(/={1,2}$/u, "");
  if (!/^[A-Za-z0-9+/]*$/u.test(bare) || bare.length % 4 === 1)
    throw new ProtocolError("onion-format", "Cannot read base64: other characters, or a cut group");
  const bytes = plain(Buffer.from(bare, "base64"));
  if (length !== undefined && bytes.length !== length)
    throw new ProtocolError(
      "onion-format",
      `Cannot read base64: ${String(bytes.length)} bytes, ${String(length)} wanted`,
    );
  return bytes;
}

/** A Uint8Array in memory of its own: small Buffers share a pool, which would keep neighbours alive and readable. */
export function plain(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(bytes);
}
