//! The model: a GPT-2 with weights that are drawn for it, as a folder for us and as ONNX files for the peer.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::Fault;
use crate::onnx::{EPSILON, Gpt2Form, Gpt2Sizes, gpt2_model};
use crate::rig::weights::{Drawn, Random, write};

/// The forms of attention that the peer is given.
pub(super) const FORMS: [Gpt2Form; 2] = [Gpt2Form::Fused, Gpt2Form::Primitive];

/// A model that was written.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) sizes: Gpt2Sizes,
    /// The folder of the Hugging Face kind.
    pub(super) folder: PathBuf,
}

impl Subject {
    /// Draws the weights and writes the folder, and the ONNX files into another.
    pub(super) fn write(sizes: Gpt2Sizes, folder: &Path, files: &Path) -> Result<Self, Fault> {
        if !sizes.hidden.is_multiple_of(sizes.heads) {
            return Err(format!("{} heads do not share {} numbers evenly", sizes.heads, sizes.hidden).into());
        }
        let weights = weights(sizes);
        fs::create_dir_all(folder)?;
        fs::create_dir_all(files)?;
        let config = json!({
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": "gelu_new",
            "layer_norm_epsilon": EPSILON,
            "n_embd": sizes.hidden,
            "n_head": sizes.heads,
            "n_layer": sizes.layers,
            "n_positions": sizes.positions,
            "vocab_size": sizes.vocabulary,
            "tie_word_embeddings": false,
        });
        fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
        write(&weights, folder)?;
        for form in FORMS {
            let weight = |name: &str| weights.get(name).cloned().unwrap_or_default();
            fs::write(files.join(file(form)), gpt2_model(sizes, form, &weight))?;
        }
        Ok(Self { sizes, folder: folder.to_owned() })
    }

    /// A prompt of so many tokens: spread over the vocabulary, the same in every run.
    pub(super) fn prompt(&self, tokens: usize) -> Vec<i32> {
        let vocabulary = self.sizes.vocabulary as u64;
        let id = |at: u64| (at * 2_654_435_761 + 97) % vocabulary;
        (0..tokens as u64).map(|at| i32::try_from(id(at)).unwrap_or_default()).collect()
    }
}

/// The ONNX file's name.
pub(super) fn file(form: Gpt2Form) -> String {
    format!("generation-{}.onnx", form.name())
}

/// Weights with which attention and every layer matter to what is said, the same in every run: vectors keep their length
/// Draws a tensor of this name and shape, around a mean with a spread.
type Draw<'a> = dyn FnMut(String, &[usize], f32, f32) + 'a;

/// through linear layers, and the table of logits is one of its own, so that a model does not say what it has read.
fn weights(sizes: Gpt2Sizes) -> HashMap<String, Drawn> {
    let Gpt2Sizes { layers, hidden, vocabulary, positions, .. } = sizes;
    let mut weights = HashMap::new();
    let mut random = Random::default();
    let mut draw = |name: String, dims: &[usize], mean: f32, spread: f32| {
        let values = (0..dims.iter().product()).map(|_| mean + spread * random.next()).collect();
        weights.insert(name, (dims.to_vec(), values));
    };
    #[expect(clippy::cast_precision_loss, reason = "sizes are small")]
    let even = |ins: usize| 1.0 / (ins as f32).sqrt();
    draw("transformer.wte.weight".to_owned(), &[vocabulary, hidden], 0.0, 1.0);
    draw("transformer.wpe.weight".to_owned(), &[positions, hidden], 0.0, 0.5);
    let norm = |draw: &mut Draw<'_>, name: String| {
        draw(format!("{name}.weight"), &[hidden], 1.0, 0.1);
        draw(format!("{name}.bias"), &[hidden], 0.0, 0.1);
    };
    for layer in 0..layers {
        let path = format!("transformer.h.{layer}");
        norm(&mut draw, format!("{path}.ln_1"));
        norm(&mut draw, format!("{path}.ln_2"));
        let linear = [
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ];
        for (name, ins, outs) in linear {
            draw(format!("{path}.{name}.weight"), &[ins, outs], 0.0, even(ins));
            draw(format!("{path}.{name}.bias"), &[outs], 0.0, 0.1);
        }
    }
    norm(&mut draw, "transformer.ln_f".to_owned());
    draw("lm_head.weight".to_owned(), &[vocabulary, hidden], 0.0, even(hidden));
    weights
}
