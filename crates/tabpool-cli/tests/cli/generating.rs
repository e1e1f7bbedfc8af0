//! `tabpool generate`, `translate`, `summarize`: the goldens' tokens, text for people and objects for programs, refusals.

use std::fs;

use serde_json::Value;

use crate::program::{Program, fixture};

/// Ids in a golden's generation.
fn ids(name: &str, key: &str) -> Vec<i64> {
    let text = fs::read_to_string(format!("{}/golden.json", fixture(name))).expect("a golden");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    golden["generation"][key].as_array().expect("ids").iter().map(|id| id.as_i64().expect("an id")).collect()
}

fn listed(ids: &[i64]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn the_goldens_tokens_come_out_and_the_same_seed_says_the_same() {
    let program = Program::new();
    let on = ["--on", "native:cpu", "--max-tokens", "20", "--ignore-end", "--json"];
    for name in ["qwen3", "t5"] {
        let (model, prompt) = (fixture(name), listed(&ids(name, "prompt_ids")));
        let said =
            program.run(&[&["generate", &model, "--prompt-ids", &prompt][..], &on].concat()).ended_with(0).json();
        let got: Vec<i64> = said["token_ids"].as_array().expect("ids").iter().filter_map(Value::as_i64).collect();
        assert_eq!(got, ids(name, "token_ids"), "{name}");
        assert_eq!((said["worker"].as_str(), said["api"].as_str()), (Some("native"), Some("cpu")), "{said}");
        assert!(said["state_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{said}");
    }
    let warm = ["--temperature", "1.5", "--top-k", "50", "--seed"];
    let model = fixture("gpt2");
    let write = |seed: &str| {
        let arguments = [&["generate", &model, "A man is"][..], &warm, &[seed], &on].concat();
        program.run(&arguments).ended_with(0).json()["text"].as_str().expect("text").to_owned()
    };
    let first = write("3");
    assert_eq!(first, write("3"));
    assert_ne!(first, write("4"));
}

#[test]
fn text_is_printed_as_it_stands_and_tasks_go_to_models_that_know_them() {
    let program = Program::new();
    let on = ["--on", "native:cpu", "--max-tokens", "8"];
    let (gpt2, t5) = (fixture("gpt2"), fixture("t5"));
    let said = program.run(&[&["generate", &gpt2, "A man is"][..], &on].concat()).ended_with(0);
    assert!(said.output.ends_with('\n') && said.output.trim().len() > 3, "{:?}", said.output);
    assert_eq!(said.error, "", "no figures where nobody reads them");
    let said = program.run(&[&["translate", &t5, "A man is", "--to", "German", "--json"][..], &on].concat());
    assert_eq!(said.ended_with(0).json()["finish"], "length");
    program.run(&[&["summarize", &t5, "A man is eating food."][..], &on].concat()).ended_with(0);
    program
        .run(&[&["summarize", &gpt2, "A man is eating food."][..], &on].concat())
        .refused_with("only goes on from texts", "t5-small");
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_starts() {
    let program = Program::new();
    let (bert, gpt2) = (fixture("bert"), fixture("gpt2"));
    program.run(&["generate", &bert, "text"]).refused_with("generates no text", "tabpool models ls");
    let said = program.run(&["generate", &gpt2, "text", "--top-p", "2"]).ended_with(1);
    assert!(said.error.contains("top_p is 2"), "{}", said.error);
    program.run(&["generate", &gpt2]).ended_with(2);
    program.run(&["generate", &gpt2, "text", "--prompt-ids", "1"]).ended_with(2);
    program.run(&["translate", &gpt2, "text"]).ended_with(2);
}
