//! Names and messages from outside come back as they were, or visibly cleaned.

use std::sync::Arc;

use proptest::prelude::{any, proptest};
use proptest::test_runner::Config;
use tabpool_metrics::{
    Api, Connection, ConnectionEvent, Decision, DecisionKind, MetricsStore, ModelIdentity, Outcome, Reader,
    StoreOptions, Timestamp,
};

use crate::samples::{inference, model, worker};

/// Writes each text as a model name and as a message and reads both back.
fn there_and_back(texts: &[String]) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    let store = MetricsStore::open(&path, StoreOptions::default()).expect("a store");
    for (request, text) in (0..).zip(texts) {
        let mut event = inference(request);
        event.model = Arc::new(ModelIdentity { name: text.clone(), cid: String::new() });
        event.outcome = Outcome::Failed { code: "odd".into(), message: text.clone() };
        store.recorder().record(event);
    }
    store.close().expect("closed");
    let reader = Reader::open(&path).expect("a reader");
    let answer = reader.sql("SELECT model, message FROM inferences ORDER BY request", 10_000).expect("rows");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    answer.rows.iter().map(|row| (text(&row[0]), text(&row[1]))).collect()
}

#[test]
fn odd_names_come_back() {
    let long = "ä".repeat(5000);
    let odd =
        ["'; DROP TABLE inferences; --", "\"quoted\" `ticks` | pipes", "模型 🦀 e\u{301}", "a\0b", "", "\n\r\t", &long];
    let back = there_and_back(&odd.map(str::to_owned));
    for (there, (name, message)) in odd.iter().zip(&back).take(6) {
        assert_eq!(name, &there.replace('\0', "\u{2400}"));
        assert_eq!(message, name);
    }
    assert_eq!(back[6], ("ä".repeat(256), "ä".repeat(2048)), "names and messages are bounded");
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(8) })]
    #[test]
    fn any_text_comes_back(texts in proptest::collection::vec(any::<String>(), 0..50)) {
        let back = there_and_back(&texts);
        assert_eq!(back.len(), texts.len());
        for (there, (name, _)) in texts.iter().zip(back) {
            let cleaned = there.replace('\0', "\u{2400}");
            assert!(cleaned.starts_with(&name) || name == cleaned, "{there:?} became {name:?}");
            assert!(name.len() >= there.len().min(500), "{there:?} became {name:?}");
        }
    }
}

#[test]
fn every_column_holds_its_own_field() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    let store = MetricsStore::open(&path, StoreOptions::default()).expect("a store");
    let mut event = inference(u64::MAX);
    event.at = Timestamp::from_micros(1_795_465_145_000_001);
    store.recorder().record(event);
    store.recorder().record(Connection {
        at: Timestamp::from_micros(1_795_465_145_000_002),
        worker: worker("firefox"),
        slot: Some(3),
        profile: "fresh".into(),
        event: ConnectionEvent::Joined,
        reason: "asked to".into(),
        pid: Some(4711),
        start_up: Some(std::time::Duration::from_millis(440)),
    });
    store.recorder().record(Decision {
        at: Timestamp::from_micros(1_795_465_145_000_003),
        kind: DecisionKind::Unload,
        worker: worker("firefox"),
        slot: None,
        model: model("minilm"),
        api: Some(Api::WebGpu),
        reason: "room is needed".into(),
    });
    store.close().expect("closed");
    let reader = Reader::open(&path).expect("a reader");
    let row = |table: &str| {
        let answer = reader.sql(&format!("SELECT * FROM {table}"), 1).expect("a row");
        let pairs = answer.columns.into_iter().zip(answer.rows.into_iter().next().expect("one row"));
        serde_json::Value::Object(pairs.collect())
    };
    let expected = serde_json::json!({
        "run": 1, "happened_at": "2026-11-23 20:19:05.000001", "request": u64::MAX, "model": "minilm", "model_cid": "bafymodel",
        "bucket_batch": 8, "bucket_sequence": 128, "batch_used": 7, "tokens": 100, "worker": "w1", "session": "s1",
        "browser": "chromium", "browser_version": "156.0.1", "os": "Linux", "adapter_vendor": "google",
        "adapter_architecture": "swiftshader", "adapter_description": "a device", "api": "webgpu", "precision": "f32",
        "queue_wait_us": 11, "transfer_us": 22, "compute_us": 33, "readback_us": 44, "total_us": 110, "bytes_in": 1001,
        "bytes_out": 1002, "attempts": 2, "outcome": "ok", "error_code": null, "message": null,
    });
    assert_eq!(row("inferences"), expected);
    let expected = serde_json::json!({
        "run": 1, "happened_at": "2026-11-23 20:19:05.000002", "worker": "w1", "session": "s1", "slot": 3, "browser": "firefox",
        "browser_version": "156.0.1", "os": "Linux", "adapter_vendor": "google", "adapter_architecture": "swiftshader",
        "adapter_description": "a device", "profile": "fresh", "event": "joined", "reason": "asked to", "pid": 4711,
        "start_up_us": 440_000,
    });
    assert_eq!(row("connections"), expected);
    let expected = serde_json::json!({
        "run": 1, "happened_at": "2026-11-23 20:19:05.000003", "decision": "unload", "slot": null, "worker": "w1",
        "session": "s1", "browser": "firefox", "browser_version": "156.0.1", "model": "minilm", "api": "webgpu",
        "reason": "room is needed",
    });
    assert_eq!(row("decisions"), expected);
}
