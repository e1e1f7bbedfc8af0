//! What models took in earlier runs comes back, of late and where there was enough of it.

use std::time::Duration;

use tabpool_metrics::{Bucket, Inference, MetricsStore, Outcome, StoreOptions, Timestamp};

use crate::samples::{inference, worker};

fn took(at: i64, browser: &str, batch: u32, micros: u64) -> Inference {
    Inference {
        at: Timestamp::from_micros(Timestamp::now().as_micros() + at),
        worker: worker(browser),
        bucket: Bucket { batch, sequence: 128 },
        compute: Duration::from_micros(micros),
        readback: Duration::from_micros(10),
        ..inference(1)
    }
}

#[test]
fn the_median_of_the_newest_requests_outlives_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    let store = MetricsStore::open(&path, StoreOptions::default()).expect("a store");
    let recorder = store.recorder();
    for at in 0..60 {
        // It became ten times as fast after the first ten.
        recorder.record(took(at, "chromium", 8, if at < 10 { 90_000 } else { 9_000 }));
    }
    recorder.record(took(0, "firefox", 8, 1));
    for at in 0..3 {
        recorder.record(Inference { outcome: Outcome::Cancelled, ..took(at, "firefox", 1, 5) });
        recorder.record(took(at, "native", 1, [100, 1, 50][at as usize]));
    }
    store.close().expect("closed");
    let store = MetricsStore::open(&path, StoreOptions::default()).expect("again");
    let past = store.reader().expect("a reader").past_latencies().expect("latencies");
    let brief: Vec<_> = past.iter().map(|it| (&*it.browser, it.bucket.batch, it.compute.as_micros())).collect();
    assert_eq!(brief, [("chromium", 8, 9_010), ("native", 1, 60)], "one request, and what failed, say nothing");
    assert_eq!((&*past[0].api, &*past[0].precision), ("webgpu", "f32"));
}
