//! Report figures against values worked out by hand, and renderings of hostile names.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tabpool_metrics::{
    Api, Bucket, Connection, ConnectionEvent, Event, Inference, MetricsStore, ModelLoad, Outcome, PoolSample,
    Precision, Report, ReportFilter, StoreOptions, Timestamp, WorkerIdentity,
};

use crate::samples::{inference, model, worker};

/// 2026-11-23 12:00:00 UTC. Rows are kept for a century, so that the date stays good.
const NOON: i64 = 1_795_435_200_000_000;
const DAY: i64 = 86_400_000_000;
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// An answered request that ended `second` seconds after noon and took `total_ms`, of which one waiting.
fn answer(second: f64, total_ms: u64) -> Inference {
    #[expect(clippy::cast_possible_truncation, reason = "tests use small round numbers")]
    let at = Timestamp::from_micros(NOON + (second * 1e6) as i64);
    Inference {
        at,
        queue_wait: Duration::from_millis(1),
        compute: Duration::from_millis(total_ms / 2),
        total: Duration::from_millis(total_ms),
        attempts: 1,
        ..inference(1)
    }
}

fn record(path: &Path, events: impl IntoIterator<Item = Event>) {
    let store = MetricsStore::open(path, StoreOptions::default().keep(CENTURY)).expect("a store");
    events.into_iter().for_each(|event| store.recorder().record(event));
    store.close().expect("closed");
}

fn report(events: impl IntoIterator<Item = Event>) -> Report {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    record(&path, events);
    read(&path, ReportFilter::default())
}

fn read(path: &Path, filter: ReportFilter) -> Report {
    let reader = tabpool_metrics::Reader::open(path).expect("a reader");
    Report::build(&reader, filter).expect("a report")
}

fn near(value: Option<f64>, expected: f64) {
    let value = value.expect("a value");
    assert!((value - expected).abs() < 1e-6, "{value} instead of {expected}");
}

#[test]
fn quantiles_counts_and_throughput_are_right() {
    // 100 answers of 1 to 100 ms, one ending every 10 ms, in an order that has nothing to do with their length.
    let mut events: Vec<Event> =
        (0..100_u32).map(|n| answer(0.01 * f64::from(n), (u64::from(n) * 37) % 100 + 1).into()).collect();
    // Half a minute later, a stretch of its own: one failure of 500 ms and one answer of 50 ms at the second try.
    let failed = Outcome::Failed { code: "lost".into(), message: "the worker went".into() };
    events.push(Inference { outcome: failed, ..answer(30.5, 500) }.into());
    events.push(Inference { attempts: 2, ..answer(31.0, 50) }.into());
    let report = report(events);

    assert_eq!((report.totals.requests, report.totals.ok, report.totals.retried, report.totals.runs), (102, 101, 1, 1));
    assert_eq!(report.totals.first, Some(Timestamp::from_micros(NOON - 55_000)));
    assert_eq!(report.totals.last, Some(Timestamp::from_micros(NOON + 31_000_000)));
    let [group] = report.latency.as_slice() else { panic!("one group: {:?}", report.latency) };
    assert_eq!((group.requests, group.ok, group.retried), (102, 101, 1));
    assert_eq!(group.adapter, "google swiftshader (a device)");
    // The sorted values are 1..=50, 50, 51..=100: 101 of them, so q lies at index 100 q exactly.
    near(group.p50_ms, 50.0);
    near(group.p95_ms, 95.0);
    near(group.p99_ms, 99.0);
    // Compute is half of the total, rounded down: 0, 1, 1, 2, 2, …; index 50 holds 25, index 95 holds 47.
    near(group.compute_p50_ms, 25.0);
    near(group.compute_p95_ms, 47.0);
    near(group.queue_p50_ms, 1.0);
    near(group.batch_mean, 7.0);
    // First stretch: the first request is 1 ms long and ends at noon, but the third (75 ms, ends at 20 ms) starts at
    // -55 ms and the fourth (12 ms, 30 ms) later; the second (38 ms, 10 ms) starts at -28 ms; the sixth (86 ms, 50 ms)
    // at -36 ms; the ninth (97 ms, 80 ms) at -17 ms. So -55 to 990 ms. Second: 30.0 to 31.0 s, the pause being 450 ms.
    near(Some(group.active_s), 1.045 + 1.0);
    near(group.requests_per_s, 101.0 / 2.045);
    near(group.tokens_per_s, 101.0 * 100.0 / 2.045);
}

