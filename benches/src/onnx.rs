//! BERT folders as ONNX files, for the peers that read nothing else; GPT-2s stand in a file of their own.
//!
//! The nodes are those that PyTorch's exporter gives for `BertModel` with primitive attention (opset 17, free batch and
//! sequence, output `last_hidden_state`): the patterns that onnxruntime's fusions look for. Where exporters of different
//! years differ, the form is taken that onnxruntime fuses into more: the mask is added as `(1 - mask) * lowest`, and shapes of
//! reshapes are constants. Linear weights are stored `[in, out]`, as the exporter folds them. A weak peer proves nothing.

mod gpt2;
mod graph;
mod wire;

use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::Fault;
pub use gpt2::{EPSILON, Gpt2Form, Gpt2Sizes, Weights, gpt2_model};
use graph::{Attribute, Dim, Element, Graph, Name};

const OPSET: i64 = 17;

/// The sizes of a BERT, from its `config.json`.
#[derive(Clone, Copy, Debug)]
pub struct BertSizes {
    /// Layers.
    pub layers: usize,
    /// Numbers a token.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Numbers between the two linear layers of a layer.
    pub inner: usize,
    /// Tokens there are.
    pub vocabulary: usize,
    /// The longest sequence.
    pub positions: usize,
    epsilon: f32,
}

impl BertSizes {
    /// Reads a model folder's `config.json`.
    ///
    /// # Errors
    /// Where it is no BERT with GELU and absolute positions, or a size is missing.
    pub fn read(folder: &Path) -> Result<Self, Fault> {
        let path = folder.join("config.json");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let config: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let expect = |key: &str, wanted: &str| match config[key].as_str() {
            Some(found) if found != wanted => Err(format!("{}: {key} is {found:?}, not {wanted:?}", path.display())),
            _ => Ok(()),
        };
        expect("model_type", "bert")?;
        expect("hidden_act", "gelu")?;
        expect("position_embedding_type", "absolute")?;
        let size = |key: &str| {
            let found = config[key].as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
            found.ok_or_else(|| format!("{}: {key} is no size", path.display()))
        };
        let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        if hidden % heads != 0 {
            return Err(format!("{}: {heads} heads do not share {hidden} numbers evenly", path.display()).into());
        }
        #[expect(clippy::cast_possible_truncation, reason = "the reference computes in f32, too")]
        let epsilon = config["layer_norm_eps"].as_f64().unwrap_or(1e-12) as f32;
        Ok(Self {
            layers: size("num_hidden_layers")?,
            hidden,
            heads,
            inner: size("intermediate_size")?,
            vocabulary: size("vocab_size")?,
            positions: size("max_position_embeddings")?,
            epsilon,
        })
    }
}

/// Writes a BERT folder as one ONNX file.
///
/// # Errors
/// Where the folder is no BERT in f32, or the file cannot be written.
pub fn export_bert(folder: &Path, to: &Path) -> Result<(), Fault> {
    let sizes = BertSizes::read(folder)?;
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let weights = SafeTensors::deserialize(&bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    let model = Export { graph: Graph::default(), weights, sizes }.model()?;
    fs::write(to, model).map_err(|e| format!("{}: {e}", to.display()).into())
}

struct Export<'a> {
    graph: Graph,
    weights: SafeTensors<'a>,
    sizes: BertSizes,
}

