//! Batches: what is cut, padded and grouped, and which options of a folder decide it.

use tabpool_models::Model;
use tabpool_pipelines::{TextEncoder, TextError};
use tabpool_tensor::Tensor;

use crate::folder::{Folder, json};

fn read(folder: &Folder) -> Result<TextEncoder, TextError> {
    let directory = folder.open();
    let model = Model::read(&directory).expect("a good model");
    TextEncoder::read(&directory, &model)
}

fn ids(tensor: &Tensor) -> Vec<i32> {
    tensor.to_i32().expect("integers").into_owned()
}

#[test]
fn the_texts_of_every_models_golden_give_its_inputs() {
    for family in ["bert", "distilbert", "roberta", "mpnet"] {
        let folder = Folder::with(family, &[]);
        let (directory, encoder) = (folder.open(), read(&folder).expect("a good folder"));
        let model = Model::read(&directory).expect("a good model");
        let golden = json(&format!("{family}/golden.json"));
        let texts = golden["cases"][0]["texts"].as_array().expect("texts");
        let tensors = std::fs::read(crate::folder::fixture(&format!("{family}/golden.safetensors"))).expect("a file");
        let tensors = safetensors::SafeTensors::deserialize(&tensors).expect("valid");
        for (row, text) in texts.iter().enumerate() {
            let encoded = match (text.as_str(), text.as_array()) {
                (Some(text), _) => encoder.encode(&[text]),
                (None, Some(pair)) => {
                    let part = |i: usize| pair[i].as_str().expect("a text");
                    encoder.encode_pairs(&[(part(0), part(1))])
                }
                _ => panic!("{text} is neither a text nor a pair"),
            };
            let encoded = encoded.expect("encodes");
            for (name, tensor) in encoded.inputs(model.signature()) {
                let want = tensors.tensor(&format!("input.{name}")).expect("goldens hold every input");
                let width = want.shape()[1];
                let bytes = &want.data()[row * width * 8..][..encoded.tokens[0] * 8];
                let want: Vec<i32> = bytes
                    .chunks_exact(8)
                    .map(|b| i32::try_from(i64::from_le_bytes(b.try_into().expect("8 bytes"))).expect("an id"))
                    .collect();
                assert_eq!(ids(&tensor), want, "{family} row {row} {name}");
            }
        }
    }
}

#[test]
fn texts_are_padded_to_the_longest_with_the_models_padding_id() {
    let encoder = read(&Folder::with("roberta", &[])).expect("a good folder");
    let encoded = encoder.encode(&["A quiet map.", "A"]).expect("encodes");
    let width = encoded.tokens[0];
    assert_eq!(encoded.input_ids.shape().dims(), [2, width]);
    assert!(encoded.tokens[1] < width);
    let (ids, mask) = (ids(&encoded.input_ids), ids(&encoded.attention_mask));
    assert_eq!(ids[width + encoded.tokens[1]..], vec![1; width - encoded.tokens[1]]);
    let real: i32 = mask.iter().sum();
    assert_eq!(usize::try_from(real).expect("a count"), encoded.tokens.iter().sum::<usize>());
    assert_eq!(encoded.truncated, [false, false]);
    assert!(matches!(encoder.encode(&[]), Err(TextError::NoTexts)));
}

