//! The tables of `control.db`, and how those of earlier versions become those of this one.

use rusqlite::Transaction;

pub(super) fn migrate(t: &Transaction<'_>, found: u32) -> rusqlite::Result<()> {
    if found < 1 {
        t.execute_batch(
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
             CREATE TABLE releases (
                 number INTEGER PRIMARY KEY,
                 name TEXT NOT NULL,
                 created_ms INTEGER NOT NULL,
                 old INTEGER,
                 request TEXT NOT NULL,
                 release TEXT,
                 state TEXT NOT NULL,
                 state_since_ms INTEGER NOT NULL,
                 switch_ns INTEGER,
                 rollback_ns INTEGER
             );
             CREATE TABLE events (
                 release INTEGER NOT NULL REFERENCES releases (number),
                 seq INTEGER NOT NULL,
                 at_ms INTEGER NOT NULL,
                 state TEXT NOT NULL,
                 text TEXT NOT NULL,
                 PRIMARY KEY (release, seq)
             ) WITHOUT ROWID;",
        )?;
    }
    if found < 2 {
        // Events get a number over all releases, by which it is remembered who was told of them. Those of before
        // are not told.
        t.execute_batch(
            "ALTER TABLE releases ADD COLUMN rehearsal_ns INTEGER;
             ALTER TABLE events RENAME TO events_1;
             CREATE TABLE events (
                 id INTEGER PRIMARY KEY,
                 release INTEGER NOT NULL REFERENCES releases (number),
                 seq INTEGER NOT NULL,
                 at_ms INTEGER NOT NULL,
                 state TEXT NOT NULL,
                 text TEXT NOT NULL,
                 decision TEXT,
                 UNIQUE (release, seq)
             );
             INSERT INTO events (release, seq, at_ms, state, text)
                 SELECT release, seq, at_ms, state, text FROM events_1 ORDER BY release, seq;
             DROP TABLE events_1;
             INSERT INTO meta (key, value) SELECT 'told', coalesce(max(id), 0) FROM events;
             CREATE TABLE ledger (
                 release INTEGER NOT NULL REFERENCES releases (number),
                 at_ms INTEGER NOT NULL,
                 point TEXT NOT NULL,
                 PRIMARY KEY (release, at_ms)
             ) WITHOUT ROWID;
             CREATE TABLE schemas (
                 store TEXT PRIMARY KEY,
                 version INTEGER NOT NULL,
                 by INTEGER NOT NULL REFERENCES releases (number)
             ) WITHOUT ROWID;",
        )?;
    }
    Ok(())
}