impl Export<'_> {
    fn model(mut self) -> Result<Vec<u8>, Fault> {
        let free = [Dim::Free("batch"), Dim::Free("seq")];
        let [ids, mask, types] =
            ["input_ids", "attention_mask", "token_type_ids"].map(|name| self.graph.input(name, Element::I64, &free));
        let mask = self.mask(&mask);
        let mut hidden = self.embeddings(&ids, &types)?;
        for layer in 0..self.sizes.layers {
            let attended = self.attention(layer, &hidden, &mask)?;
            let path = format!("encoder.layer.{layer}");
            let inner = self.linear(&format!("{path}.intermediate.dense"), &attended)?;
            let inner = self.gelu(&format!("{path}.intermediate.gelu"), &inner);
            let outer = self.linear(&format!("{path}.output.dense"), &inner)?;
            let sum = self.graph.node(&format!("{path}.output.Add"), "Add", &[&outer, &attended], &[]);
            hidden = self.norm(&format!("{path}.output.LayerNorm"), &sum)?;
        }
        // The last norm's name is inside the graph; an identity would be removed at once, so it costs nothing.
        self.graph.node_to("last_hidden_state", "last", "Identity", &[&hidden], &[]);
        let dims = [Dim::Free("batch"), Dim::Free("seq"), Dim::Fixed(self.sizes.hidden)];
        self.graph.output("last_hidden_state", Element::F32, &dims);
        Ok(self.graph.into_model(OPSET))
    }

    /// 0 where a token may be attended to, the lowest number where not: `[batch, 1, 1, seq]`.
    fn mask(&mut self, mask: &str) -> Name {
        let graph = &mut self.graph;
        let (one, two) = (graph.integers("mask.axis1", &[1], &[1]), graph.integers("mask.axis2", &[1], &[2]));
        let mask = graph.node("mask.Unsqueeze", "Unsqueeze", &[mask, &one], &[]);
        let mask = graph.node("mask.Unsqueeze_1", "Unsqueeze", &[&mask, &two], &[]);
        let mask = graph.node("mask.Cast", "Cast", &[&mask], &[Attribute::Int("to", Element::F32 as i64)]);
        let whole = graph.floats("mask.one", &[], &[1.0]);
        let lowest = graph.floats("mask.lowest", &[], &[f32::MIN]);
        let mask = graph.node("mask.Sub", "Sub", &[&whole, &mask], &[]);
        graph.node("mask.Mul", "Mul", &[&mask, &lowest], &[])
    }

    fn embeddings(&mut self, ids: &str, types: &str) -> Result<Name, Fault> {
        let [words, kinds, places] = ["word", "token_type", "position"].map(|what| {
            let name = format!("embeddings.{what}_embeddings.weight");
            self.weight(&name)
        });
        let (words, kinds, places) = (words?, kinds?, places?);
        let positions = self.sizes.positions;
        let graph = &mut self.graph;
        let shape = graph.node("embeddings.Shape", "Shape", &[ids], &[]);
        let one = graph.integers("embeddings.one", &[], &[1]);
        let length = graph.node("embeddings.Gather", "Gather", &[&shape, &one], &[Attribute::Int("axis", 0)]);
        let (axis, begin) =
            (graph.integers("embeddings.axis", &[1], &[0]), graph.integers("embeddings.begin", &[1], &[0]));
        let length = graph.node("embeddings.Unsqueeze", "Unsqueeze", &[&length, &axis], &[]);
        let all: Vec<i64> = (0..positions as i64).collect();
        let all = graph.integers("embeddings.position_ids", &[1, positions], &all);
        let (row, step) = (graph.integers("embeddings.row", &[1], &[1]), graph.integers("embeddings.step", &[1], &[1]));
        let places_used = graph.node("embeddings.Slice", "Slice", &[&all, &begin, &length, &row, &step], &[]);
        let word = graph.node("embeddings.word", "Gather", &[&words, ids], &[]);
        let kind = graph.node("embeddings.token_type", "Gather", &[&kinds, types], &[]);
        let sum = graph.node("embeddings.Add", "Add", &[&word, &kind], &[]);
        let place = graph.node("embeddings.position", "Gather", &[&places, &places_used], &[]);
        let sum = graph.node("embeddings.Add_1", "Add", &[&sum, &place], &[]);
        self.norm("embeddings.LayerNorm", &sum)
    }

    fn attention(&mut self, layer: usize, hidden: &str, mask: &str) -> Result<Name, Fault> {
        let BertSizes { heads, hidden: width, .. } = self.sizes;
        let path = format!("encoder.layer.{layer}.attention");
        let split = [0, 0, heads as i64, (width / heads) as i64];
        let mut parts = Vec::with_capacity(3);
        // Queries and values as [batch, heads, seq, size], keys transposed.
        for (what, order) in [("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])] {
            let part = self.linear(&format!("{path}.self.{what}"), hidden)?;
            let shape = self.graph.integers(&format!("{path}.self.{what}.shape"), &[4], &split);
            let part = self.graph.node(&format!("{path}.self.{what}.Reshape"), "Reshape", &[&part, &shape], &[]);
            let order = [Attribute::Ints("perm", &order)];
            parts.push(self.graph.node(&format!("{path}.self.{what}.Transpose"), "Transpose", &[&part], &order));
        }
        let graph = &mut self.graph;
        let name = |what: &str| format!("{path}.self.{what}");
        let scores = graph.node(&name("MatMul"), "MatMul", &[&parts[0], &parts[1]], &[]);
        #[expect(clippy::cast_precision_loss, reason = "heads are small")]
        let root = graph.floats(&name("root"), &[], &[((width / heads) as f32).sqrt()]);
        let scores = graph.node(&name("Div"), "Div", &[&scores, &root], &[]);
        let scores = graph.node(&name("Add"), "Add", &[&scores, mask], &[]);
        let shares = graph.node(&name("Softmax"), "Softmax", &[&scores], &[Attribute::Int("axis", -1)]);
        let mixed = graph.node(&name("MatMul_1"), "MatMul", &[&shares, &parts[2]], &[]);
        let order = [Attribute::Ints("perm", &[0, 2, 1, 3])];
        let mixed = graph.node(&name("Transpose_3"), "Transpose", &[&mixed], &order);
        let shape = graph.integers(&name("merged"), &[3], &[0, 0, width as i64]);
        let mixed = graph.node(&name("Reshape_3"), "Reshape", &[&mixed, &shape], &[]);
        let out = self.linear(&format!("{path}.output.dense"), &mixed)?;
        let sum = self.graph.node(&format!("{path}.output.Add"), "Add", &[&out, hidden], &[]);
        self.norm(&format!("{path}.output.LayerNorm"), &sum)
    }

    /// `input * weight^T + bias`, the weight stored transposed.
    fn linear(&mut self, path: &str, input: &str) -> Result<Name, Fault> {
        let (dims, values) = self.values(&format!("{path}.weight"))?;
        let &[outs, ins] = &*dims else {
            return Err(format!("{path}.weight has shape {dims:?}, not two dimensions").into());
        };
        let mut transposed = vec![0.0; values.len()];
        for (out, row) in values.chunks_exact(ins).enumerate() {
            for (at, value) in row.iter().enumerate() {
                transposed[at * outs + out] = *value;
            }
        }
        let weight = self.graph.floats(&format!("{path}.weight"), &[ins, outs], &transposed);
        let bias = self.weight(&format!("{path}.bias"))?;
        let product = self.graph.node(&format!("{path}.MatMul"), "MatMul", &[input, &weight], &[]);
        Ok(self.graph.node(&format!("{path}.Add"), "Add", &[&bias, &product], &[]))
    }

    /// GELU by the error function, as the exporter spells it.
    fn gelu(&mut self, path: &str, input: &str) -> Name {
        let graph = &mut self.graph;
        let name = |what: &str| format!("{path}.{what}");
        let root = graph.floats(&name("root"), &[], &[std::f32::consts::SQRT_2]);
        let one = graph.floats(&name("one"), &[], &[1.0]);
        let half = graph.floats(&name("half"), &[], &[0.5]);
        let scaled = graph.node(&name("Div"), "Div", &[input, &root], &[]);
        let erf = graph.node(&name("Erf"), "Erf", &[&scaled], &[]);
        let raised = graph.node(&name("Add"), "Add", &[&erf, &one], &[]);
        let product = graph.node(&name("Mul"), "Mul", &[input, &raised], &[]);
        graph.node(&name("Mul_1"), "Mul", &[&product, &half], &[])
    }

    fn norm(&mut self, path: &str, input: &str) -> Result<Name, Fault> {
        // Files from before 2020 call them gamma and beta.
        let scale = self.weight(&format!("{path}.weight")).or_else(|_| self.weight(&format!("{path}.gamma")))?;
        let bias = self.weight(&format!("{path}.bias")).or_else(|_| self.weight(&format!("{path}.beta")))?;
        let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", self.sizes.epsilon)];
        Ok(self.graph.node(path, "LayerNormalization", &[input, &scale, &bias], &attributes))
    }

    /// A weight as it is in the folder, put into the file.
    fn weight(&mut self, name: &str) -> Result<Name, Fault> {
        let (dims, values) = self.values(name)?;
        Ok(self.graph.floats(name, &dims, &values))
    }

    fn values(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), Fault> {
        let prefixed = format!("bert.{name}");
        let found = self.weights.tensor(name).or_else(|_| self.weights.tensor(&prefixed));
        let found = found.map_err(|e| format!("tensor {name}: {e}"))?;
        if found.dtype() != Dtype::F32 {
            return Err(format!("tensor {name} is {:?}, only F32 is exported", found.dtype()).into());
        }
        let values = found.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok((found.shape().to_vec(), values))
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{BertSizes, export_bert};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
    }

    /// Whether and how often bytes occur in others.
    fn count(bytes: &[u8], wanted: &[u8]) -> usize {
        bytes.windows(wanted.len()).filter(|window| *window == wanted).count()
    }

    #[test]
    fn a_file_holds_the_nodes_and_weights_of_every_layer() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.onnx");
        export_bert(&fixture("bert_odd"), &path).expect("it is a BERT");
        let sizes = BertSizes::read(&fixture("bert_odd")).expect("it is a BERT");
        let bytes = std::fs::read(path).expect("it was written");
        // As node types they are preceded by their field's number and length.
        assert_eq!(count(&bytes, b"\x22\x07Softmax"), sizes.layers);
        assert_eq!(count(&bytes, b"\x22\x06MatMul"), sizes.layers * 8);
        assert_eq!(count(&bytes, b"\x22\x12LayerNormalization"), sizes.layers * 2 + 1);
        let table = sizes.vocabulary * sizes.hidden * 4;
        assert!(bytes.len() > table, "the largest table alone takes {table} bytes");
    }

    #[test]
    fn what_is_no_bert_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = export_bert(&fixture("distilbert"), &folder.path().join("x")).expect_err("it is a DistilBERT");
        assert!(error.to_string().contains("config.json") && error.to_string().contains("distilbert"), "{error}");
    }
}
