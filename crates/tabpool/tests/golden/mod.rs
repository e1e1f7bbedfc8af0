//! What the fixtures say of generation; the end-to-end suites read it here too.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use tabpool::{DType, Tensor, TokenPrompt};

/// The fixtures that generate.
pub(crate) const GENERATING: [&str; 6] = ["gpt2", "llama", "qwen2", "qwen3", "t5", "whisper"];

/// A fixture's folder.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut folders = above.map(|folder| folder.join("tests/fixtures").join(name));
    folders.find(|folder| folder.is_dir()).expect("a fixture")
}

/// What a model was given, and what it said.
pub(crate) struct Golden {
    pub(crate) prompt: TokenPrompt,
    pub(crate) tokens: Vec<i32>,
    /// The text of the tokens, where the fixture has a tokenizer.
    #[allow(dead_code, reason = "not every suite reads text")]
    pub(crate) text: Option<String>,
}

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(fixture(name).join("golden.json")).expect("a golden");
        let golden: Value = serde_json::from_str(&text).expect("JSON");
        let generation = &golden["generation"];
        let ids = |key: &str| -> Vec<i32> {
            let list = generation[key].as_array().expect("ids");
            list.iter().map(|id| i32::try_from(id.as_i64().expect("an id")).expect("small")).collect()
        };
        let prompt = match name {
            "t5" => {
                let ids = ids("prompt_ids");
                let mask = Tensor::from_i32([1, ids.len()], vec![1; ids.len()]).expect("fits");
                let ids = Tensor::from_i32([1, ids.len()], ids).expect("fits");
                let source = vec![("input_ids".to_owned(), ids), ("attention_mask".to_owned(), mask)];
                TokenPrompt { ids: vec![Vec::new()], source }
            }
            "whisper" => TokenPrompt { ids: vec![Vec::new()], source: vec![features(name)] },
            _ => TokenPrompt { ids: vec![ids("prompt_ids")], source: Vec::new() },
        };
        let text = generation["text"].as_str().map(str::to_owned);
        Self { prompt, tokens: ids("token_ids"), text }
    }
}

fn features(name: &str) -> (String, Tensor) {
    let bytes = std::fs::read(fixture(name).join("golden.safetensors")).expect("a golden");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let found = file.tensors().into_iter().find(|(name, _)| name.ends_with("input_features")).expect("features").1;
    let dtype: DType = format!("{:?}", found.dtype()).parse().expect("a dtype");
    let tensor = Tensor::new(dtype, found.shape().to_vec(), found.data().to_vec().into()).expect("sound");
    ("input_features".to_owned(), tensor)
}
