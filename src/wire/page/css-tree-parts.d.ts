// The two parts of css-tree that are used, which its type package does not describe.

declare module "css-tree/tokenizer" {
  /** Calls `onToken` for each token of CSS Syntax 3, in order and without gaps; offsets count UTF-16 units. */
  export function tokenize(source: string, onToken: (type: number, start: number, end: number) => void): void;
}

declare module "css-tree/utils" {
  export const ident: { decode(token: string): string };
  export const string: { decode(token: string): string };
  /** Decodes a whole `url(...)` token. */
  export const url: { decode(token: string): string };
}
