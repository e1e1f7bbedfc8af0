//! Sentence embeddings: each pooling against the same computed here from the golden's hidden states, and descriptions of
//! modules that are refused.

use std::fs;

use serde_json::json;
use tabpool_models::ModelError;
use tabpool_tensor::Tensor;

use crate::fixture::{Fixture, folder, share_of_tolerance, tensors, with_prefix};

const FAMILY: &str = "bert";
const WIDTH: usize = 64;

fn modules(types: &[(&str, &str)]) -> Vec<u8> {
    let list: Vec<_> = types
        .iter()
        .enumerate()
        .map(|(i, (kind, path))| json!({"idx": i, "name": i.to_string(), "path": path, "type": kind}))
        .collect();
    json!(list).to_string().into_bytes()
}

const TRANSFORMER: (&str, &str) = ("sentence_transformers.models.Transformer", "");
const POOLING: (&str, &str) = ("sentence_transformers.models.Pooling", "1_Pooling");
const NORMALIZE: (&str, &str) = ("sentence_transformers.models.Normalize", "2_Normalize");
const DENSE: (&str, &str) = ("sentence_transformers.models.Dense", "2_Dense");

fn fixture(extra: &[(&str, &[u8])]) -> Result<Fixture, ModelError> {
    let read = |name: &str| fs::read(folder(FAMILY).join(name)).expect("a fixture's file");
    let (config, weights) = (read("config.json"), read("model.safetensors"));
    let mut files: Vec<(&str, &[u8])> = vec![("config.json", &config), ("model.safetensors", &weights)];
    files.extend_from_slice(extra);
    Fixture::of(&files)
}

/// The embeddings of the golden's three texts.
fn embed(fixture: &Fixture) -> Vec<f32> {
    let golden = tensors(&folder(FAMILY).join("golden.safetensors"));
    let names = ["sentence_embedding".to_owned()];
    let request = fixture.model.prepare(&with_prefix(&golden, "input."), &names).expect("a good request");
    let program = fixture.model.program(request.bucket, &["sentence_embedding"]).expect("a program");
    let outputs = request.crop.apply(fixture.run(&program, &request.tensors)).expect("as the program says");
    outputs[0].1.to_f32().expect("floats").into_owned()
}

/// For each text of the golden, the hidden states of its real tokens.
fn tokens() -> Vec<Vec<Vec<f32>>> {
    let golden = tensors(&folder(FAMILY).join("golden.safetensors"));
    let hidden: &Tensor = &golden["output.last_hidden_state"];
    let (batch, sequence) = (hidden.shape()[0], hidden.shape()[1]);
    let (hidden, mask) = (hidden.to_f32().expect("floats"), &golden["input.attention_mask"]);
    let mask = mask.to_i32().expect("integers");
    let token = |r: usize, c: usize| hidden[(r * sequence + c) * WIDTH..][..WIDTH].to_vec();
    let real = |r: usize| (0..sequence).filter(|c| mask[r * sequence + c] == 1).map(|c| token(r, c)).collect();
    (0..batch).map(real).collect()
}

