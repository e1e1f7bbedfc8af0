//! The models and what they are asked: texts, pictures, sounds.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tabpool::Tensor;

use crate::Fault;
use crate::rig::weights::{Drawn, Random, write as write_weights};

/// The two that are drawn have layers as small ones of their families do.
const HIDDEN: usize = 192;
const HEADS: usize = 3;
const INNER: usize = 768;
const LAYERS: [usize; 2] = [12, 6];
const PICTURE: usize = 224;
const PATCH: usize = 16;
const CLASSES: usize = 10;
/// A second of sound.
const SAMPLES: usize = 16_000;
/// Of the convolutions over it: kernel and stride of each, as wav2vec 2.0 has them, with fewer channels.
const CONVOLUTIONS: [[usize; 2]; 7] = [[10, 5], [3, 2], [3, 2], [3, 2], [3, 2], [2, 2], [2, 2]];
const CHANNELS: usize = 128;
/// Of the convolution that says where a frame is.
const POSITIONS: [usize; 2] = [64, 16];
const LETTERS: usize = 32;

/// What a model works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Picture,
    Sound,
}

/// A model.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) folder: PathBuf,
    pub(super) output: &'static str,
    kind: Kind,
}

/// Writes those that are drawn.
pub(super) fn write(text: &Path, scratch: &Path) -> Result<Vec<Subject>, Fault> {
    let (picture, sound) = (scratch.join("vit"), scratch.join("wav2vec2"));
    write_model(&picture, &vit_config(), &vit_weights())?;
    write_model(&sound, &sound_config(), &sound_weights())?;
    let subject = |name, folder: &Path, output, kind| Subject { name, folder: folder.to_owned(), output, kind };
    Ok(vec![
        subject("text", text, "sentence_embedding", Kind::Text),
        subject("pictures", &picture, "logits", Kind::Picture),
        subject("sounds", &sound, "logits", Kind::Sound),
    ])
}

impl Subject {
    /// What it is asked with this number, the same in every run.
    pub(super) fn question(&self, number: usize) -> Result<Vec<(String, Tensor)>, Fault> {
        let spread = |at: usize, of: usize| (at * 7919 + number * 104_729) % of;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let value = |at: usize| spread(at, 2001) as f32 / 1000.0 - 1.0;
        let (name, tensor) = match self.kind {
            Kind::Text => {
                let length = 16 + number % 16;
                let inner = (0..length - 2).map(|at| 2000 + spread(at, 20_000) as i64);
                let ids = [101].into_iter().chain(inner).chain([102]).collect::<Vec<_>>();
                ("input_ids", Tensor::from_i64([1, length], ids)?)
            }
            Kind::Picture => {
                let values = (0..3 * PICTURE * PICTURE).map(value).collect::<Vec<_>>();
                ("pixel_values", Tensor::from_f32([1, 3, PICTURE, PICTURE], values)?)
            }
            Kind::Sound => {
                ("input_values", Tensor::from_f32([1, SAMPLES], (0..SAMPLES).map(value).collect::<Vec<_>>())?)
            }
        };
        Ok(vec![(name.to_owned(), tensor)])
    }
}

fn write_model(folder: &Path, config: &Value, weights: &HashMap<String, Drawn>) -> Result<(), Fault> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(config)?)?;
    write_weights(weights, folder)
}

fn vit_config() -> Value {
    let labels: HashMap<String, String> = (0..CLASSES).map(|label| (label.to_string(), format!("{label}"))).collect();
    json!({
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_act": "gelu",
        "hidden_size": HIDDEN, "image_size": PICTURE, "intermediate_size": INNER, "layer_norm_eps": 1e-12,
        "num_attention_heads": HEADS, "num_channels": 3, "num_hidden_layers": LAYERS[0], "patch_size": PATCH,
        "qkv_bias": true, "id2label": labels,
    })
}

fn sound_config() -> Value {
    json!({
        "model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "hidden_act": "gelu", "feat_extract_activation": "gelu",
        "feat_extract_norm": "group", "conv_bias": false, "do_stable_layer_norm": false,
        "conv_dim": vec![CHANNELS; CONVOLUTIONS.len()], "conv_kernel": CONVOLUTIONS.map(|[kernel, _]| kernel),
        "conv_stride": CONVOLUTIONS.map(|[_, stride]| stride), "hidden_size": HIDDEN, "intermediate_size": INNER,
        "layer_norm_eps": 1e-5, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS[1],
        "num_conv_pos_embeddings": POSITIONS[0], "num_conv_pos_embedding_groups": POSITIONS[1], "vocab_size": LETTERS,
        "num_feat_extract_layers": CONVOLUTIONS.len(), "add_adapter": false,
    })
}

/// Draws tensors under a prefix.
#[derive(Default)]
struct Drawing {
    random: Random,
    weights: HashMap<String, Drawn>,
}

impl Drawing {
    fn draw(&mut self, name: &str, dims: &[usize], mean: f32, spread: f32) {
        let values = (0..dims.iter().product()).map(|_| mean + spread * self.random.next()).collect();
        self.weights.insert(name.to_owned(), (dims.to_vec(), values));
    }

