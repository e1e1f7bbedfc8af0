//! What happens to events when there is no room: they are counted, and the count can be asked of the database.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tabpool_metrics::{FlushError, MetricsStore, Reader, StoreOptions};

use crate::samples::inference;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_full_queue_drops_and_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    // The interval is longer than the test and the batch as large as the queue, whose last place stays free until the
    // flush: the writer does not stir, so the numbers are exact.
    let options = StoreOptions::default().queue_capacity(10).batch(10).interval(Duration::from_secs(3600));
    let store = MetricsStore::open(&path, options).expect("a store");
    let recorder = store.recorder();
    for request in 0..9 {
        recorder.record(inference(request));
    }
    assert_eq!((recorder.stats().recorded, recorder.stats().written, recorder.stats().waiting), (9, 0, 9));
    recorder.flush().wait(PATIENCE).expect("written");
    assert_eq!((recorder.stats().written, recorder.stats().queue_full), (9, 0));

    // A burst from many threads outruns any writer with ten places; what was dropped and what was written is everything.
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let recorder = recorder.clone();
            scope.spawn(move || (0..5000).for_each(|n| recorder.record(inference(100 + thread * 5000 + n))));
        }
    });
    let stats = store.close().expect("closed");
    assert!(stats.queue_full > 0, "{stats:?}");
    assert_eq!(stats.recorded + stats.queue_full, 9 + 20_000);
    assert_eq!(stats.written, stats.recorded);
    recorder.record(inference(1));
    assert_eq!(recorder.stats().queue_full, stats.queue_full + 1, "recording after the end is counted, not a panic");
    assert_eq!(recorder.flush().wait(PATIENCE), Err(FlushError::Closed));

    let reader = Reader::open(&path).expect("a reader");
    let sql = "SELECT (SELECT count(*) FROM inferences), (SELECT sum(queue_full) FROM lost_events)::BIGINT";
    let answer = reader.sql(sql, 1).expect("an answer");
    assert_eq!(serde_json::json!(answer.rows), serde_json::json!([[stats.written, stats.queue_full]]));
}

#[test]
fn events_are_written_without_being_asked_for() {
    let store = MetricsStore::in_memory(StoreOptions::default().interval(Duration::from_millis(20))).expect("a store");
    let recorder = store.recorder();
    recorder.record(inference(1));
    let deadline = Instant::now() + PATIENCE;
    while recorder.stats().written == 0 {
        assert!(Instant::now() < deadline, "{:?}", recorder.stats());
        std::thread::yield_now();
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_flush_can_be_awaited() {
    let options = StoreOptions::default().interval(Duration::from_secs(3600));
    let store = MetricsStore::in_memory(options).expect("a store");
    let recorder = store.recorder();
    recorder.record(inference(1));
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut flush = pin!(recorder.flush());
    let deadline = Instant::now() + PATIENCE;
    let mut result = flush.as_mut().poll(&mut Context::from_waker(&waker));
    while result.is_pending() {
        // Polling again only after the waker was called: a lost wake-up would run into the deadline.
        while !woken.0.swap(false, Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "the waker was never called");
            std::thread::yield_now();
        }
        result = flush.as_mut().poll(&mut Context::from_waker(&waker));
    }
    assert_eq!(result, Poll::Ready(Ok(())));
    assert_eq!(recorder.stats().written, 1);
}

/// Not a bound, a figure to look at with `--nocapture`: timings on shared machines are no ground for failing.
#[test]
fn the_cost_of_recording_is_printed() {
    const EVENTS: u32 = 100_000;
    let store = MetricsStore::in_memory(StoreOptions::default().queue_capacity(200_000)).expect("a store");
    let recorder = store.recorder();
    let event = inference(1);
    let started = Instant::now();
    for _ in 0..EVENTS {
        recorder.record(event.clone());
    }
    let each = started.elapsed() / EVENTS;
    let started = Instant::now();
    recorder.flush().wait(PATIENCE).expect("written");
    let rest = started.elapsed();
    let stats = recorder.stats();
    eprintln!(
        "record: {each:?} each, then {rest:?} until {} events in {} batches were in",
        stats.written, stats.batches
    );
    assert_eq!(stats.written + stats.queue_full, u64::from(EVENTS));
}
