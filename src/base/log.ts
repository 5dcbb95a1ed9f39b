// Structured logging: fixed text, fields apart. Never tokens, keys, payloads, code, client addresses or destinations.
// error = we must act, warn = the operator should look, info = rare and wanted, debug = for us.

const LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LEVELS)[number];
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;

/** Where lines go. `bin` chooses; rooms only receive a Log. */
export interface Log {
  debug(text: string, fields?: LogFields): void;
  info(text: string, fields?: LogFields): void;
  warn(text: string, fields?: LogFields): void;
  error(text: string, fields?: LogFields): void;
}

/** A log that writes one line per event, `level text key=value ...`, to `write`, from `level` up. */
export function createLog(write: (line: string) => void, level: LogLevel = "info"): Log {
  const emit =
    (at: LogLevel) =>
    (text: string, fields: LogFields = {}) => {
      if (LEVELS.indexOf(at) < LEVELS.indexOf(level)) return;
      const pairs = Object.entries(fields)
        .filter(([, value]) => value !== undefined)
        .map(
          ([key, value]) => ` ${key}=${typeof value === "string" ? JSON.stringify(value) : String(value)}`,
        );
      write(`${at} ${text}${pairs.join("")}\n`);
    };
  return { debug: emit("debug"), info: emit("info"), warn: emit("warn"), error: emit("error") };
}

/** Discards everything: for libraries used without a log and for tests. */
export const silentLog: Log = createLog(() => {
  /* nothing to write to */
});
