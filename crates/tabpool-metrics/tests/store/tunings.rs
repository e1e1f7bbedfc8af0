//! Tunings that were recorded come back, the newest of each class on each device.

use std::time::Duration;

use tabpool_metrics::{Api, KernelTuning, MetricsStore, StoreOptions, Timestamp, TuningInForce};

use crate::samples::worker;

const PATIENCE: Duration = Duration::from_secs(30);

fn tuning(browser: &str, at: i64, class: &str, winner: &str, timings: &[(&str, Option<u64>)]) -> KernelTuning {
    let timings = timings.iter().map(|(v, ns)| ((*v).to_owned(), ns.map(Duration::from_nanos))).collect();
    KernelTuning {
        at: Timestamp::from_micros(Timestamp::now().as_micros() + at),
        worker: worker(browser),
        api: Api::WebGpu,
        class: class.to_owned(),
        winner: winner.to_owned(),
        timings,
    }
}

fn in_force(store: &MetricsStore) -> Vec<TuningInForce> {
    store.recorder().flush().wait(PATIENCE).expect("written");
    store.reader().expect("a reader").tunings().expect("tunings")
}

#[test]
fn the_newest_tuning_of_a_class_is_in_force_on_its_device_alone() {
    let store = MetricsStore::in_memory(StoreOptions::default()).expect("a store");
    assert_eq!(in_force(&store), []);
    let recorder = store.recorder();
    recorder.record(tuning("chromium", 0, "gemm m128", "wide", &[("wide", Some(5)), ("tall", Some(9))]));
    recorder.record(tuning("firefox", 1, "gemm m128", "tall", &[("wide", Some(5)), ("tall", Some(3))]));
    recorder.record(tuning("chromium", 2, "gemm m8", "row", &[]));
    recorder.record(tuning("chromium", 9, "gemm m128", "tall", &[("bad", None), ("wide", Some(8)), ("tall", Some(2))]));
    let found = in_force(&store);
    let brief: Vec<_> = found.iter().map(|t| (&*t.key.browser, &*t.class, &*t.variant)).collect();
    let expected =
        [("chromium", "gemm m128", "tall"), ("chromium", "gemm m8", "row"), ("firefox", "gemm m128", "tall")];
    assert_eq!(brief, expected);
    let ns = |n| Some(Duration::from_nanos(n));
    let timings = [("tall".to_owned(), ns(2)), ("wide".to_owned(), ns(8)), ("bad".to_owned(), None)];
    assert_eq!(found[0].timings, timings, "fastest first, failures last");
    assert_eq!(found[1].timings, [("row".to_owned(), None)]);
    assert_eq!((found[0].key.api(), &*found[0].key.adapter.description), (Some(Api::WebGpu), "a device"));
}

#[test]
fn tunings_outlive_the_run_that_measured_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    let store = MetricsStore::open(&path, StoreOptions::default()).expect("a store");
    store.recorder().record(tuning("chromium", 0, "gemm m128", "wide", &[("wide", Some(5))]));
    store.close().expect("closed");
    let store = MetricsStore::open(&path, StoreOptions::default()).expect("again");
    assert_eq!(in_force(&store)[0].variant, "wide");
}
