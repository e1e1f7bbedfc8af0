//! Chat templates against what transformers renders, and what is refused.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::{ProptestConfig, proptest};
use serde_json::Value;
use tabpool_content::{Directory, ImportOptions, MemoryStore, import_files};
use tabpool_pipelines::chat::{ChatError, ChatRequest, ChatTemplate};

use crate::golden::bytes;

const TOKENS: [(&str, &str); 2] = [("bos_token", "<s>"), ("eos_token", "</s>")];

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::from_source(source, &TOKENS).unwrap_or_else(|e| panic!("{source}: {e}"))
}

fn hello() -> ChatRequest {
    ChatRequest::from_json(br#"[{"role": "user", "content": "Hello"}]"#).expect("messages")
}

fn rendered(source: &str) -> String {
    template(source).render(&hello()).unwrap_or_else(|e| panic!("{source}: {e}"))
}

/// The golden's cases as raw JSON texts, whose keys keep their order.
fn cases() -> Vec<std::collections::BTreeMap<String, Box<serde_json::value::RawValue>>> {
    serde_json::from_slice(&bytes("media/chats.json")).expect("a list of objects")
}

#[test]
fn templates_render_as_in_transformers() {
    let cases = cases();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let text = |key: &str| serde_json::from_str::<Value>(case[key].get()).expect("JSON");
        let source = text("template");
        let source = source.as_str().expect("a template");
        let mut request = ChatRequest::from_json(case["messages"].get().as_bytes()).expect("messages");
        if !text("tools").is_null() {
            request = request.with_tools_json(case["tools"].get().as_bytes()).expect("tools");
        }
        if text("add_generation_prompt") == true {
            request = request.with_generation_prompt();
        }
        let got = template(source).render(&request).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(got, text("rendered").as_str().expect("a text"), "{source}");
    }
}

#[test]
fn a_folder_has_one_template_or_several() {
    let read = |files: &[(&str, &[u8])]| {
        let store = MemoryStore::new(1 << 24);
        let root = import_files(files, &store, &ImportOptions::default(), &mut |_| {}).expect("imports").root;
        ChatTemplate::read(&Directory::open(&store, &root).expect("opens"), "")
    };
    let config: &[u8] = br#"{"bos_token": {"content": "<s>"}, "eos_token": null,
        "chat_template": [{"name": "default", "template": "D{{ bos_token }}{{ eos_token }}"}, {"name": "tool_use", "template": "T"}]}"#;
    let several = read(&[("tokenizer_config.json", config)]).expect("two templates");
    assert_eq!(several.names(), ["default", "tool_use"]);
    assert_eq!(several.render(&hello()).expect("renders"), "D<s>");
    assert_eq!(several.render(&hello().with_tools_json(b"[]").expect("tools")).expect("renders"), "T");
    assert_eq!(several.render(&hello().with_template("tool_use")).expect("renders"), "T");
    let unknown = several.render(&hello().with_template("rag")).expect_err("no such template");
    assert!(matches!(unknown, ChatError::UnknownTemplate { .. }), "{unknown}");
    let file: &[u8] = b"J{{ messages[-1].content }}";
    let one = read(&[("tokenizer_config.json", config), ("chat_template.jinja", file)]).expect("the file comes first");
    assert_eq!(one.render(&hello()).expect("renders"), "JHello");
    assert!(matches!(read(&[("a", b"")]), Err(ChatError::NoTemplate { .. })));
    assert!(matches!(read(&[("chat_template.jinja", b"{% if")]), Err(ChatError::Syntax { .. })));
    let odd: &[u8] = br#"{"chat_template": [{"name": "x"}]}"#;
    let err = read(&[("tokenizer_config.json", odd)]).expect_err("no template").to_string();
    assert!(err.starts_with("tokenizer_config.json: chat_template is [{\"name\":\"x\"}], a list, but not of"), "{err}");
}

#[test]
fn values_print_as_in_python() {
    assert_eq!(
        rendered("{{ true }} {{ none }} {{ [1.0, 'a'] }} {{ messages[0] }}"),
        "True None [1.0, 'a'] {'role': 'user', 'content': 'Hello'}"
    );
    assert_eq!(
        rendered("{{ messages[0] | tojson }} {{ undefined_name }}|"),
        r#"{"role": "user", "content": "Hello"} |"#
    );
    assert_eq!(rendered("{{ [1] | tojson(indent=2) }}"), "[\n  1\n]");
    assert_eq!(rendered("  {% if true %}\n x\n  {%- endif %}\ny\n"), " xy");
    assert_eq!(rendered("a {%- generation %} b {% endgeneration -%} c"), "a b c");
}

#[test]
fn time_is_what_the_request_says() {
    let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}no date{% endif %}";
    assert_eq!(rendered(source), "no date");
    let request = hello().with_time(UNIX_EPOCH + Duration::from_secs(951_827_696));
    assert_eq!(template(source).render(&request).expect("renders"), "29 Feb 2000");
    let err = template("{{ strftime_now('%Q') }}").render(&request).expect_err("no such field");
    assert!(err.to_string().contains("%Q is not supported"), "{err}");
    let variable = hello().with_variable_json("thinking", b"false").expect("a value");
    assert_eq!(template("{{ thinking }}").render(&variable).expect("renders"), "False");
}

#[test]
fn refusals_and_failures_say_what_and_where() {
    let fail = |source: &str| template(source).render(&hello()).expect_err(source);
    let refused = fail("{{ raise_exception('only ' ~ messages[0].role) }}");
    assert!(matches!(&refused, ChatError::Refused { reason } if reason == "only user"), "{refused}");
    for source in [
        "{{ messages[0].content.nothing.at_all }}",
        "{{ messages[0].content.fly() }}",
        "{{ x | tojson }}",
        "{{ 1 + 'a' }}",
    ] {
        assert!(matches!(fail(source), ChatError::Render { .. }), "{source}");
    }
    assert!(ChatTemplate::from_source(&"x".repeat(2 << 20), &[]).is_err());
    for junk in ["{", "[1]", "{\"role\": 1}", "\"text\""] {
        assert!(matches!(ChatRequest::from_json(junk.as_bytes()), Err(ChatError::Request { .. })), "{junk}");
    }
    let large = vec![b' '; 17 << 20];
    assert!(matches!(ChatRequest::from_json(&large), Err(ChatError::TooLarge { .. })));
}

#[test]
fn a_template_that_never_ends_or_never_stops_writing_is_ended() {
    let fail = |source: &str| template(source).render(&hello()).expect_err(source).to_string();
    let slow = "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = b %}{% endfor %}{% endfor %}";
    assert!(fail(slow).contains("fuel"), "{}", fail(slow));
    let loud = "{% set x = 'x' * 1000000 %}{% for a in range(1000) %}{{ x }}{% endfor %}";
    assert!(fail(loud).contains("bytes allowed"), "{}", fail(loud));
    let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(fail(deep).contains("recursion"), "{}", fail(deep));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_template_renders_or_fails(parts in proptest::collection::vec(
        "(\\{\\{|\\}\\}|\\{%-?|-?%\\}| for | in | if |endif|endfor|generation|messages|\\[0\\]|\\.content|\\.split\\('l'\\)| ~ | \\| |tojson|trim|x|'|\"|\\(|\\)|\n|[ -~])", 0..24))
    {
        if let Ok(template) = ChatTemplate::from_source(&parts.concat(), &TOKENS) {
            let _ = template.render(&hello());
        }
    }
}