#[test]
fn browsers_are_compared_in_the_same_bucket_only() {
    let at = |browser: &str, sequence: u32, ms: u64| -> Vec<Event> {
        let one = Inference { worker: worker(browser), bucket: Bucket { batch: 1, sequence }, ..answer(1.0, ms) };
        vec![one.into(); 3]
    };
    let report = report([at("firefox", 128, 41), at("chromium", 128, 101), at("chromium", 256, 301)].concat());
    let found: Vec<_> = report
        .comparison
        .iter()
        .map(|row| (row.browser.as_str(), row.bucket_sequence, row.service_p50_ms, row.times_fastest))
        .collect();
    assert_eq!(found, [("firefox", 128, 40.0, Some(1.0)), ("chromium", 128, 100.0, Some(2.5))]);
}

#[test]
fn a_slower_run_is_called_slower_and_noise_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    // Per run: chromium at the given times, firefox with a wide spread around a median that moves as much.
    let run = |chromium: u64, firefox: u64, version: &str| -> Vec<Event> {
        let identity = Arc::new(WorkerIdentity { browser_version: version.into(), ..(*worker("chromium")).clone() });
        (0..40)
            .flat_map(|n| {
                let tight = Inference { worker: Arc::clone(&identity), ..answer(1.0, chromium + n % 3) };
                let wide = Inference { worker: worker("firefox"), ..answer(1.0, firefox + 5 * n) };
                [Event::from(tight), wide.into()]
            })
            .collect()
    };
    record(&path, run(10, 10, "155"));
    // Too few to count: the comparison is with the run before.
    record(&path, run(500, 500, "155").into_iter().take(20));
    record(&path, run(20, 60, "156"));
    let report = read(&path, ReportFilter::default());
    let found: Vec<_> = report
        .regressions
        .iter()
        .map(|row| {
            (row.verdict.as_str(), row.browser.as_str(), row.old_run, row.new_run, row.old_median_ms, row.new_median_ms)
        })
        .collect();
    // Service time is the total less one millisecond of waiting; chromium's median is its base plus one.
    assert_eq!(found, [("slower", "chromium", 1, 3, 10.0, 20.0), ("unchanged", "firefox", 1, 3, 106.5, 156.5)]);
    assert_eq!(
        (report.regressions[0].old_version.as_str(), report.regressions[0].new_version.as_str()),
        ("155", "156")
    );
    let backwards = read(&path, ReportFilter { run: Some(1), ..ReportFilter::default() });
    assert!(backwards.regressions.is_empty() && backwards.totals.requests == 80, "{:?}", backwards.totals);
}

