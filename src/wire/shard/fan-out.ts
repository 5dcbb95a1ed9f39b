// What a client and the `shard` function say to each other (spec/shard 7): the client sends the file once, with the
// MACs of all shards; the function computes what the code adds and puts every shard on its box. Types alone.
//
//   arguments       ["put", FanOutRequest]
//   input           message: the Dropbox package, JSON; then bytes, cut into messages anyhow, the last one empty:
//                   for each stripe n MACs, then its bytes of the file
//   output          messages: FanOutAnswer, JSON

export type FanOutRequest = {
  readonly k: number;
  readonly n: number;
  /** Bytes of the file. */
  readonly size: number;
  /** Parts of each Dropbox. */
  readonly partBytes: number;
  /** For each shard: the box, "self" for the function's own, and the secret that owns its Dropbox. */
  readonly targets: readonly { readonly box: string; readonly writer: string }[];
};

export type FanOutAnswer =
  /** A shard is whole at its box. */
  | {
      readonly placed: {
        readonly index: number;
        readonly invocationToken: string;
        readonly shutdownToken: string;
        readonly expiresAt: number;
      };
    }
  | { readonly failed: { readonly index: number; readonly reason: string } }
  /** So many stripes have been handed on. */
  | { readonly stripes: number };