    /// A weight that keeps the length of vectors, its columns being the product of all dimensions but the first.
    fn weight(&mut self, name: &str, dims: &[usize]) {
        let columns = dims.iter().skip(1).product::<usize>();
        #[expect(clippy::cast_precision_loss, reason = "sizes are small")]
        let spread = 1.0 / (columns as f32).sqrt();
        self.draw(&format!("{name}.weight"), dims, 0.0, spread);
    }

    fn linear(&mut self, name: &str, outs: usize, ins: usize) {
        self.weight(name, &[outs, ins]);
        self.draw(&format!("{name}.bias"), &[outs], 0.0, 0.1);
    }

    fn norm(&mut self, name: &str, size: usize) {
        self.draw(&format!("{name}.weight"), &[size], 1.0, 0.1);
        self.draw(&format!("{name}.bias"), &[size], 0.0, 0.1);
    }
}

fn vit_weights() -> HashMap<String, Drawn> {
    let mut drawing = Drawing::default();
    let tokens = (PICTURE / PATCH) * (PICTURE / PATCH) + 1;
    drawing.draw("vit.embeddings.cls_token", &[1, 1, HIDDEN], 0.0, 1.0);
    drawing.draw("vit.embeddings.position_embeddings", &[1, tokens, HIDDEN], 0.0, 0.5);
    let patches = "vit.embeddings.patch_embeddings.projection";
    drawing.weight(patches, &[HIDDEN, 3, PATCH, PATCH]);
    drawing.draw(&format!("{patches}.bias"), &[HIDDEN], 0.0, 0.1);
    for layer in 0..LAYERS[0] {
        let path = format!("vit.encoder.layer.{layer}");
        for part in [
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
        ] {
            drawing.linear(&format!("{path}.{part}"), HIDDEN, HIDDEN);
        }
        drawing.linear(&format!("{path}.intermediate.dense"), INNER, HIDDEN);
        drawing.linear(&format!("{path}.output.dense"), HIDDEN, INNER);
        drawing.norm(&format!("{path}.layernorm_before"), HIDDEN);
        drawing.norm(&format!("{path}.layernorm_after"), HIDDEN);
    }
    drawing.norm("vit.layernorm", HIDDEN);
    drawing.linear("classifier", CLASSES, HIDDEN);
    drawing.weights
}

fn sound_weights() -> HashMap<String, Drawn> {
    let mut drawing = Drawing::default();
    for (layer, [kernel, _]) in CONVOLUTIONS.into_iter().enumerate() {
        let ins = if layer == 0 { 1 } else { CHANNELS };
        drawing.weight(&format!("wav2vec2.feature_extractor.conv_layers.{layer}.conv"), &[CHANNELS, ins, kernel]);
    }
    drawing.norm("wav2vec2.feature_extractor.conv_layers.0.layer_norm", CHANNELS);
    drawing.norm("wav2vec2.feature_projection.layer_norm", CHANNELS);
    drawing.linear("wav2vec2.feature_projection.projection", HIDDEN, CHANNELS);
    drawing.draw("wav2vec2.masked_spec_embed", &[HIDDEN], 0.0, 1.0);
    let [kernel, groups] = POSITIONS;
    let places = "wav2vec2.encoder.pos_conv_embed.conv";
    drawing.draw(&format!("{places}.bias"), &[HIDDEN], 0.0, 0.1);
    drawing.draw(&format!("{places}.parametrizations.weight.original0"), &[1, 1, kernel], 1.0, 0.1);
    drawing.draw(&format!("{places}.parametrizations.weight.original1"), &[HIDDEN, HIDDEN / groups, kernel], 0.0, 1.0);
    drawing.norm("wav2vec2.encoder.layer_norm", HIDDEN);
    for layer in 0..LAYERS[1] {
        let path = format!("wav2vec2.encoder.layers.{layer}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            drawing.linear(&format!("{path}.attention.{part}"), HIDDEN, HIDDEN);
        }
        drawing.linear(&format!("{path}.feed_forward.intermediate_dense"), INNER, HIDDEN);
        drawing.linear(&format!("{path}.feed_forward.output_dense"), HIDDEN, INNER);
        drawing.norm(&format!("{path}.layer_norm"), HIDDEN);
        drawing.norm(&format!("{path}.final_layer_norm"), HIDDEN);
    }
    drawing.linear("lm_head", LETTERS, HIDDEN);
    drawing.weights
}

#[cfg(test)]
mod tests {
    use super::{sound_weights, vit_weights, write};

    #[test]
    fn every_model_has_questions_of_its_own() {
        let scratch = tempfile::tempdir().expect("a folder");
        let subjects = write(scratch.path(), scratch.path()).expect("they are written");
        for subject in subjects {
            let [one, again, two] = [0, 0, 1].map(|number| subject.question(number).expect("a question"));
            assert!(one[0].1.data() == again[0].1.data() && one[0].1.data() != two[0].1.data(), "{}", subject.name);
        }
        assert!(vit_weights().len() > 12 * 16 && sound_weights().len() > 6 * 16);
    }
}
