//! A process that records steadily is killed. The file must open, and only the last second may be missing.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use tabpool_metrics::{MetricsStore, Reader, StoreOptions, Timestamp};

use crate::samples::inference;

const FILE: &str = "TABPOOL_METRICS_CRASH_FILE";

/// Records an event about every millisecond until somebody kills the process, and says so after each.
fn record_until_killed(path: &str) -> ! {
    use std::io::Write;
    let store = MetricsStore::open(path, StoreOptions::default()).expect("the child opens the store");
    let recorder = store.recorder();
    let mut out = std::io::stderr();
    for request in 0.. {
        let event = inference(request);
        let at = event.at.as_micros();
        recorder.record(event);
        writeln!(out, "recorded {request} {at}").expect("the parent listens");
        std::thread::sleep(Duration::from_millis(1));
    }
    unreachable!("the loop has no end")
}

#[test]
fn a_killed_process_loses_at_most_its_last_second() {
    if let Ok(path) = std::env::var(FILE) {
        record_until_killed(&path);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "crash::a_killed_process_loses_at_most_its_last_second", "--nocapture"])
        .env(FILE, &path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the child");
    let mut acknowledged: Vec<(u64, i64)> = Vec::new();
    for line in BufReader::new(child.stderr.take().expect("its output")).lines() {
        let line = line.expect("a line");
        let mut words = line.split(' ');
        if words.next() != Some("recorded") {
            continue;
        }
        let mut number = || words.next().and_then(|word| word.parse::<i64>().ok()).expect("a number");
        let (request, at) = (number(), number());
        acknowledged.push((request.unsigned_abs(), at));
        if at - acknowledged[0].1 > 2_500_000 {
            break;
        }
    }
    let killed = Timestamp::now().as_micros();
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");

    let due = acknowledged.iter().filter(|(_, at)| *at < killed - 1_000_000).count();
    assert!(due > 200, "the child recorded for more than a second: {due}");
    assert!(path.with_extension("duckdb.wal").exists(), "the kill left a log to replay");
    // Reading comes first: it must replay the log without being allowed to write the file.
    for _ in 0..2 {
        let reader = Reader::open(&path).expect("the file opens for reading");
        let sql = "SELECT count(*), max(request) + 1, count(DISTINCT request) FROM inferences";
        let answer = reader.sql(sql, 1).expect("a count");
        let number = |column: usize| answer.rows[0][column].as_u64().expect("a number");
        assert!(number(0) >= due as u64, "{} events of {due} due are there", number(0));
        assert_eq!((number(0), number(0)), (number(1), number(2)), "no gap and none twice");
        eprintln!("{} of {} events survived, {due} were due", number(0), acknowledged.len());
    }
    let store = MetricsStore::open(&path, StoreOptions::default()).expect("and for writing");
    assert_eq!(store.run(), 2);
    store.close().expect("an orderly end");
    let reader = Reader::open(&path).expect("after the orderly end");
    let answer = reader.sql("SELECT run, ended_at IS NULL FROM runs ORDER BY run", 9).expect("the runs");
    assert_eq!(serde_json::json!(answer.rows), serde_json::json!([[1, true], [2, false]]));
}
