//! Every kind of tokenizer: ids, tokens, segments, offsets and decoded text of all of its golden's texts.

use proptest::prelude::{ProptestConfig, proptest};
use serde_json::Value;
use tabpool_pipelines::{SpecialTokens, TextError, Tokenizer};

use crate::folder::{Folder, fixture, json, numbers};

const KINDS: [&str; 7] =
    ["wordpiece", "roberta_bpe", "unigram", "metaspace_bpe", "clip_bpe", "byte_level_bpe", "unigram_charsmap"];

fn read(kind: &str) -> Tokenizer {
    let folder = Folder::read(&fixture(&format!("preprocessing/tokenizers/{kind}")));
    Tokenizer::read(&folder.open(), "").unwrap_or_else(|e| panic!("{kind}: {e}"))
}

fn check_case(kind: &str, tokenizer: &Tokenizer, case: &Value) {
    let text = case["text"].as_str().expect("a text");
    let tokenize = |special| match case.get("pair").and_then(Value::as_str) {
        None => tokenizer.tokenize(text, special),
        Some(pair) => tokenizer.tokenize_pair(text, pair, special),
    };
    let what = format!("{kind}: {text:?}");
    let got = tokenize(SpecialTokens::Add).expect("tokenizes");
    assert_eq!(got.ids, numbers(&case["ids"]), "{what}");
    assert_eq!(got.type_ids, numbers(&case["type_ids"]), "{what}");
    let tokens: Vec<_> = case["tokens"].as_array().expect("tokens").iter().map(|t| t.as_str().expect("text")).collect();
    assert_eq!(got.tokens, tokens, "{what}");
    let offsets: Vec<(usize, usize)> = case["offsets"]
        .as_array()
        .expect("offsets")
        .iter()
        .map(|pair| match *numbers(pair) {
            [start, end] => (start as usize, end as usize),
            _ => panic!("{what}: an offset has two ends"),
        })
        .collect();
    assert_eq!(got.offsets, offsets, "{what}");
    let bare = tokenize(SpecialTokens::Omit).expect("tokenizes");
    assert_eq!(bare.ids, numbers(&case["ids_without_special_tokens"]), "{what}");
    assert_eq!(tokenizer.decode(&got.ids).expect("decodes"), case["decoded"].as_str().expect("text"), "{what}");
}

#[test]
fn every_kind_gives_its_golden_ids_tokens_and_offsets() {
    for kind in KINDS {
        let tokenizer = read(kind);
        let golden = json(&format!("preprocessing/tokenizers/{kind}/golden.json"));
        let cases = golden["cases"].as_array().expect("cases");
        assert_eq!(cases.len(), 28, "{kind}");
        for case in cases {
            check_case(kind, &tokenizer, case);
        }
    }
}

/// The lines of a `vocab.txt` that holds a `tokenizer.json`'s vocabulary.
fn vocabulary_of(kind: &str) -> String {
    let json = json(&format!("preprocessing/tokenizers/{kind}/tokenizer.json"));
    let vocab = json["model"]["vocab"].as_object().expect("a vocabulary");
    let mut lines: Vec<_> = vocab.iter().map(|(token, id)| (id.as_u64().expect("an id"), token.as_str())).collect();
    lines.sort_unstable();
    lines.into_iter().map(|(_, token)| format!("{token}\n")).collect()
}

#[test]
fn a_vocabulary_alone_gives_the_same_ids_as_the_tokenizer_file() {
    let vocabulary = vocabulary_of("wordpiece");
    let folder = Folder::of(&[("vocab.txt", vocabulary.as_bytes())]);
    let tokenizer = Tokenizer::read(&folder.open(), "").expect("a BERT vocabulary");
    let golden = json("preprocessing/tokenizers/wordpiece/golden.json");
    for case in golden["cases"].as_array().expect("cases") {
        check_case("vocab.txt", &tokenizer, case);
    }
    let config = br#"{"do_lower_case": false, "tokenizer_class": "BertTokenizer", "pad_token": {"content": "[PAD]"}}"#;
    let folder = Folder::of(&[("vocab.txt", vocabulary.as_bytes()), ("tokenizer_config.json", config)]);
    let cased = Tokenizer::read(&folder.open(), "").expect("a BERT vocabulary");
    let ids = |t: &Tokenizer, text| t.tokenize(text, SpecialTokens::Omit).expect("tokenizes").ids;
    assert_ne!(ids(&cased, "Rain"), ids(&tokenizer, "Rain"), "letters keep their case where the folder says so");
}