fn normalized(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter().map(|v| v / length).collect()
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn mean(tokens: &[Vec<f32>]) -> Vec<f32> {
    (0..WIDTH).map(|i| tokens.iter().map(|t| t[i]).sum::<f32>() / tokens.len() as f32).collect()
}

fn assert_close(got: &[f32], want: &[Vec<f32>], what: &str) {
    let share = share_of_tolerance(got, &want.concat(), |_| true);
    assert!(share <= 1.0, "{what} is off by {share} times the tolerance");
}

#[test]
fn without_modules_the_mean_of_tokens_is_the_embedding() {
    let got = embed(&fixture(&[]).expect("a good folder"));
    assert_close(&got, &tokens().iter().map(|t| mean(t)).collect::<Vec<_>>(), "mean");
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn every_supported_pooling_gives_its_definition() {
    type Definition = fn(&[Vec<f32>]) -> Vec<f32>;
    let cases: [(&str, Definition); 6] = [
        ("pooling_mode_cls_token", |t| t[0].clone()),
        ("pooling_mode_mean_tokens", mean),
        ("pooling_mode_lasttoken", |t| t[t.len() - 1].clone()),
        ("pooling_mode_weightedmean_tokens", |t| {
            let all = (t.len() * (t.len() + 1) / 2) as f32;
            let weighted =
                |i: usize| t.iter().enumerate().map(move |(at, token): (usize, &Vec<f32>)| (at + 1) as f32 * token[i]);
            (0..WIDTH).map(|i| weighted(i).sum::<f32>() / all).collect()
        }),
        ("pooling_mode_max_tokens", |t| (0..WIDTH).map(|i| t.iter().map(|t| t[i]).fold(f32::MIN, f32::max)).collect()),
        ("pooling_mode_mean_sqrt_len_tokens", |t| mean(t).iter().map(|v| v * (t.len() as f32).sqrt()).collect()),
    ];
    for (mode, definition) in cases {
        let config = json!({"word_embedding_dimension": WIDTH, mode: true}).to_string();
        let list = modules(&[TRANSFORMER, POOLING, NORMALIZE]);
        let files = [("modules.json", &*list), ("1_Pooling/config.json", config.as_bytes())];
        let got = embed(&fixture(&files).expect("a good folder"));
        let want: Vec<_> = tokens().iter().map(|t| normalized(&definition(t))).collect();
        assert_close(&got, &want, mode);
        let list = modules(&[TRANSFORMER, POOLING]);
        let files = [("modules.json", &*list), ("1_Pooling/config.json", config.as_bytes())];
        let got = embed(&fixture(&files).expect("a good folder"));
        assert_close(&got, &tokens().iter().map(|t| definition(t)).collect::<Vec<_>>(), mode);
    }
}

#[test]
fn decoders_embed_where_their_folder_says_how() {
    for name in ["gpt2", "qwen3"] {
        let read = |file: &str| fs::read(folder(name).join(file)).expect("a fixture's file");
        let (config, weights) = (read("config.json"), read("model.safetensors"));
        let (list, pooling) = (modules(&[TRANSFORMER, POOLING, NORMALIZE]), json!({"pooling_mode": "lasttoken"}));
        let pooling = pooling.to_string();
        let plain: [(&str, &[u8]); 2] = [("config.json", &config), ("model.safetensors", &weights)];
        let described =
            [&plain[..], &[("modules.json", &*list), ("1_Pooling/config.json", pooling.as_bytes())]].concat();
        assert!(Fixture::of(&plain).expect("a folder").model.signature().output("sentence_embedding").is_none());
        let fixture = Fixture::of(&described).expect("a good folder");
        // The second text is shorter.
        let ids = Tensor::from_i32([2, 4], vec![5, 6, 7, 8, 9, 10, 0, 0]).expect("fits");
        let mask = Tensor::from_i32([2, 4], vec![1, 1, 1, 1, 1, 1, 0, 0]).expect("fits");
        let inputs = [("input_ids".to_owned(), ids), ("attention_mask".to_owned(), mask)];
        let names = ["sentence_embedding".to_owned(), "last_hidden_state".to_owned()];
        let request = fixture.model.prepare(&inputs, &names).expect("a good request");
        let program = fixture.model.program(request.bucket, &["sentence_embedding", "last_hidden_state"]);
        let program = program.expect("a program");
        let outputs = request.crop.apply(fixture.run(&program, &request.tensors)).expect("as the program says");
        let (got, hidden) = (outputs[0].1.to_f32().expect("floats"), outputs[1].1.to_f32().expect("floats"));
        let width = got.len() / 2;
        let last = |row: usize, place: usize| normalized(&hidden[(row * 4 + place) * width..][..width]);
        assert_close(&got, &[last(0, 3), last(1, 1)], name);
    }
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn a_dense_layer_after_the_pooling_is_applied() {
    let rows = 3;
    let weight: Vec<f32> = (0..rows * WIDTH).map(|i| ((i * 7 % 11) as f32 - 5.0) / 40.0).collect();
    let bias = [0.1f32, -0.2, 0.3];
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (weight_bytes, bias_bytes) = (bytes(&weight), bytes(&bias));
    let view = |shape: Vec<usize>, data| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, data).expect("fits")
    };
    let file =
        [("linear.weight", view(vec![rows, WIDTH], &weight_bytes)), ("linear.bias", view(vec![rows], &bias_bytes))];
    let file = safetensors::serialize(file, None).expect("serialises");
    let pooling = json!({"pooling_mode": "mean"}).to_string();
    let list = modules(&[TRANSFORMER, POOLING, DENSE]);
    let dense = |inputs: usize| {
        let activation = "torch.nn.modules.activation.Tanh";
        json!({"in_features": inputs, "out_features": rows, "bias": true, "activation_function": activation})
            .to_string()
    };
    let good = dense(WIDTH);
    let files = |config: &'static str| -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("modules.json", list.clone()),
            ("1_Pooling/config.json", pooling.clone().into_bytes()),
            ("2_Dense/config.json", config.as_bytes().to_vec()),
            ("2_Dense/model.safetensors", file.clone()),
        ]
    };
    let open = |config: String| {
        let files = files(config.leak());
        fixture(&files.iter().map(|(n, b)| (*n, &**b)).collect::<Vec<_>>())
    };
    let got = embed(&open(good).expect("a good folder"));
    let project = |x: &[f32]| -> Vec<f32> {
        let dot = |r: usize| x.iter().zip(&weight[r * WIDTH..]).map(|(a, b)| a * b).sum::<f32>();
        (0..rows).map(|r| (dot(r) + bias[r]).tanh()).collect()
    };
    assert_close(&got, &tokens().iter().map(|t| project(&mean(t))).collect::<Vec<_>>(), "dense");
    let err = open(dense(32)).err().expect("32 is not 64");
    assert_eq!(err.to_string(), "2_Dense/config.json: in_features is 32, but the vectors before it have 64 elements");
}

