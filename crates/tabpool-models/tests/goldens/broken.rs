//! Folders that are wrong: each is refused with the file, the key or the tensor at fault, and none makes it panic.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::{any, proptest};
use serde_json::{Value, json};
use tabpool_content::{Block, BlockStore, MemoryStore};
use tabpool_models::{Model, ModelError};
use tabpool_tensor::DType;

use crate::fixture::{Fixture, folder, tensors, with_prefix};

type Files = BTreeMap<String, Vec<u8>>;

fn files(family: &str) -> Files {
    let read = |name: &str| fs::read(folder(family).join(name)).expect("a fixture's file");
    ["config.json", "model.safetensors"].into_iter().map(|name| (name.to_owned(), read(name))).collect()
}

fn open(files: &Files) -> Result<Model, ModelError> {
    Fixture::of(&files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect::<Vec<_>>()).map(|f| f.model)
}

fn refusal(files: &Files) -> String {
    open(files).expect_err("a broken folder").to_string()
}

/// The files with one key of `config.json` set, or removed where the value is null.
fn with_option(family: &str, key: &str, value: serde_json::Value) -> Files {
    let mut files = files(family);
    let mut config: serde_json::Value = serde_json::from_slice(&files["config.json"]).expect("JSON");
    let map = config.as_object_mut().expect("an object");
    if value.is_null() {
        map.remove(key);
    } else {
        map.insert(key.to_owned(), value);
    }
    files.insert("config.json".to_owned(), config.to_string().into_bytes());
    files
}

/// The files with the weights' header rewritten; the data stays as it is.
fn with_header(family: &str, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) -> Files {
    let mut files = files(family);
    let bytes = &files["model.safetensors"];
    let len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"))).expect("small");
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + len]).expect("JSON");
    change(header.as_object_mut().expect("an object"));
    let header = header.to_string().into_bytes();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(&header);
    file.extend_from_slice(&bytes[8 + len..]);
    files.insert("model.safetensors".to_owned(), file);
    files
}

fn rename(header: &mut serde_json::Map<String, serde_json::Value>, from: &str, to: &str) {
    let info = header.remove(from).expect("the tensor is there");
    header.insert(to.to_owned(), info);
}

