//! Files that are not there, not ours, in use, or damaged.

use std::path::Path;
use std::process::{Command, Stdio};

use tabpool_metrics::{MetricsStore, OpenError, Reader, StoreOptions};

use crate::samples::inference;

const FILE: &str = "TABPOOL_METRICS_LOCKED_FILE";

fn open(path: &Path) -> Result<MetricsStore, OpenError> {
    MetricsStore::open(path, StoreOptions::default())
}

/// Shows how two attempts to open end, in one line.
fn describe(path: &Path) -> String {
    let one = |error: Option<OpenError>| match error {
        None => "opened".to_owned(),
        Some(OpenError::Locked { holder, .. }) => format!("locked by {}", holder.unwrap_or_default()),
        Some(other) => format!("{other:?}"),
    };
    format!("{} / {}", one(open(path).err()), one(Reader::open(path).err()))
}

#[test]
fn a_file_in_use_is_refused_in_this_process_and_in_others() {
    if let Ok(path) = std::env::var(FILE) {
        eprintln!("found: {}", describe(Path::new(&path)));
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data/metrics.duckdb");
    let elsewhere = || {
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "opening::a_file_in_use_is_refused_in_this_process_and_in_others", "--nocapture"])
            .env(FILE, &path)
            .stdout(Stdio::null())
            .output()
            .expect("a second process");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = text.lines().find_map(|line| line.strip_prefix("found: "));
        found.map(str::to_owned).unwrap_or(text)
    };
    let me = format!("(process {})", std::process::id());

    let store = open(&path).expect("the folder is made and the store opens");
    // Twice, and here before there: an attempt to open must not loosen the lock that it ran into.
    for _ in 0..2 {
        for found in [describe(&path), elsewhere()] {
            assert_eq!(found.matches("locked by").count(), 2, "{found}");
            assert_eq!(found.matches(&me).count(), 2, "{found}");
        }
    }
    // Without the lock file DuckDB's own lock still keeps other processes out, and names the holder too.
    #[cfg(unix)]
    {
        std::fs::remove_file(path.with_extension("duckdb.lock")).expect("the lock file");
        let found = elsewhere();
        assert_eq!((found.matches("locked by").count(), found.matches(&me).count()), (2, 2), "{found}");
        drop(store);
    }
    #[cfg(unix)]
    let store = open(&path).expect("a store with a new lock file");
    // A reader of the running store outlives it and still keeps others from writing.
    let reader = store.reader().expect("a reader");
    let runs = store.run();
    store.close().expect("closed");
    assert!(elsewhere().starts_with("locked by"), "{}", elsewhere());
    drop(reader);
    assert_eq!(elsewhere(), "opened / opened");

    let reader = Reader::open(&path).expect("a reader of the file");
    for found in [describe(&path), elsewhere()] {
        assert_eq!(found, "locked by a reader / opened");
    }
    drop(reader);
    assert_eq!(open(&path).expect("free again").run(), runs + 2, "this one and the second process's");
}

#[test]
fn what_is_locked_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    let _store = open(&path).expect("a store");
    let error = Reader::open(&path).err().expect("locked");
    assert!(error.to_string().contains("metrics.duckdb is in use by"), "{error}");
    assert_eq!(error.hint(), Some("a pool is running; ask it over HTTP or stop it"));
}

#[test]
fn opening_again_keeps_the_rows_and_counts_the_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    for run in 1..=3 {
        let store = open(&path).expect("a store");
        assert_eq!(store.run(), run);
        store.recorder().record(inference(7));
        assert_eq!(store.close().expect("closed").written, 1);
    }
    let reader = Reader::open(&path).expect("a reader");
    let answer = reader.sql("SELECT run, count(*) FROM inferences GROUP BY run ORDER BY run", 9).expect("rows");
    assert_eq!(serde_json::json!(answer.rows), serde_json::json!([[1, 1], [2, 1], [3, 1]]));
    let answer = reader.sql("SELECT * FROM range(10)", 4).expect("rows");
    assert_eq!((answer.rows.len(), answer.more), (4, true));
    assert!(reader.sql("DELETE FROM inferences", 1).is_err(), "a reader cannot change the file");
    assert!(reader.sql("COPY inferences TO '/tmp/tabpool-out.csv'", 1).is_err(), "nor reach another");
}

#[test]
fn old_rows_are_removed_at_opening() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    let store = open(&path).expect("a store");
    let mut old = inference(1);
    old.at = old.at.minus(std::time::Duration::from_secs(3600));
    store.recorder().record(old);
    store.recorder().record(inference(2));
    store.close().expect("closed");
    let options = StoreOptions::default().keep(std::time::Duration::from_secs(1800));
    MetricsStore::open(&path, options).expect("again").close().expect("closed");
    let answer = Reader::open(&path).expect("a reader").sql("SELECT request FROM inferences", 9).expect("rows");
    assert_eq!(serde_json::json!(answer.rows), serde_json::json!([[2]]));
}

#[test]
fn files_that_cannot_be_used_are_named_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    assert!(matches!(Reader::open(&path), Err(OpenError::Missing { .. })));

    let store = open(&path).expect("a store");
    (0..5000).for_each(|request| store.recorder().record(inference(request)));
    store.close().expect("closed");
    let whole = std::fs::read(&path).expect("the file");

    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[12..middle].iter_mut().for_each(|byte| *byte ^= 0x55);
    let cases: [(&str, &[u8]); 4] = [
        ("text", b"this is no database but a letter to a friend, long enough to look like one"),
        ("empty", b""),
        ("cut", &whole[..whole.len() / 2]),
        ("flipped", &flipped),
    ];
    for (name, bytes) in cases {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a bad file");
        for error in [open(&path).err(), Reader::open(&path).err()] {
            match (name, error) {
                ("text" | "empty", Some(OpenError::NotADatabase { .. })) => {}
                ("cut" | "flipped", Some(OpenError::Damaged { .. })) => {}
                (_, other) => panic!("{name}: {other:?}"),
            }
        }
        assert_eq!(std::fs::read(&path).expect("the file"), bytes, "{name} was changed");
    }
}

#[test]
fn handles_may_be_sent_to_other_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<MetricsStore>();
    shared::<tabpool_metrics::Recorder>();
    sent::<Reader>();
    sent::<tabpool_metrics::Flush>();
}
