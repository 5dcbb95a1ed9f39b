// The SQLite file of installed functions (spec/storage 2): synchronous, used inside the store's worker thread.
// A change is durable when its transaction has committed: WAL with synchronous=FULL flushes once a commit, so
// many changes that arrive together cost one flush. What the rows hold is sealed (sealed-package.ts).

import { chmodSync, closeSync, fsyncSync, mkdirSync, openSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { BentoError, messageOf } from "../../base/errors.ts";
import type { SealedPackage, WrapKind } from "./sealed-package.ts";

const FUNCTIONS_FILE = "functions.sqlite";

/** Marks the file as ours: "Bnto". */
const APPLICATION_ID = 0x426e746f;
const SCHEMA_VERSION = 1;
const PAGE_BYTES = 4096;

/** A file that holds room for removals on a disk that others have filled: one removal logs about 100 KiB. */
const RESERVE_FILE = "reserve";
const RESERVE_BYTES = 512 * 1024;

const SCHEMA = `
CREATE TABLE function (
  id              TEXT    PRIMARY KEY,
  invocation_hash TEXT    NOT NULL UNIQUE,
  shutdown_hash   TEXT    NOT NULL UNIQUE,
  stored_at       INTEGER NOT NULL,
  expires_at      INTEGER NOT NULL,
  invocation_wrap BLOB    NOT NULL,
  shutdown_wrap   BLOB    NOT NULL,
  sealed          BLOB    NOT NULL
) STRICT;
CREATE INDEX function_expiry ON function (expires_at);
`;

export interface FunctionRow extends SealedPackage {
  readonly id: string;
  readonly invocationHash: string;
  readonly shutdownHash: string;
  readonly storedAt: number;
  readonly expiresAt: number;
}

export interface FoundRow {
  readonly id: string;
  readonly storedAt: number;
  readonly expiresAt: number;
  readonly wrap: Uint8Array;
  readonly sealed: Uint8Array;
}

/** Primary result codes of SQLite, https://sqlite.org/rescode.html */
const SQLITE = { busy: 5, ioError: 10, corrupt: 11, full: 13, cantOpen: 14, notADatabase: 26 } as const;

export class FunctionTable {
  readonly #reserve: string;
  #hasReserve = false;
  readonly #db: DatabaseSync;
  readonly #statements: Record<
    "insert" | "byInvocation" | "byShutdown" | "remove" | "expired" | "expire" | "count",
    StatementSync
  >;

  /**
   * Opens or creates `dir/functions.sqlite` and checks it as a whole. Throws BentoError "store-busy",
   * "store-corrupt" or "store-unusable", each with advice.
   * @param bytesMax the file never grows beyond this
   */
  constructor(dir: string, bytesMax: number) {
    const path = join(dir, FUNCTIONS_FILE);
    try {
      this.#db = openDatabase(dir, path, bytesMax);
      const from = "SELECT id, stored_at, expires_at, sealed";
      this.#statements = {
        insert: this.#db.prepare("INSERT INTO function VALUES (?, ?, ?, ?, ?, ?, ?, ?)"),
        byInvocation: this.#db.prepare(
          `${from}, invocation_wrap AS wrap FROM function WHERE invocation_hash = ?`,
        ),
        byShutdown: this.#db.prepare(`${from}, shutdown_wrap AS wrap FROM function WHERE shutdown_hash = ?`),
        remove: this.#db.prepare("DELETE FROM function WHERE id = ?"),
        expired: this.#db.prepare("SELECT id FROM function WHERE expires_at <= ?"),
        expire: this.#db.prepare("DELETE FROM function WHERE expires_at <= ?"),
        count: this.#db.prepare("SELECT count(*) AS count FROM function"),
      };
    } catch (error) {
      throw openError(error, path);
    }
    this.#reserve = join(dir, RESERVE_FILE);
    this.#keepReserve();
  }

  get count(): number {
    return Number(this.#statements.count.get()?.["count"]);
  }

  add(row: FunctionRow): void {
    this.#statements.insert.run(
      row.id,
      row.invocationHash,
      row.shutdownHash,
      row.storedAt,
      row.expiresAt,
      row.invocationWrap,
      row.shutdownWrap,
      row.sealed,
    );
  }

  find(kind: WrapKind, hash: string): FoundRow | undefined {
    const row = this.#statements[kind === "invocation" ? "byInvocation" : "byShutdown"].get(hash);
    if (!row) return undefined;
    return {
      id: String(row["id"]),
      storedAt: Number(row["stored_at"]),
      expiresAt: Number(row["expires_at"]),
      wrap: row["wrap"] as Uint8Array,
      sealed: row["sealed"] as Uint8Array,
    };
  }

  /** Whether there was such a function. */
  remove(id: string): boolean {
    return this.#statements.remove.run(id).changes > 0;
  }

  /** The ids of what ended at or before `now`. */
  expired(now: number): string[] {
    return this.#statements.expired.all(now).map((row) => String(row["id"]));
  }

  /** Removes what ended at or before `now` and returns the ids. */
  expire(now: number): string[] {
    const ids = this.expired(now);
    if (ids.length > 0) this.#statements.expire.run(now);
    return ids;
  }

  /** Runs `change` in one transaction: all of it is on disk when this returns, none of it when it throws. */
  transaction<T>(change: () => T): T {
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      const result = change();
      this.#db.exec("COMMIT");
      return result;
    } catch (error) {
      // SQLite has rolled back by itself after some errors, a full disk among them.
      if (this.#db.isTransaction) this.#db.exec("ROLLBACK");
      throw error;
    }
  }

  /**
   * Runs a removal on a full disk: in the room of the reserve, and without overwriting what is removed, which would
   * need room for all of it. Else a full disk could neither be freed nor an owner's shutdown be obeyed.
   */
  removeWithoutRoom<T>(removal: () => T): T {
    rmSync(this.#reserve, { force: true });
    this.#hasReserve = false;
    this.#db.exec("PRAGMA secure_delete = OFF");
    try {
      return removal();
    } finally {
      this.#db.exec("PRAGMA secure_delete = ON");
    }
  }

  /** Gives freed room back to the disk and empties the log, so that removed rows are not left lying in it. */
  tidy(): void {
    this.#db.exec("PRAGMA incremental_vacuum");
    this.#db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    this.#keepReserve();
  }

  #keepReserve(): void {
    if (this.#hasReserve) return;
    try {
      writeFileSync(this.#reserve, Buffer.alloc(RESERVE_BYTES, 0x55), { mode: 0o600 });
      this.#hasReserve = true;
    } catch {
      // The disk is full now; half a reserve would only take room from what frees it. Tried again at the next tidy.
      rmSync(this.#reserve, { force: true });
    }
  }

  close(): void {
    this.#db.close();
  }
}

/** Whether SQLite failed because there is no room: the file's own limit, the disk, or a quota. */
export function isDiskFull(error: unknown): boolean {
  return resultCode(error) === SQLITE.full;
}

function openDatabase(dir: string, path: string, bytesMax: number): DatabaseSync {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  // Created by us first: SQLite would follow the umask, and gives its log files the mode of this one.
  closeSync(openSync(path, "a", 0o600));
  chmodSync(path, 0o600);
  const db = new DatabaseSync(path);
  try {
    // EXCLUSIVE before WAL: no second process, and the log's index lives in memory instead of a shared file.
    db.exec(
      `PRAGMA locking_mode = EXCLUSIVE; PRAGMA page_size = ${PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL`,
    );
    const mode = db.prepare("PRAGMA journal_mode = WAL").get()?.["journal_mode"];
    if (mode !== "wal") throw new Error(`journal mode is ${String(mode)}, expected wal`);
    db.exec("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF");
    db.exec(`PRAGMA max_page_count = ${Math.max(1, Math.floor(bytesMax / PAGE_BYTES))}`);
    prepareSchema(db);
    const verdict = db.prepare("PRAGMA quick_check(1)").get()?.["quick_check"];
    if (verdict !== "ok") throw new CorruptError(String(verdict));
  } catch (error) {
    db.close();
    throw error;
  }
  const folder = openSync(dir, "r");
  try {
    // The new file's name must survive a power failure too.
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
  return db;
}

function prepareSchema(db: DatabaseSync): void {
  const version = Number(db.prepare("PRAGMA user_version").get()?.["user_version"]);
  if (version === SCHEMA_VERSION) return;
  if (version !== 0) throw new Error(`schema version is ${version}, expected ${SCHEMA_VERSION}`);
  const tables = db.prepare("SELECT count(*) AS count FROM sqlite_schema").get()?.["count"];
  if (tables !== 0) throw new Error("the file belongs to another program");
  db.exec(`BEGIN IMMEDIATE; ${SCHEMA}
    PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${SCHEMA_VERSION}; COMMIT`);
}

class CorruptError extends Error {}

function openError(error: unknown, path: string): BentoError {
  const code = resultCode(error);
  if (error instanceof CorruptError || code === SQLITE.corrupt || code === SQLITE.notADatabase) {
    return new BentoError(
      "store-corrupt",
      `Cannot open function store: ${path} is damaged (${messageOf(error)})`,
      {
        cause: error,
        advice: `Check the disk. Then move ${path} and the files beside it that begin with its name away and start again: the box starts empty, and owners store their functions anew.`,
      },
    );
  }
  if (code === SQLITE.busy) {
    return new BentoError("store-busy", `Cannot open function store: ${path} is in use by another process`, {
      cause: error,
      advice: "Stop the other box, or give this one a data_dir of its own.",
    });
  }
  return new BentoError("store-unusable", `Cannot open function store: ${path}: ${messageOf(error)}`, {
    cause: error,
    advice:
      "Check that the data directory exists, belongs to the box's user and lies on a local disk with room.",
  });
}

/** The primary result code of a SQLite error, undefined of any other. */
function resultCode(error: unknown): number | undefined {
  const code: unknown = error instanceof Error ? Reflect.get(error, "errcode") : undefined;
  return typeof code === "number" ? code & 0xff : undefined;
}