#[test]
fn an_unknown_architecture_names_those_supported() {
    let refused = refusal(&with_option("bert", "model_type", "mamba".into()));
    assert!(
        refused.starts_with(r#"config.json: the architecture "mamba" is not supported; supported are bert, "#),
        "{refused}"
    );
    assert!([" clip, ", " llama, ", " vit, ", " xlm-roberta"].iter().all(|name| refused.contains(name)), "{refused}");
    let mut old = with_option("bert", "model_type", serde_json::Value::Null);
    assert_eq!(open(&old).expect("the class name tells").architecture(), "BertModel");
    let config = String::from_utf8(old["config.json"].clone()).expect("text").replace("BertModel", "MambaModel");
    old.insert("config.json".to_owned(), config.into_bytes());
    assert!(refusal(&old).contains(r#"the architecture "MambaModel" is not supported"#), "{}", refusal(&old));
}

#[test]
fn options_that_are_not_implemented_are_refused_with_their_value() {
    let cases = [
        (
            "bert",
            "position_embedding_type",
            "relative_key".into(),
            r#"position_embedding_type is "relative_key", only"#,
        ),
        ("bert", "hidden_act", "mish".into(), r#"hidden_act is "mish", supported are gelu"#),
        ("distilbert", "activation", 5.into(), "activation is 5, not a text"),
        ("bert", "is_decoder", true.into(), "is_decoder is true, only encoders are supported"),
        ("roberta", "add_cross_attention", true.into(), "add_cross_attention is true, only encoders"),
        ("bert", "num_attention_heads", 7.into(), "num_attention_heads is 7, which does not divide hidden_size = 64"),
        ("bert", "hidden_size", (-64).into(), "hidden_size is -64, not a whole number from 1 to 65536"),
        ("bert", "vocab_size", serde_json::Value::Null, "config.json: vocab_size is missing"),
        ("bert", "pruned_heads", serde_json::json!({"0": [1]}), r#"pruned_heads is {"0":[1]}, models with"#),
        (
            "mpnet",
            "relative_attention_num_buckets",
            8.into(),
            "relative_attention_num_buckets is 8, not a whole number",
        ),
        ("bert", "layer_norm_eps", (-1.0).into(), "layer_norm_eps is -1.0, not a number from 0 on"),
        ("roberta", "max_position_embeddings", 2.into(), "max_position_embeddings is 2, too few"),
    ];
    for (family, key, value, want) in cases {
        let got = refusal(&with_option(family, key, value));
        assert!(got.contains(want), "{got}");
    }
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_are_named() {
    let lacks = with_header("bert", |h| rename(h, "encoder.layer.1.output.dense.bias", "renamed"));
    assert_eq!(refusal(&lacks), r#"tensor "encoder.layer.1.output.dense.bias" is missing from model.safetensors"#);
    let flat = with_header("bert", |h| {
        h["encoder.layer.1.output.dense.weight"]["shape"] = serde_json::json!([256, 64]);
    });
    assert_eq!(
        refusal(&flat),
        r#"model.safetensors: tensor "encoder.layer.1.output.dense.weight": expected [64, 256], got [256, 64]"#
    );
    let integers = with_header("bert", |h| h["pooler.dense.bias"]["dtype"] = "I32".into());
    assert_eq!(
        refusal(&integers),
        r#"model.safetensors: tensor "pooler.dense.bias" is stored in I32; F32, F16 and BF16 are supported"#
    );
    let fewer = with_option("bert", "vocab_size", 511.into());
    assert!(refusal(&fewer).contains(r#""embeddings.word_embeddings.weight": expected [511, 64], got [512, 64]"#));
}

#[test]
fn files_that_are_not_there_are_named_beside_those_that_are() {
    let mut no_weights = files("bert");
    let bytes = no_weights.remove("model.safetensors").expect("there");
    no_weights.insert("pytorch_model.bin".to_owned(), bytes);
    let err = open(&no_weights).expect_err("no weights");
    assert_eq!(
        err.to_string(),
        "the model's folder holds no model.safetensors (it holds config.json, pytorch_model.bin)"
    );
    assert!(err.hint().expect("a hint").contains("convert"));
    let mut no_config = files("bert");
    no_config.remove("config.json");
    assert!(refusal(&no_config).contains("holds no config.json"));
    let mut text = files("bert");
    text.insert("config.json".to_owned(), b"{\"model_type\": ".to_vec());
    assert!(refusal(&text).contains("config.json is not readable: EOF while parsing"), "{}", refusal(&text));
    text.insert("config.json".to_owned(), b"[]".to_vec());
    assert_eq!(refusal(&text), "config.json is not readable: it holds no JSON object");
}

#[test]
fn published_spellings_of_tensor_names_are_read() {
    let norm = "encoder.layer.0.attention.output.LayerNorm";
    let published = with_header("bert", |h| {
        rename(h, &format!("{norm}.weight"), &format!("{norm}.gamma"));
        rename(h, &format!("{norm}.bias"), &format!("{norm}.beta"));
        let names: Vec<String> = h.keys().filter(|n| *n != "__metadata__").cloned().collect();
        for name in names {
            rename(h, &name, &format!("bert.{name}"));
        }
    });
    let model = open(&published).expect("prefix and old names are known");
    assert!(model.signature().output("pooler_output").is_some());
    let headless = with_header("bert", |h| {
        rename(h, "pooler.dense.weight", "cls.dense.weight");
        rename(h, "pooler.dense.bias", "cls.dense.bias");
    });
    assert!(open(&headless).expect("a pooler is optional").signature().output("pooler_output").is_none());
}

/// Splits a fixture's weights in two files with an index.
fn sharded() -> Files {
    let mut files = files("distilbert");
    let bytes = files.remove("model.safetensors").expect("there");
    let whole = safetensors::SafeTensors::deserialize(&bytes).expect("valid");
    let mut map = serde_json::Map::new();
    let mut shards = [Vec::new(), Vec::new()];
    for (i, (name, view)) in whole.iter().enumerate() {
        shards[i % 2].push((name.to_owned(), view));
        map.insert(name.to_owned(), format!("model-{}.safetensors", i % 2).into());
    }
    for (i, shard) in shards.into_iter().enumerate() {
        let bytes = safetensors::serialize(shard, None).expect("serialises");
        files.insert(format!("model-{i}.safetensors"), bytes);
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    files.insert("model.safetensors.index.json".to_owned(), index.to_string().into_bytes());
    files
}

#[test]
fn weights_in_several_files_are_the_same_weights() {
    let model = |files: &Files| open(files).expect("a good folder");
    let blocks = |model: &Model| {
        let bucket = model.bucket_for(1, 9).expect("short");
        model.program(bucket, &["last_hidden_state"]).expect("a program").encode()
    };
    assert_eq!(blocks(&model(&sharded())), blocks(&model(&files("distilbert"))), "equal tensors are equal blocks");
}

#[test]
fn an_index_that_lies_is_refused() {
    let mut lies = sharded();
    let index = "model.safetensors.index.json";
    let text = String::from_utf8(lies[index].clone()).expect("text");
    let (a, b) = (r#""embeddings.LayerNorm.bias":"model-0"#, r#""embeddings.LayerNorm.bias":"model-1"#);
    let swapped = if text.contains(a) { text.replace(a, b) } else { text.replace(b, a) };
    lies.insert(index.to_owned(), swapped.into_bytes());
    let got = refusal(&lies);
    assert!(got.contains(r#"tensor "embeddings.LayerNorm.bias", which model.safetensors.index.json places"#), "{got}");

    let mut lacks = sharded();
    lacks.remove("model-1.safetensors");
    assert!(refusal(&lacks).contains("holds no model-1.safetensors"));
    lacks.insert(index.to_owned(), b"{}".to_vec());
    assert_eq!(refusal(&lacks), "model.safetensors.index.json is not readable: it has no weight_map");
    lacks.insert(index.to_owned(), br#"{"weight_map":{"x":7}}"#.to_vec());
    assert_eq!(refusal(&lacks), "model.safetensors.index.json: x is 7, not the name of a file");
    lacks.insert(index.to_owned(), br#"{"weight_map":{"x":"../config.json"}}"#.to_vec());
    assert!(refusal(&lacks).contains("holds no ../config.json"));
}

/// The protobuf encoding of a field that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut rest = bytes.len();
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).expect("7 bits") | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).expect("7 bits"));
    out.extend_from_slice(bytes);
    out
}

/// Opens a folder of whole files as an importer that knows nothing of tensors would make it: one leaf each.
fn open_uncut(files: &Files) -> Result<Model, ModelError> {
    let store = MemoryStore::new(1 << 30);
    let mut node = Vec::new();
    for (name, bytes) in files {
        let block = Block::raw(bytes.clone().into());
        store.put_block(&block).expect("fits");
        node.extend(field(2, &[field(1, &block.cid().to_bytes()), field(2, name.as_bytes())].concat()));
    }
    // UnixFS' mark of a directory.
    node.extend(field(1, &[8, 1]));
    let root = Block::dag_pb(node.into());
    store.put_block(&root).expect("fits");
    Model::open(&store, root.cid())
}

#[test]
fn files_that_were_not_cut_at_their_tensors_are_refused_with_a_hint() {
    let err = open_uncut(&files("bert_odd")).expect_err("one leaf holds every tensor");
    assert!(matches!(&err, ModelError::Blocks { file, .. } if file == "model.safetensors"), "{err}");
    assert!(err.hint().expect("a hint").contains("import the folder again"));
}

#[test]
fn files_that_are_cut_off_or_lie_are_refused_whoever_imported_them() {
    let refusal = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = files("bert_odd");
        change(files.get_mut("model.safetensors").expect("there"));
        let err = open_uncut(&files).expect_err("a broken file");
        assert!(err.hint().expect("a hint").contains("again"));
        err.to_string()
    };
    let cut = refusal(&|bytes| bytes.truncate(bytes.len() - 1));
    assert!(cut.starts_with(r#"model.safetensors is not a valid safetensors file: tensor ""#), "{cut}");
    assert!(cut.ends_with("the file is cut off or its header lies"), "{cut}");
    let header = refusal(&|bytes| bytes.truncate(100));
    assert!(header.contains("bytes, but only 92 follow"), "{header}");
    assert!(refusal(&|bytes| bytes.truncate(7)).contains("7 bytes, fewer than the 8"));
    assert!(refusal(&|bytes| bytes[..8].fill(0xff)).contains("the format allows"));
    assert!(refusal(&|bytes| bytes.push(0)).contains("bytes of data follow the header"));
}

#[test]
fn weights_in_half_precision_stay_as_they_are_stored() {
    let narrowed = |dtype: safetensors::Dtype, narrow: &dyn Fn(f32) -> u16| {
        let mut files = files("bert_odd");
        let bytes = files.remove("model.safetensors").expect("there");
        let whole = safetensors::SafeTensors::deserialize(&bytes).expect("valid");
        let half: Vec<_> = whole
            .iter()
            .map(|(name, view)| {
                let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")));
                let bytes: Vec<u8> = values.flat_map(|v| narrow(v).to_le_bytes()).collect();
                (name, view.shape().to_vec(), bytes)
            })
            .collect();
        let views = half.iter().map(|(name, shape, bytes)| {
            (*name, safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).expect("fits"))
        });
        files.insert("model.safetensors".to_owned(), safetensors::serialize(views, None).expect("serialises"));
        files
    };
    // Truncation is a bfloat16 of sorts, good enough to see that the bytes are read as what they are.
    let bf16 = narrowed(safetensors::Dtype::BF16, &|v| u16::try_from(v.to_bits() >> 16).expect("16 bits"));
    let f16 = narrowed(safetensors::Dtype::F16, &|v| half::f16::from_f32(v).to_bits());
    for (files, stored, tolerance) in [(bf16, DType::BF16, 0.1), (f16, DType::F16, 0.01)] {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (&**n, &**b)).collect();
        let fixture = Fixture::of(&files).expect("a good folder");
        let golden = tensors(&folder("bert_odd").join("golden.safetensors"));
        let names = ["pooler_output".to_owned()];
        let request = fixture.model.prepare(&with_prefix(&golden, "input."), &names).expect("a good request");
        let program = fixture.model.program(request.bucket, &["pooler_output"]).expect("a program");
        assert!(program.graph().weights().iter().all(|w| w.stored == stored));
        let outputs = request.crop.apply(fixture.run(&program, &request.tensors)).expect("as the program says");
        let want = golden["output.pooler_output"].to_f32().expect("floats");
        let got = outputs[0].1.to_f32().expect("floats");
        let worst = got.iter().zip(want.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 1e-5 && worst < tolerance, "{stored}: off by {worst}");
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_config_never_panics(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut files = files("bert");
        files.insert("model.safetensors".to_owned(), b"\x02\0\0\0\0\0\0\0{}".to_vec());
        let config = files.get_mut("config.json").expect("there");
        let at = at.index(config.len());
        config[at] = byte;
        let _ = open(&files);
    }

    #[test]
    fn options_of_any_value_never_panic(key in any::<proptest::sample::Index>(), value in any::<i64>(), text in ".{0,8}") {
        let config: serde_json::Value = serde_json::from_slice(&files("mpnet")["config.json"]).expect("JSON");
        let keys: Vec<_> = config.as_object().expect("an object").keys().cloned().collect();
        let key = &keys[key.index(keys.len())];
        for value in [serde_json::json!(value), serde_json::json!(text), serde_json::json!([value]), serde_json::json!(1e300)] {
            let _ = open(&with_option("mpnet", key, value));
        }
    }

    #[test]
    fn options_of_any_family_may_hold_anything(
        family in proptest::sample::select(FAMILIES),
        at in any::<proptest::sample::Index>(),
        size in proptest::sample::select(&[0i64, 1, 2, 3, 7, 48, 64, 4096, 1 << 20, i64::MAX, -1][..]),
        text in ".{0,8}",
    ) {
        let config: Value = serde_json::from_slice(&files(family)["config.json"]).expect("JSON");
        let mut places = Vec::new();
        options(&config, &mut Vec::new(), &mut places);
        let place = &places[at.index(places.len())];
        for value in [json!(size), json!(text), json!([size, 2]), json!({ "x": size }), json!(1e-300), json!(true), Value::Null] {
            let mut config = config.clone();
            if let Some(option) = place.iter().try_fold(&mut config, |at, key| at.get_mut(key)) {
                *option = value;
            }
            let mut files = files(family);
            files.insert("config.json".to_owned(), config.to_string().into_bytes());
            let _ = open(&files);
        }
    }
}

/// Where the options of a configuration are: the keys that lead to each.
fn options(value: &Value, path: &mut Vec<String>, places: &mut Vec<Vec<String>>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        path.push(key.clone());
        places.push(path.clone());
        options(value, path, places);
        path.pop();
    }
}

/// A fixture of every way to read a configuration.
const FAMILIES: &[&str] = &[
    "bert",
    "clap",
    "clip",
    "deit_teacher",
    "gemma",
    "gpt2",
    "heads/bert_answer",
    "llama",
    "qwen2",
    "qwen3",
    "rotary/llama3",
    "rotary/yarn",
    "siglip",
    "t5",
    "t5_gated",
    "vit",
    "wav2vec2",
    "wav2vec2_stable",
    "whisper",
];

#[test]
fn what_a_family_does_not_build_is_refused_by_name() {
    let cases = [
        ("qwen2", "use_sliding_window", json!(true), "use_sliding_window is true, attention in sliding windows"),
        ("qwen2", "layer_types", json!(["sliding_attention"]), r#"layer_types is ["sliding_attention"], only"#),
        (
            "llama",
            "rope_parameters",
            json!({"rope_type": "longrope"}),
            "whose type is none of default, linear, dynamic, llama3",
        ),
        ("llama", "rope_parameters", json!({"rope_type": "linear"}), "rope_parameters.factor is missing"),
        (
            "llama",
            "num_key_value_heads",
            json!(3),
            "num_key_value_heads is 3, which does not divide num_attention_heads = 4",
        ),
        (
            "llama",
            "architectures",
            json!(["LlamaForTokenClassification"]),
            "only models without a head and ForCausalLM",
        ),
        ("gpt2", "add_cross_attention", json!(true), "add_cross_attention is true, only decoders"),
        ("t5", "feed_forward_proj", json!("gated-mish"), r#"feed_forward_proj is "gated-mish", supported are relu"#),
        ("t5", "relative_attention_max_distance", json!(16), "relative_attention_max_distance is 16, too near"),
        ("vit", "architectures", json!(["ViTForMaskedImageModeling"]), "ForImageClassification"),
        ("vit", "image_size", json!(4), "image_size is 4, of which patches of [8, 8]"),
        ("clip", "text_config", json!(7), "text_config is 7, not an object"),
        (
            "clip",
            "vision_config",
            json!({"num_attention_heads": 7}),
            "vision_config.num_attention_heads is 7, which does not",
        ),
        ("siglip", "vision_config", json!({"vision_use_head": false}), "vision_config.vision_use_head is false"),
        ("wav2vec2", "add_adapter", json!(true), "add_adapter is true, adapters are not supported"),
        ("wav2vec2", "conv_dim", json!([32]), "conv_dim is [32], not as long as conv_kernel"),
        ("whisper", "activation_function", json!("mish"), r#"activation_function is "mish", supported are gelu"#),
        ("clap", "audio_config", json!({"enable_fusion": true}), "audio_config.enable_fusion is true, fusing parts"),
        ("heads/bert_token", "id2label", json!({"1": "A"}), r#"id2label is {"1":"A"}, not an object of names"#),
    ];
    for (family, key, value, want) in cases {
        let got = refusal(&with_option(family, key, value));
        assert!(got.contains(want), "{family}: {got}");
    }
    let lacks = with_header("whisper", |h| rename(h, "model.decoder.layers.1.encoder_attn.v_proj.bias", "renamed"));
    assert!(refusal(&lacks).contains(r#"tensor "model.decoder.layers.1.encoder_attn.v_proj.bias" is missing"#));
}

#[test]
fn older_names_of_tensors_and_files_without_prefixes_are_read() {
    let conv = "wav2vec2.encoder.pos_conv_embed.conv";
    let older = with_header("wav2vec2", |h| {
        rename(h, &format!("{conv}.parametrizations.weight.original0"), &format!("{conv}.weight_g"));
        rename(h, &format!("{conv}.parametrizations.weight.original1"), &format!("{conv}.weight_v"));
    });
    assert_eq!(open(&older).expect("old names are known").architecture(), "wav2vec2");
    let bare = with_header("gpt2", |h| {
        let names: Vec<String> = h.keys().filter(|n| n.starts_with("transformer.")).cloned().collect();
        for name in names {
            rename(h, &name, name.strip_prefix("transformer.").expect("a prefix"));
        }
    });
    assert!(open(&bare).expect("published files have no prefix").generation().is_some());
    let labels = open(&files("heads/bert_token")).expect("a good folder");
    assert_eq!(labels.labels(), ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"]);
    let old = with_option("clip", "model_type", Value::Null);
    assert_eq!(
        open(&old).expect("the class name tells").entries().map(|e| e.name()).collect::<Vec<_>>(),
        ["model", "text", "vision"]
    );
    let unknown = open(&files("clip")).expect("a good folder").entry("audio").expect_err("no such part").to_string();
    assert_eq!(unknown, r#"the model has no entry point "audio"; it has model, text, vision"#);
}
