// What tests of a function write against: `import { assert, install, run, test } from "bento/testing"`. Run them with
// `bento fn test`: the function runs in the real sandbox of a real box on this machine, nothing is faked.
// Types alone, and complete in themselves: `bento fn init` puts a copy beside the function for editors.

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** One invocation. `call` is for Python functions: an expression such as `add(5, 12)`. */
export interface Call {
  readonly args?: readonly Json[];
  readonly call?: string;
}

/** How an instance ended. */
export type Outcome =
  | { readonly kind: "returned" }
  | {
      readonly kind: "failed";
      readonly name: string;
      readonly message: string;
      readonly traceback: string;
    }
  | { readonly kind: "killed"; readonly reason: string; readonly detail?: string | undefined };

export interface Result {
  /** Output messages, as the function sent them. */
  readonly messages: readonly Uint8Array[];
  /** All of them, one after the other, as UTF-8. */
  readonly text: string;
}

/** A running instance, with the test as its client. Disposing of it ends it. */
export interface Running extends AsyncDisposable {
  send(message: string | Uint8Array): Promise<void>;
  /** The next message as UTF-8; undefined when the instance has ended. */
  receive(): Promise<string | undefined>;
  receiveBytes(): Promise<Uint8Array | undefined>;
  /** There are no more messages: the function's input ends. */
  endInput(): Promise<void>;
  /** Comes when all output has been received. */
  readonly ended: Promise<Outcome>;
}

/** An installed function: its storage lasts from one call to the next. Disposing of it removes it from the box. */
export interface Installed extends AsyncDisposable {
  /**
   * One invocation from beginning to end: sends `input`, ends the input, collects the output. Rejects with an Error
   * of that name, message and traceback when the function failed, or when the box ended it.
   */
  run(call?: Call & { readonly input?: readonly (string | Uint8Array)[] }): Promise<Result>;
  /** For tests that talk with the function. */
  start(call?: Call): Promise<Running>;
  /** What its instances logged so far, in order. */
  logs(): Promise<LogLine[]>;
}

export interface LogLine {
  readonly level: "debug" | "info" | "warn" | "error";
  readonly text: string;
}

/** A web site on this machine, which the function under test may reach although its address is private. */
export interface Site extends AsyncDisposable {
  /** `http://127.1.2.3:8000`, with a port from 8000 on: the manifest must ask for it. */
  readonly url: string;
  /** Paths asked for so far. */
  readonly requests: readonly string[];
}

/** Installs the function under test, or the one in another folder or file. */
export declare function install(fn?: string): Promise<Installed>;

/** Installs the function under test, runs it once and removes it. */
export declare function run(
  call?: Call & { readonly input?: readonly (string | Uint8Array)[] },
): Promise<Result>;

/** Serves each path with this text, as HTML; 404 for others. */
export declare function serve(pages: Readonly<Record<string, string | Uint8Array>>): Promise<Site>;

/** `test` of Node's test runner: a name, and a function that throws when something is wrong. */
export declare function test(name: string, perform: () => void | Promise<void>): void;

/** Part of `node:assert/strict`. */
export declare const assert: {
  ok(value: unknown, message?: string): asserts value;
  equal<T>(actual: unknown, expected: T, message?: string): asserts actual is T;
  notEqual(actual: unknown, expected: unknown, message?: string): void;
  deepEqual<T>(actual: unknown, expected: T, message?: string): asserts actual is T;
  match(text: string, pattern: RegExp, message?: string): void;
  doesNotMatch(text: string, pattern: RegExp, message?: string): void;
  throws(perform: () => unknown, expected?: RegExp | object, message?: string): void;
  rejects(perform: Promise<unknown> | (() => Promise<unknown>), expected?: RegExp | object): Promise<void>;
};