#[test]
fn folders_without_a_readable_tokenizer_are_refused() {
    let refusal = |files: &[(&str, &[u8])]| {
        let folder = Folder::of(files);
        Tokenizer::read(&folder.open(), "").expect_err("a refused folder").to_string()
    };
    assert_eq!(refusal(&[("a", b"")]), "the model's folder holds neither tokenizer.json nor vocab.txt");
    assert!(refusal(&[("tokenizer.json", b"{")]).starts_with("tokenizer.json is not readable: EOF"));
    assert!(refusal(&[("tokenizer.json", b"{}")]).starts_with("tokenizer.json is not readable: "));
    assert!(refusal(&[("tokenizer.json", br#"{"model": {"type": "Magic"}}"#)]).contains("is not readable"));
    assert_eq!(refusal(&[("vocab.txt", b"a\nb\n")]), r#"vocab.txt is not readable: it lacks the unk_token "[UNK]""#);
    assert!(refusal(&[("vocab.txt", b"\xff\n")]).contains("invalid utf-8"));
    let other = br#"{"tokenizer_class": "MPNetTokenizer"}"#;
    assert_eq!(
        refusal(&[("vocab.txt", b"a\n"), ("tokenizer_config.json", other)]),
        r#"tokenizer_config.json: tokenizer_class is "MPNetTokenizer", for which a tokenizer.json is needed"#
    );
}

#[test]
fn a_file_that_makes_the_library_panic_is_refused() {
    let mut file = json("preprocessing/tokenizers/roberta_bpe/tokenizer.json");
    file["model"]["continuing_subword_prefix"] = "\u{2581}".into();
    let text = file.to_string();
    let folder = Folder::of(&[("tokenizer.json", text.as_bytes())]);
    let err = Tokenizer::read(&folder.open(), "").expect_err("no token has this prefix");
    assert!(err.to_string().starts_with("tokenizer.json is not readable: "), "{err}");
}

#[test]
fn a_text_of_many_megabytes_is_refused() {
    let text = "a ".repeat(3 << 20);
    let err = read("wordpiece").tokenize(&text, SpecialTokens::Add).expect_err("too large");
    assert!(matches!(err, TextError::TextTooLarge { position: 0, bytes: 6291456, .. }), "{err}");
}

/// Puts `with` where the `at`-th value of a JSON tree is, counted from the root.
fn replace(value: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *value = with.clone();
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Array(list) => list.iter_mut().for_each(|v| replace(v, at, with)),
        Value::Object(map) => map.values_mut().for_each(|v| replace(v, at, with)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_damaged_tokenizer_file_never_panics(kind in 0..KINDS.len(), mut at in 0usize..150, pick in 0usize..6) {
        let mut file = json(&format!("preprocessing/tokenizers/{}/tokenizer.json", KINDS[kind]));
        let with = [Value::Null, 7.into(), (-1).into(), "\u{2581}".into(), serde_json::json!([]), serde_json::json!({})];
        replace(&mut file, &mut at, &with[pick]);
        let text = file.to_string();
        let folder = Folder::of(&[("tokenizer.json", text.as_bytes())]);
        if let Ok(tokenizer) = Tokenizer::read(&folder.open(), "") {
            let _ = tokenizer.tokenize_pair("Hello, w\u{f6}rld!", " 12  x", SpecialTokens::Add).map(|t| tokenizer.decode(&t.ids));
        }
    }
}
