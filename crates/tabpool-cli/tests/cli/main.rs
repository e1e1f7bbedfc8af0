//! The program as a person and a script meet it: arguments, exit codes, what goes to which stream, on real models and
//! the native worker. What needs a browser is in the end-to-end suites.

mod embedding;
mod generating;
mod hub;
mod inviting;
mod library;
mod media;
mod program;
mod running;

use program::Program;

#[test]
fn wrong_arguments_end_with_two_and_a_usage_line() {
    let program = Program::new();
    for arguments in [
        &["frobnicate"][..],
        &[],
        &["models"],
        &["models", "rm"],
        &["embed", "model"],
        &["embed", "model", "text", "--image", "x.png"],
        &["classify", "model"],
        &["classify", "model", "x.png", "--text", "text"],
        &["classify", "model", "x.png", "--template", "a {}"],
        &["similarity", "model", "text"],
        &["rerank", "model", "query"],
        &["transcribe", "model"],
        &["transcribe", "model", "x.wav", "--format", "pdf"],
        &["run", "model", "--input", "x"],
        &["run", "model", "--input", "x", "--output", "y", "--on", "netscape:webgpu"],
        &["report", "--since", "yesterday"],
        &["invite", "--valid-for", "soon"],
        &["invite", "--tabs", "0"],
        &["invite", "--name", "pool.example"],
        &["invite", "--listen", "127.0.0.2:0", "--certificate", "x.pem"],
        &["demo", "--rounds", "0"],
    ] {
        let said = program.run(arguments).ended_with(2);
        assert!(
            said.error.contains("Usage: tabpool") || said.error.contains("--help"),
            "{arguments:?}: {}",
            said.error
        );
        assert_eq!(said.output, "", "{arguments:?}");
    }
    assert!(!program.data().exists(), "nothing was touched");
    program.run(&["--help"]).ended_with(0);
    assert!(program.run(&["--version"]).ended_with(0).output.starts_with("tabpool "));
}

#[test]
fn doctor_tells_of_this_machine_without_starting_anything() {
    let program = Program::new();
    let said = program.run(&["doctor", "--no-launch", "--json"]).ended_with(0);
    let json = said.json();
    assert!(json["machine"]["duckdb"].as_str().is_some_and(|version| version.starts_with('v')), "{json}");
    assert!(json["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{json}");
    assert!(json["browsers"].is_array() && json["workers"].is_null(), "{json}");
    assert_eq!(said.error, "", "nothing on standard error when piped");
    let said = program.run(&["doctor", "--no-launch"]).ended_with(0);
    assert!(said.output.contains("Machine\n") && !said.output.contains('\u{1b}'), "{}", said.output);
}

#[test]
fn a_report_without_measurements_and_one_while_a_pool_runs_say_why_there_is_none() {
    let program = Program::new();
    program.run(&["report"]).refused_with("metrics.duckdb", "once a pool has run");
    std::fs::create_dir_all(program.data()).expect("made");
    let file = program.data().join("metrics.duckdb");
    let store = tabpool_metrics::MetricsStore::open(&file, tabpool_metrics::StoreOptions::default()).expect("opens");
    program.run(&["report"]).refused_with("in use by", "a pool is running");
    store.close().expect("closes");
    let said = program.run(&["report", "--format", "json"]).ended_with(0);
    assert_eq!(said.json()["totals"]["requests"], 0);
    assert!(program.run(&["report", "--format", "html"]).ended_with(0).output.contains("<html"));
}
