// data: URLs (RFC 2397, Fetch "data: URL processor"): read those in pages, write those of a self-contained page.

/** Longest data: URL that is taken apart: what a page may hold anyway. */
const DATA_URL_LENGTH_MAX = 16 * 1024 * 1024;

/** Type and bytes; undefined when it is malformed. The type is as written, `text/plain` when absent. */
export function parseDataUrl(url: string): { readonly type: string; readonly body: Uint8Array } | undefined {
  if (url.length > DATA_URL_LENGTH_MAX || !/^data:/i.test(url)) return undefined;
  const comma = url.indexOf(",");
  if (comma === -1) return undefined;
  let type = url.slice("data:".length, comma).trim();
  const data = percentDecode(url.slice(comma + 1).replace(/#.*$/s, ""));
  const base64 = /;\s*base64$/i.exec(type);
  if (!base64) return { type: type || "text/plain", body: data };
  type = type.slice(0, base64.index).trim();
  try {
    const text = new TextDecoder("latin1").decode(data);
    return { type: type || "text/plain", body: Uint8Array.from(atob(text), (c) => c.charCodeAt(0)) };
  } catch {
    return undefined;
  }
}

function percentDecode(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  let length = 0;
  for (let at = 0; at < bytes.length; at++) {
    let byte = bytes[at] ?? 0;
    if (byte === 0x25) {
      const high = hexDigit(bytes[at + 1]);
      const low = hexDigit(bytes[at + 2]);
      if (high >= 0 && low >= 0) {
        byte = high * 16 + low;
        at += 2;
      }
    }
    bytes[length++] = byte;
  }
  return bytes.subarray(0, length);
}

function hexDigit(byte: number | undefined): number {
  return byte === undefined ? -1 : "0123456789abcdef".indexOf(String.fromCharCode(byte).toLowerCase());
}