#[test]
fn rows_of_padding_alone_give_zeros_and_never_nan() {
    let config = json!({"pooling_mode_mean_tokens": true}).to_string();
    let list = modules(&[TRANSFORMER, POOLING, NORMALIZE]);
    let files = [("modules.json", &*list), ("1_Pooling/config.json", config.as_bytes())];
    let fixture = fixture(&files).expect("a good folder");
    let ids = Tensor::from_i32([3, 2], vec![5; 6]).expect("fits");
    let names = ["sentence_embedding".to_owned()];
    let request = fixture.model.prepare(&[("input_ids".to_owned(), ids)], &names).expect("a good request");
    assert_eq!(request.bucket.batch, 4);
    let program = fixture.model.program(request.bucket, &["sentence_embedding"]).expect("a program");
    let outputs = fixture.run(&program, &request.tensors);
    let values = outputs[0].to_f32().expect("floats");
    assert_eq!(values[3 * WIDTH..], [0.0; WIDTH]);
    assert!(values.iter().all(|v| v.is_finite()));
}

#[test]
fn descriptions_that_are_not_implemented_are_refused() {
    let refusal = |list: &[(&str, &str)], pooling: serde_json::Value| {
        let (list, pooling) = (modules(list), pooling.to_string());
        let files = [("modules.json", &*list), ("1_Pooling/config.json", pooling.as_bytes())];
        fixture(&files).err().expect("a refused folder").to_string()
    };
    let mean = || json!({"pooling_mode_mean_tokens": true});
    let got = refusal(&[TRANSFORMER, POOLING, ("sentence_transformers.models.LSTM", "2")], mean());
    assert!(got.contains(r#"type of module 2 is "sentence_transformers.models.LSTM", supported are"#), "{got}");
    let got = refusal(&[("custom.Transformer", ""), POOLING], mean());
    assert!(got.contains(r#""custom.Transformer", only modules of sentence-transformers"#), "{got}");
    let got = refusal(&[POOLING, TRANSFORMER], mean());
    assert!(got.contains("supported is a Transformer, then a Pooling"), "{got}");
    let got = refusal(&[TRANSFORMER, POOLING], json!({"pooling_mode": "attention"}));
    assert!(got.contains(r#"1_Pooling/config.json: pooling_mode is "attention", supported are cls, mean"#), "{got}");
    let both = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true});
    let got = refusal(&[TRANSFORMER, POOLING], both);
    assert!(got.contains("one at a time"), "{got}");
    let got = refusal(&[TRANSFORMER, POOLING], json!({}));
    assert!(got.contains("1_Pooling/config.json: pooling_mode is missing"), "{got}");
    let wide = json!({"word_embedding_dimension": 384, "pooling_mode_mean_tokens": true});
    let got = refusal(&[TRANSFORMER, POOLING], wide);
    assert!(got.contains("word_embedding_dimension is 384, but the encoder's vectors have 64 elements"), "{got}");
    for broken in ["{}", "[]", "[7]", r#"[{"type": "sentence_transformers.models.Transformer"}]"#] {
        assert!(fixture(&[("modules.json", broken.as_bytes())]).is_err(), "{broken}");
    }
}
