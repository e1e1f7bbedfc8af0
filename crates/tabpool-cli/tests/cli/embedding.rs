//! `tabpool embed` on the native worker: order, streams, interruptions.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Command;
use std::time::Duration;

use crate::program::{Program, ended_within, fixture};

const TEXTS: [&str; 3] = ["A man is eating food.", "Tomorrow.", "The girl is carrying a baby, and sings."];

fn embeddings(output: &str) -> Vec<(String, Vec<f64>)> {
    let line = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let numbers = json["embedding"].as_array().expect("a list").iter().map(|one| one.as_f64().expect("a number"));
        (json["text"].as_str().expect("text").to_owned(), numbers.collect())
    };
    output.lines().map(line).collect()
}

#[test]
fn texts_are_embedded_in_their_order_from_arguments_and_from_lines() {
    let program = Program::new();
    let model = fixture("bert");
    let arguments = [&["embed", &model, "--on", "native:cpu", "--"], &TEXTS[..]].concat();
    let said = program.run(&arguments).ended_with(0);
    assert_eq!(said.error, "", "no noise when piped");
    let from_arguments = embeddings(&said.output);
    assert_eq!(from_arguments.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), TEXTS);
    assert!(from_arguments.iter().all(|(_, embedding)| embedding.len() == 64));

    // Many lines: more than one group, and every one where it belongs.
    let lines: Vec<String> = (0..300).map(|number| format!("{} {number}", TEXTS[number % 3])).collect();
    let input = format!("{}\n", lines.join("\n"));
    let said =
        program.run_with_input(&["embed", &model, "-", "--on", "native:cpu", "--json"], input.as_bytes()).ended_with(0);
    let from_lines = embeddings(&said.output);
    assert_eq!(from_lines.iter().map(|(text, _)| text).collect::<Vec<_>>(), lines.iter().collect::<Vec<_>>());

    let one = program.run_with_input(&["embed", &model, "-", "--on", "native:cpu"], TEXTS[1].as_bytes()).ended_with(0);
    let one = embeddings(&one.output);
    let worst = one[0].1.iter().zip(&from_arguments[1].1).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-5, "alone and among others a text gives the same: {worst}");
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let program = Program::new();
    program.run(&["embed", "nothing", "text"]).refused_with("there is no model \"nothing\"", "models add");
    program.run(&["embed", "hf:org/name", "text"]).refused_with("hf:org/name", "tabpool models add hf:org/name");
    program.run(&["embed", &fixture("bert_odd"), "text"]).refused_with("holds neither tokenizer.json", "tokenizer");
    let bad =
        program.run_with_input(&["embed", &fixture("bert"), "-", "--on", "native:cpu"], b"good\n\xff\n").ended_with(1);
    assert!(bad.error.contains("error: line 2 of standard input is not UTF-8"), "{}", bad.error);
    assert_eq!(embeddings(&bad.output).len(), 1, "what came before is answered");
    let none = program.run_with_input(&["embed", &fixture("bert"), "-", "--on", "native:cpu"], b"").ended_with(0);
    assert_eq!(none.output, "");
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_sigterm_end_a_pool_in_order_and_say_so_by_the_exit_code() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let program = Program::new();
        let mut child = program.start(&["embed", &fixture("bert"), "-", "--on", "native:cpu"]);
        let mut stdin = child.stdin.take().expect("piped");
        writeln!(stdin, "{}", TEXTS[0]).expect("it reads");
        let mut first = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut first).expect("it answers");
        // Now the pool runs and waits for a line.
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("there is a kill");
        assert!(sent.success());
        assert_eq!(ended_within(&mut child, Duration::from_secs(30)), Some(code), "{signal}");
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
        assert_eq!(said, "", "an end that was asked for is no error");
        // In order: what was measured is there.
        let report = program.run(&["report", "--format", "json"]).ended_with(0).json();
        assert_eq!(report["totals"]["ok"], 1, "{signal}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let program = Program::new();
    let mut child = program.start(&["embed", &fixture("bert"), "-", "--on", "native:cpu"]);
    let mut stdin = child.stdin.take().expect("piped");
    drop(child.stdout.take());
    writeln!(stdin, "{}", TEXTS[0]).expect("it reads");
    assert_eq!(ended_within(&mut child, Duration::from_secs(60)), Some(141));
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    assert_eq!(said, "");
}
