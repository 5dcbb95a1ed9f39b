// Standard output is the channel, so what a function prints becomes log lines. A convenience, not a boundary:
// a function that writes to descriptor 1 by other means breaks its own channel and is ended by the box.

import type { FunctionLog } from "../function.ts";

const { inspect } = Deno;

export function replaceConsole(log: FunctionLog): void {
  const print =
    (level: keyof FunctionLog) =>
    (...values: unknown[]) => {
      log[level](textOf(values));
    };
  const nothing = () => {
    /* printing only: no meaning in a log */
  };
  const [debug, info, warn, error] = [print("debug"), print("info"), print("warn"), print("error")];
  const replaced = {
    debug,
    log: info,
    info,
    dir: info,
    dirxml: info,
    table: info,
    group: info,
    groupCollapsed: info,
    count: info,
    timeLog: info,
    trace: info,
    warn,
    error,
    assert: (condition: unknown, ...values: unknown[]) => {
      if (!condition) error("Assertion failed", ...values);
    },
    clear: nothing,
    countReset: nothing,
    groupEnd: nothing,
    time: nothing,
    timeEnd: nothing,
  };
  Object.assign(globalThis.console, replaced);
  for (const name of ["alert", "confirm", "prompt"]) Reflect.deleteProperty(globalThis, name);
  for (const name of ["stdin", "stdout"]) {
    Object.defineProperty(Deno, name, {
      configurable: false,
      get() {
        throw new TypeError(`Deno.${name} is not for functions: use the session, or env.log`);
      },
    });
  }
}

function textOf(values: readonly unknown[]): string {
  return values.map((value) => (typeof value === "string" ? value : inspect(value))).join(" ");
}
