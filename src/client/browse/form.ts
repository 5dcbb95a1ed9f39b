// What a browser sends when a form is submitted (HTML "form submission"): fields of text, without files.

import { randomBytes } from "node:crypto";
import { utf8 } from "../../base/bytes.ts";
import type { BrowseRequest } from "../../wire/browse.ts";

export interface Form {
  /** Names and values in the order of the page. */
  readonly fields: readonly (readonly [name: string, value: string])[];
  readonly enctype?: "application/x-www-form-urlencoded" | "multipart/form-data" | "text/plain" | undefined;
}

/** Of a form with method GET: the address with the fields in place of its query. */
export function formUrl(url: string, form: Form): string {
  const target = new URL(url);
  target.search = encodeUrl(form.fields);
  return target.href;
}

export function encodeForm({ fields, enctype }: Form): NonNullable<BrowseRequest["body"]> {
  switch (enctype) {
    case "multipart/form-data":
      return multipart(fields);
    case "text/plain": {
      const lines = fields.map(([name, value]) => `${name}=${crlf(value)}\r\n`);
      return { type: "text/plain", bytes: utf8(lines.join("")) };
    }
    default:
      return { type: "application/x-www-form-urlencoded", bytes: utf8(encodeUrl(fields)) };
  }
}

function encodeUrl(fields: Form["fields"]): string {
  return new URLSearchParams(
    fields.map(([name, value]): [string, string] => [crlf(name), crlf(value)]),
  ).toString();
}

function multipart(fields: Form["fields"]): NonNullable<BrowseRequest["body"]> {
  // Unguessable, so that no value can hold it.
  const boundary = `----bento${randomBytes(16).toString("hex")}`;
  const parts = fields.map(
    ([name, value]) =>
      `--${boundary}\r\nContent-Disposition: form-data; name="${quoted(name)}"\r\n\r\n${crlf(value)}\r\n`,
  );
  return {
    type: `multipart/form-data; boundary=${boundary}`,
    bytes: utf8(`${parts.join("")}--${boundary}--\r\n`),
  };
}

/** HTML "multipart form data": these three would end the name. */
function quoted(name: string): string {
  const escapes: Readonly<Record<string, string>> = { '"': "%22", "\r": "%0D", "\n": "%0A" };
  return crlf(name).replace(/["\r\n]/g, (character) => escapes[character] ?? "");
}

/** Line ends of a form are CR LF, however they were typed. */
function crlf(text: string): string {
  return text.replace(/\r\n?|\n/g, "\r\n");
}