#[test]
fn loads_connections_days_and_samples_add_up() {
    let load = |fetched: u64, cached: u64, total_ms: u64| ModelLoad {
        at: Timestamp::from_micros(NOON),
        model: model("minilm"),
        worker: worker("chromium"),
        api: Api::WebGpu,
        precision: Precision::F32,
        bytes_fetched: fetched,
        bytes_cached: cached,
        blocks_fetched: u32::from(fetched > 0),
        blocks_cached: u32::from(cached > 0),
        fetch: Duration::from_millis(10),
        compile: Duration::from_millis(20),
        upload: Duration::from_millis(30),
        total: Duration::from_millis(total_ms),
        outcome: Outcome::Ok,
    };
    let step = |event: ConnectionEvent, start_up: Option<u64>| Connection {
        at: Timestamp::from_micros(NOON),
        worker: worker("firefox"),
        slot: None,
        profile: String::new(),
        event,
        reason: String::new(),
        pid: None,
        start_up: start_up.map(Duration::from_millis),
    };
    let sample = |queue: u32, busy: u32| PoolSample {
        at: Timestamp::from_micros(NOON),
        workers_busy: busy,
        workers_idle: 1,
        queue_length: queue,
        ..PoolSample::default()
    };
    let tomorrow = Inference { at: Timestamp::from_micros(NOON + DAY), ..answer(0.0, 30) };
    let steps = [
        step(ConnectionEvent::Launched, None),
        step(ConnectionEvent::Joined, Some(400)),
        step(ConnectionEvent::Lost, None),
        step(ConnectionEvent::Restarting, None),
        step(ConnectionEvent::Joined, Some(800)),
    ];
    let mut events: Vec<Event> = vec![
        load(90_000_000, 0, 900).into(),
        load(0, 90_000_000, 100).into(),
        sample(5, 2).into(),
        sample(9, 1).into(),
        answer(0.0, 10).into(),
        tomorrow.into(),
    ];
    events.extend(steps.map(Event::from));
    let report = report(events);

    let loads = &report.loads[0];
    assert_eq!(loads.precision, "f32");
    assert_eq!((loads.loads, loads.bytes_fetched, loads.bytes_cached), (2, 90_000_000, 90_000_000));
    assert_eq!((loads.blocks_fetched, loads.blocks_cached, loads.total_p50_ms), (1, 1, Some(500.0)));
    let browser = &report.connections[0];
    assert_eq!((browser.launched, browser.joined, browser.lost, browser.restarting, browser.closed), (1, 2, 1, 1, 0));
    assert_eq!(browser.start_up_p50_ms, Some(600.0));
    let days: Vec<_> = report.trend.iter().map(|day| (day.day.as_str(), day.p50_ms)).collect();
    assert_eq!(days, [("2026-11-23", Some(10.0)), ("2026-11-24", Some(30.0))]);
    assert_eq!((report.pool.samples, report.pool.queue_length, report.pool.workers), (2, Some(9), Some(3)));
}

#[test]
fn the_filter_chooses() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.duckdb");
    let mut on_cpu = answer(2.0, 5);
    on_cpu.api = Api::Cpu;
    on_cpu.model = model("whisper");
    on_cpu.worker = worker("native");
    record(&path, [answer(0.0, 5).into(), answer(1.0, 5).into(), on_cpu.into()]);
    let count = |filter: ReportFilter| read(&path, filter).totals.requests;
    let none = ReportFilter::default;
    assert_eq!(count(none()), 3);
    assert_eq!(count(ReportFilter { since: Some(Timestamp::from_micros(NOON + 1_000_000)), ..none() }), 2);
    assert_eq!(count(ReportFilter { until: Some(Timestamp::from_micros(NOON + 1_000_000)), ..none() }), 1);
    assert_eq!(count(ReportFilter { browser: Some("native".into()), ..none() }), 1);
    assert_eq!(count(ReportFilter { model: Some("minilm".into()), ..none() }), 2);
    assert_eq!(count(ReportFilter { api: Some(Api::Cpu), ..none() }), 1);
    assert_eq!(count(ReportFilter { run: Some(2), ..none() }), 0);
}

#[test]
fn a_running_store_reports_on_itself() {
    let store = MetricsStore::in_memory(StoreOptions::default()).expect("a store");
    let reader = store.reader().expect("a reader");
    let empty = Report::build(&reader, ReportFilter::default()).expect("an empty report");
    assert_eq!(empty.render_text(80), "No inference was recorded.\n");
    store.recorder().record(inference(1));
    store.recorder().flush().wait(Duration::from_secs(30)).expect("written");
    assert_eq!(Report::build(&reader, ReportFilter::default()).expect("a report").totals.requests, 1);
    assert!(reader.sql("SELECT 1", 1).is_err(), "no SQL of one's own where DuckDB would not refuse to write");
}

