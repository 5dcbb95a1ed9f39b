// What the function store and its worker thread say to each other. Both sides are ours: no parsing, only types.

import type { InvocationToken, ShutdownToken } from "../../wire/token.ts";
import type { PackageText, WrapKind } from "./sealed-package.ts";

export interface WorkerOptions {
  readonly dir: string;
  readonly bytesMax: number;
}

export type StoreOperation =
  | {
      readonly op: "add";
      readonly id: string;
      readonly invocationToken: InvocationToken;
      readonly shutdownToken: ShutdownToken;
      readonly storedAt: number;
      readonly expiresAt: number;
      readonly text: PackageText;
    }
  | { readonly op: "find"; readonly kind: WrapKind; readonly token: InvocationToken | ShutdownToken }
  | { readonly op: "remove"; readonly id: string }
  | { readonly op: "expire"; readonly now: number }
  | { readonly op: "close" };

export type StoreRequest = StoreOperation & { readonly request: number };

export interface FoundFunction {
  readonly id: string;
  readonly storedAt: number;
  readonly expiresAt: number;
  readonly text: PackageText;
}

/** find: the function or undefined; remove: whether it was there; expire: ids; else undefined. */
export type StoreAnswer = FoundFunction | boolean | readonly string[] | undefined;

export type StoreEvent =
  | { readonly kind: "opened"; readonly count: number }
  | {
      readonly kind: "unusable";
      readonly code: string;
      readonly message: string;
      readonly advice: string | undefined;
    }
  | { readonly kind: "answer"; readonly request: number; readonly ok: StoreAnswer }
  | {
      readonly kind: "answer";
      readonly request: number;
      readonly failed: "disk-full" | "internal";
      readonly message: string;
    };
