//! `tabpool invite` as a script meets it: the address alone on standard output, and its end.

use std::io::{BufRead as _, BufReader, Read as _};
use std::time::Duration;

use crate::program::{Program, ended_within};

#[test]
fn a_script_gets_the_address_alone_and_the_end_of_the_ticket_is_the_end() {
    let program = Program::new();
    let arguments = ["invite", "--valid-for", "2s", "--tabs", "1", "--label", "a lab"];
    let mut child = program.start(&arguments);
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("text");
    let (origin, rest) = line.trim_end().split_once("/#token=").expect("an address");
    assert!(origin.starts_with("http://127.0.0.1:"), "{origin}");
    let (token, label) = rest.split_once('&').expect("a label");
    assert!(token.len() == 32 && label == "label=a%20lab", "{rest}");
    assert_eq!(ended_within(&mut child, Duration::from_secs(30)), Some(0));
    let mut more = String::new();
    output.read_to_string(&mut more).expect("text");
    assert_eq!(more, "");
}

#[test]
fn a_label_that_no_page_could_show_is_refused() {
    let program = Program::new();
    let label = "x".repeat(81);
    program.run(&["invite", "--label", &label]).refused_with("has 81 characters", "");
}

#[test]
fn an_endpoint_that_cannot_be_had_is_refused_with_what_to_do() {
    let program = Program::new();
    program.run(&["invite", "--listen", "0.0.0.0:0"]).refused_with("tabs need a name", "give it a name");
    let plain = ["invite", "--listen", "192.0.2.1:8600"];
    program.run(&plain).refused_with("over plain HTTP on 192.0.2.1:8600", "a certificate and its key");
    let missing = ["invite", "--listen", "127.0.0.1:0", "--certificate", "/no/such.pem", "--key", "/no/such.key"];
    program.run(&missing).refused_with("cannot read /no/such.pem: there is no such file", "PEM");
}