#[test]
fn hostile_names_stay_names() {
    let name = "<script>alert('1')</script> | *b* [x](http://y) \u{1b}[31m\u{202e}\n# h `c`";
    let mut event = answer(0.0, 5);
    event.model = model(name);
    let mut tomorrow = event.clone();
    tomorrow.at = Timestamp::from_micros(NOON + DAY);
    let report = report([event.into(), tomorrow.into()]);

    let html = report.render_html();
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;alert(&#39;1&#39;)"), "{html}");
    assert!(html.contains("<svg") && html.contains("<polyline"), "there are charts");
    let markdown = report.render_markdown();
    let escaped = "&lt;script&gt;alert('1')&lt;/script&gt; \\| \\*b\\* \\[x\\](http&#58;//y)";
    assert!(markdown.contains(escaped) && !markdown.contains("\n# h"), "{markdown}");
    for rendered in [&html, &markdown, &report.render_text(500)] {
        assert!(!rendered.contains(['\u{1b}', '\u{202e}']), "{rendered}");
        assert!(rendered.contains("u{1b}") || rendered.contains("u\\{1b\\}"), "{rendered}");
    }
    // Every row of a Markdown table has as many unescaped bars as its head.
    let bars = |line: &str| line.replace("\\|", "").matches('|').count();
    let table: Vec<&str> = markdown.lines().skip_while(|line| !line.starts_with('|')).take(3).collect();
    assert_eq!((bars(table[0]), bars(table[0])), (bars(table[1]), bars(table[2])));
    assert_eq!(report.to_json()["latency"][0]["model"], name);
}

#[test]
fn text_fits_its_width_by_shortening_names() {
    let mut event = answer(0.0, 5);
    event.model = model("a-model-with-a-rather-long-name-of-sixty-characters-in-length");
    let report = report([Event::from(event)]);
    let wide = report.render_text(400);
    assert!(wide.contains("of-sixty-characters-in-length"), "{wide}");
    let narrow = report.render_text(120);
    let longest = narrow.lines().map(|line| line.chars().count()).max();
    assert!(longest.is_some_and(|longest| longest <= 120), "{longest:?}\n{narrow}");
    assert!(narrow.contains("5.00") && narrow.contains('…'), "{narrow}");
}

#[test]
fn absurd_figures_from_a_worker_do_not_spoil_the_report() {
    let absurd = |at: i64| Inference {
        at: Timestamp::from_micros(at),
        tokens: u32::MAX,
        queue_wait: Duration::MAX,
        transfer: Duration::MAX,
        compute: Duration::MAX,
        readback: Duration::MAX,
        total: Duration::MAX,
        bytes_in: u64::MAX,
        bytes_out: u64::MAX,
        attempts: u32::MAX,
        ..answer(0.0, 5)
    };
    let load = || ModelLoad {
        at: Timestamp::from_micros(i64::MAX),
        model: model("minilm"),
        worker: worker("chromium"),
        api: Api::Cpu,
        precision: Precision::Int8,
        bytes_fetched: u64::MAX,
        bytes_cached: u64::MAX,
        blocks_fetched: u32::MAX,
        blocks_cached: u32::MAX,
        fetch: Duration::MAX,
        compile: Duration::MAX,
        upload: Duration::MAX,
        total: Duration::MAX,
        outcome: Outcome::TimedOut,
    };
    let events = [absurd(i64::MAX).into(), absurd(NOON).into(), load().into(), load().into(), answer(0.0, 5).into()];
    let report = report(events);
    assert_eq!((report.totals.requests, report.loads[0].bytes_fetched), (3, i64::MAX));
    assert!(report.render_html().len() > 1000 && report.render_text(80).contains("9999-12-31"));
}
