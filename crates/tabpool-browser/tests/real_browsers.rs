//! Real browsers, started, watched and ended in every way there is.
//!
//! Each case runs on every browser found, the two engine families side by side. A family that is not installed is
//! named and counted as left out. With `TABPOOL_TEST_HOST` set, this program is instead the host that a case kills:
//! it starts one browser and waits for its death.
//!
//! Arguments that are no options select cases by a part of their name, as in other test programs.

#![expect(clippy::print_stdout, reason = "this is a test program with its own main, and its report goes to stdout")]

#[path = "real_browsers/cases.rs"]
mod cases;
#[path = "real_browsers/page.rs"]
mod page;
#[path = "real_browsers/traces.rs"]
mod traces;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tabpool_browser::{BrowserKind, Discovery, Installed, SearchPaths, discover, sweep};

type Outcome = Result<(), Box<dyn Error>>;

/// No case takes longer, a loaded machine included.
const CASE_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if let Some(role) = cases::HostRole::from_env() {
        return match role.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("host: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if std::env::args().any(|argument| argument == "--list") {
        for (name, _) in cases::ALL {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let found = discover(&SearchPaths::from_env());
    for unusable in &found.unusable {
        println!("unusable: {} at {}: {}", unusable.kind, unusable.path.display(), unusable.reason);
    }
    // The families share nothing but the machine, so they run side by side; within one, a case at a time.
    let families = [vec![BrowserKind::Chromium, BrowserKind::Chrome, BrowserKind::Edge], vec![BrowserKind::Firefox]];
    let (mut failed, mut passed, mut left_out) = (0, 0, 0);
    std::thread::scope(|scope| {
        let runs: Vec<_> = families.iter().map(|kinds| scope.spawn(|| run_family(kinds, &found, &filters))).collect();
        for run in runs {
            match run.join() {
                Ok(counts) => {
                    passed += counts.passed;
                    failed += counts.failed;
                    left_out += counts.left_out;
                }
                Err(_) => failed += 1,
            }
        }
    });
    println!("\nreal browsers: {passed} passed, {failed} failed, {left_out} left out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    left_out: usize,
}

fn run_family(kinds: &[BrowserKind], found: &Discovery, filters: &[String]) -> Counts {
    let mut counts = Counts::default();
    let selected: Vec<_> = cases::ALL
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())))
        .collect();
    let Some(browser) = kinds.iter().find_map(|kind| found.of_kind(*kind)) else {
        let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        println!("left out: {} not installed ({} cases)", names.join("/"), selected.len());
        counts.left_out = selected.len();
        return counts;
    };
    for (name, case) in selected {
        let begun = Instant::now();
        match run_case(browser, *case) {
            Ok(()) => {
                counts.passed += 1;
                println!("ok      {} {name} ({:.1} s)", browser.kind, begun.elapsed().as_secs_f64());
            }
            Err(error) => {
                counts.failed += 1;
                println!("FAILED  {} {name}: {error}", browser.kind);
            }
        }
    }
    counts
}

fn run_case(browser: &Installed, case: cases::Case) -> Outcome {
    let begun = Instant::now();
    let profiles = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let scene = cases::Scene { browser, profiles: profiles.path() };
    let outcome = runtime.block_on(async { tokio::time::timeout(CASE_LIMIT, case(scene)).await });
    let outcome = outcome
        .unwrap_or_else(|_| Err(format!("took longer than {CASE_LIMIT:?}").into()))
        // Whatever the case was about, it ends with nothing left.
        .and_then(|()| traces::none_left(profiles.path(), Duration::from_secs(5)));
    if outcome.is_err() {
        // A failed case may have killed a guard on purpose; its browser must not outlive the test all the same.
        while sweep(profiles.path()).in_use > 0 && begun.elapsed() < CASE_LIMIT + Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    outcome
}
