//! SQL migrations: numbered files, each applied once, in a transaction, and remembered with its checksum.
//!
//! A file is never edited once released; a change is a new file. The checksum makes a breach of that rule an error at
//! opening instead of a puzzle in a query. Versions count from 1 without gaps.

use std::path::Path;

use duckdb::{Connection, params};
use sha2::{Digest, Sha256};

use crate::database::{Access, in_our_words};
use crate::error::OpenError;

/// One numbered file.
pub(crate) struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "initial", sql: include_str!("../migrations/0001_initial.sql") },
    Migration { version: 2, name: "kernel_timings", sql: include_str!("../migrations/0002_kernel_timings.sql") },
    Migration { version: 3, name: "load_precision", sql: include_str!("../migrations/0003_load_precision.sql") },
    Migration { version: 4, name: "decisions", sql: include_str!("../migrations/0004_decisions.sql") },
];

/// Brings the database up to date (writing) or makes sure that it is (reading).
pub(crate) fn migrate(connection: &mut Connection, path: &Path, access: Access) -> Result<(), OpenError> {
    apply(connection, path, access, MIGRATIONS)
}

fn apply(connection: &mut Connection, path: &Path, access: Access, migrations: &[Migration]) -> Result<(), OpenError> {
    let database = |error| in_our_words(path, error);
    let known = migrations.last().map_or(0, |migration| migration.version);
    let applied = applied(connection, path)?;
    let found = applied.last().map_or(0, |(version, ..)| *version);
    if found > known {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found, known });
    }
    for (version, name, checksum) in applied {
        let ours = migrations.iter().find(|migration| migration.version == version);
        if ours.is_none_or(|migration| fingerprint(migration.sql) != checksum) {
            return Err(OpenError::ChangedMigration { path: path.to_owned(), version, name });
        }
    }
    if found == known {
        return Ok(());
    }
    if access == Access::Read {
        return Err(OpenError::OlderSchema { path: path.to_owned(), found, known });
    }
    for migration in migrations.iter().filter(|migration| migration.version > found) {
        run(connection, migration).map_err(|source| OpenError::Migration {
            path: path.to_owned(),
            version: migration.version,
            name: migration.name,
            source: Box::new(source),
        })?;
    }
    // A new schema goes to the file itself at once, so that a crash replays rows and never definitions.
    connection.execute_batch("CHECKPOINT").map_err(database)
}

fn run(connection: &mut Connection, migration: &Migration) -> duckdb::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             version BIGINT PRIMARY KEY, name VARCHAR NOT NULL, checksum VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL)",
    )?;
    transaction.execute_batch(migration.sql)?;
    transaction.execute(
        "INSERT INTO schema_migrations VALUES (?, ?, ?, now()::TIMESTAMP)",
        params![migration.version, migration.name, fingerprint(migration.sql)],
    )?;
    transaction.commit()
}

/// The migrations the file went through, oldest first.
fn applied(connection: &Connection, path: &Path) -> Result<Vec<(i64, String, String)>, OpenError> {
    let database = |error| in_our_words(path, error);
    let tables: Vec<String> = connection
        .prepare("SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY table_name LIMIT 1000")
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .map_err(database)?;
    if !tables.iter().any(|table| table == "schema_migrations") {
        return match tables.into_iter().next() {
            None => Ok(Vec::new()),
            Some(table) => Err(OpenError::Foreign { path: path.to_owned(), table }),
        };
    }
    connection
        .prepare("SELECT version, name, checksum FROM schema_migrations ORDER BY version")
        .and_then(|mut statement| statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect())
        .map_err(database)
}

fn fingerprint(sql: &str) -> String {
    use std::fmt::Write;
    Sha256::digest(sql).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Database;

    const FIRST: Migration = Migration { version: 1, name: "first", sql: "CREATE TABLE a (x BIGINT)" };
    const SECOND: Migration = Migration { version: 2, name: "second", sql: "ALTER TABLE a ADD COLUMN y VARCHAR" };

    fn path() -> &'static Path {
        Path::new("test.duckdb")
    }

    fn memory() -> Connection {
        Database::in_memory().expect("a database in memory").connection
    }

    #[test]
    fn a_newer_program_migrates_and_an_older_one_refuses() {
        let mut db = memory();
        apply(&mut db, path(), Access::Write, &[FIRST]).expect("from empty");
        apply(&mut db, path(), Access::Write, &[FIRST]).expect("again");
        let reading = apply(&mut db, path(), Access::Read, &[FIRST, SECOND]);
        assert!(matches!(reading, Err(OpenError::OlderSchema { found: 1, known: 2, .. })), "{reading:?}");
        apply(&mut db, path(), Access::Write, &[FIRST, SECOND]).expect("one more");
        db.execute_batch("INSERT INTO a VALUES (1, 'there')").expect("the second migration's column");
        let older = apply(&mut db, path(), Access::Write, &[FIRST]);
        assert!(matches!(older, Err(OpenError::NewerSchema { found: 2, known: 1, .. })), "{older:?}");
    }

    #[test]
    fn a_failed_migration_leaves_the_file_as_it_was() {
        let mut db = memory();
        apply(&mut db, path(), Access::Write, &[FIRST]).expect("from empty");
        let broken = Migration { version: 2, name: "broken", sql: "CREATE TABLE b (x BIGINT); SELECT nonsense" };
        let failed = apply(&mut db, path(), Access::Write, &[FIRST, broken]);
        assert!(matches!(failed, Err(OpenError::Migration { version: 2, .. })), "{failed:?}");
        let left: i64 = db
            .query_row("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'b'", [], |row| row.get(0))
            .expect("a count");
        assert_eq!(left, 0, "the half that worked was rolled back");
        apply(&mut db, path(), Access::Write, &[FIRST, SECOND]).expect("the right one still applies");
    }

    #[test]
    fn an_edited_migration_is_noticed() {
        let mut db = memory();
        apply(&mut db, path(), Access::Write, &[FIRST]).expect("from empty");
        let edited = Migration { sql: "CREATE TABLE a (x INTEGER)", ..FIRST };
        let refused = apply(&mut db, path(), Access::Write, &[edited]);
        assert!(matches!(refused, Err(OpenError::ChangedMigration { version: 1, .. })), "{refused:?}");
    }

    #[test]
    fn a_database_of_something_else_is_refused() {
        let mut db = memory();
        db.execute_batch("CREATE TABLE holidays (d DATE)").expect("a foreign table");
        let refused = apply(&mut db, path(), Access::Write, &[FIRST]);
        assert!(matches!(refused, Err(OpenError::Foreign { .. })), "{refused:?}");
    }

    #[test]
    fn versions_count_from_one_without_gaps() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(usize::try_from(migration.version), Ok(index + 1));
        }
    }
}