#[test]
fn texts_are_cut_to_the_length_that_the_folder_states() {
    let long = "The river runs slowly past the old mill. ".repeat(20);
    let limit = |changes: &[(&str, &[u8])]| {
        let encoder = read(&Folder::with("bert", changes)).expect("a good folder");
        let encoded = encoder.encode(&[&long, "short"]).expect("encodes");
        assert_eq!((encoded.tokens[0], &*encoded.truncated), (encoder.max_tokens(), &[true, false][..]));
        let first = ids(&encoded.input_ids);
        assert_eq!(first[encoder.max_tokens() - 1], 3, "the separator stays at the end of what was cut");
        let pair = encoder.encode_pairs(&[(&long, "short")]).expect("encodes");
        assert_eq!((pair.tokens[0], pair.truncated[0]), (encoder.max_tokens(), true));
        encoder.max_tokens()
    };
    assert_eq!(limit(&[]), 64, "model_max_length");
    assert_eq!(limit(&[("sentence_bert_config.json", br#"{"max_seq_length": 20}"#)]), 20);
    assert_eq!(limit(&[("sentence_bert_config.json", br#"{"max_seq_length": 9999}"#)]), 64, "the model's positions");
    assert_eq!(limit(&[("sentence_bert_config.json", br#"{"max_seq_length": null}"#)]), 64);
    let huge = br#"{"model_max_length": 1000000000000000019884624838656}"#;
    assert_eq!(limit(&[("tokenizer_config.json", huge)]), 64);
    assert_eq!(limit(&[("tokenizer_config.json", br#"{"model_max_length": 33}"#)]), 33);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let refusal = |file: &str, text: &str| {
        read(&Folder::with("bert", &[(file, text.as_bytes())])).expect_err("a refused folder").to_string()
    };
    assert_eq!(
        refusal("sentence_bert_config.json", r#"{"max_seq_length": -3}"#),
        "sentence_bert_config.json: max_seq_length is -3, not a number of tokens"
    );
    assert_eq!(
        refusal("sentence_bert_config.json", r#"{"max_seq_length": 3}"#),
        "the model takes 3 tokens, of which the tokenizer needs 3 for itself"
    );
    assert!(refusal("tokenizer_config.json", "[]").contains("it holds no JSON object"));
    assert!(refusal("tokenizer_config.json", r#"{"truncation_side": "up"}"#).contains("truncation_side is \"up\""));
    assert_eq!(refusal("tokenizer.json", "7").split(':').next(), Some("tokenizer.json is not readable"));
}

#[test]
fn the_default_prompt_goes_before_every_text() {
    let with = |config: &str| read(&Folder::with("bert", &[("config_sentence_transformers.json", config.as_bytes())]));
    let prompted = with(r#"{"prompts": {"query": "query: "}, "default_prompt_name": "query"}"#).expect("a good folder");
    let plain = with(r#"{"prompts": {"query": "query: "}, "default_prompt_name": null}"#).expect("a good folder");
    let encode = |encoder: &TextEncoder, text: &str| ids(&encoder.encode(&[text]).expect("encodes").input_ids);
    assert_eq!(encode(&prompted, "rain"), encode(&plain, "query: rain"));
    assert_ne!(encode(&prompted, "rain"), encode(&plain, "rain"));
    let err = with(r#"{"default_prompt_name": "query"}"#).expect_err("no such prompt");
    assert!(err.to_string().contains("default_prompt_name is \"query\", which is none of the prompts"), "{err}");
}

#[test]
fn batches_hold_every_text_once_with_texts_of_similar_length() {
    let encoder = read(&Folder::with("bert", &[])).expect("a good folder");
    let long = "the old mill and the green garden by the river ".repeat(3);
    let texts: Vec<&str> = (0..50).map(|i| if i % 10 == 3 { long.as_str() } else { "rain" }).collect();
    let batches = encoder.batches(&texts, 32).expect("encodes");
    let mut seen: Vec<usize> = batches.iter().flat_map(|b| b.indices.clone()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    for batch in &batches {
        let lengths: Vec<bool> = batch.indices.iter().map(|i| i % 10 == 3).collect();
        assert!(lengths.windows(2).all(|w| w[0] == w[1]), "long and short texts are apart: {lengths:?}");
        assert_eq!(batch.encoded.tokens.len(), batch.indices.len());
        for (row, &index) in batch.indices.iter().enumerate() {
            let alone = encoder.encode(&[texts[index]]).expect("encodes");
            let width = batch.encoded.input_ids.shape()[1];
            let got = &ids(&batch.encoded.input_ids)[row * width..][..alone.tokens[0]];
            assert_eq!(got, ids(&alone.input_ids), "text {index}");
        }
    }
    assert!(encoder.batches(&[], 32).expect("nothing to do").is_empty());
}
