//! A GPT-2 that says one token after another, as an ONNX file with the inputs and outputs that optimum gives decoders:
//! `past_key_values.*` in, `present.*` out, beside `input_ids`, `attention_mask` and `position_ids`.
//!
//! There are two forms. *Primitive* has the nodes of PyTorch's exporter. *Fused* has onnxruntime's own attention over grouped
//! queries, packed, as the models that transformers.js runs have it by now. Only the last token's logits are computed, the
//! batch is one, and shapes that follow are constants, so that no time goes into computing them.

use super::OPSET;
use super::graph::{Attribute, Dim, Element, Graph, Name};

/// The sizes of a GPT-2.
#[derive(Clone, Copy, Debug)]
pub struct Gpt2Sizes {
    /// Layers.
    pub layers: usize,
    /// Numbers a token.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Tokens there are.
    pub vocabulary: usize,
    /// The longest text.
    pub positions: usize,
}

/// How attention is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gpt2Form {
    /// As products, a mask and a softmax.
    Primitive,
    /// As one of onnxruntime's own nodes.
    Fused,
}

impl Gpt2Form {
    /// Its name in figures and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Primitive => "primitive",
            Self::Fused => "fused",
        }
    }
}

/// The epsilon of GPT-2's norms.
pub const EPSILON: f32 = 1e-5;

/// What gives a tensor's shape and values by its name.
pub type Weights<'a> = &'a dyn Fn(&str) -> (Vec<usize>, Vec<f32>);

/// The ONNX file of a GPT-2 whose tensors `weight` gives by their names in a Hugging Face folder.
pub fn gpt2_model(sizes: Gpt2Sizes, form: Gpt2Form, weight: Weights<'_>) -> Vec<u8> {
    Export { graph: Graph::default(), weight, sizes, form }.model()
}

/// The inputs or outputs of a layer's cache.
fn cache(kind: &str, layer: usize) -> [String; 2] {
    ["key", "value"].map(|what| format!("{kind}.{layer}.{what}"))
}

struct Export<'a> {
    graph: Graph,
    weight: Weights<'a>,
    sizes: Gpt2Sizes,
    form: Gpt2Form,
}

/// What every layer's attention reads besides its own.
enum Seen {
    /// What is added to scores.
    Mask(Name),
    /// The last key's place, and how many keys there are, as 32-bit integers.
    Lengths([Name; 2]),
}

impl Export<'_> {
    fn model(mut self) -> Vec<u8> {
        let Gpt2Sizes { layers, hidden, heads, .. } = self.sizes;
        let tokens = [Dim::Fixed(1), Dim::Free("sequence")];
        let ids = self.graph.input("input_ids", Element::I64, &tokens);
        let total = [Dim::Fixed(1), Dim::Free("total")];
        let mask = self.graph.input("attention_mask", Element::I64, &total);
        let positions = self.graph.input("position_ids", Element::I64, &tokens);
        let size = hidden / heads;
        let caches = |length| [Dim::Fixed(1), Dim::Fixed(heads), Dim::Free(length), Dim::Fixed(size)];
        for layer in 0..layers {
            for name in cache("past_key_values", layer) {
                self.graph.input(&name, Element::F32, &caches("past"));
            }
        }
        let seen = match self.form {
            Gpt2Form::Primitive => Seen::Mask(self.mask(&mask, &positions)),
            Gpt2Form::Fused => Seen::Lengths(self.lengths(&mask)),
        };
        let (words, places) = (self.weight("transformer.wte.weight"), self.weight("transformer.wpe.weight"));
        let words = self.graph.node("wte.Gather", "Gather", &[&words, &ids], &[]);
        let places = self.graph.node("wpe.Gather", "Gather", &[&places, &positions], &[]);
        let mut x = self.graph.node("embeddings.Add", "Add", &[&words, &places], &[]);
        for layer in 0..layers {
            x = self.layer(layer, &x, &seen);
        }
        let x = self.norm("transformer.ln_f", &x);
        let last = self.graph.integers("last", &[], &[-1]);
        let x = self.graph.node("last.Gather", "Gather", &[&x, &last], &[Attribute::Int("axis", 1)]);
        let (dims, values) = (self.weight)("lm_head.weight");
        let table = self.graph.floats("lm_head.weight", &[dims[1], dims[0]], &transposed(&values, dims[1]));
        self.graph.node_to("logits", "lm_head.MatMul", "MatMul", &[&x, &table], &[]);
        self.graph.output("logits", Element::F32, &[Dim::Fixed(1), Dim::Fixed(self.sizes.vocabulary)]);
        for layer in 0..layers {
            for name in cache("present", layer) {
                self.graph.output(&name, Element::F32, &caches("total"));
            }
        }
        self.graph.into_model(OPSET)
    }

    /// 0 where a token sees a key, the lowest number where it does not: `[1, 1, sequence, total]`.
    fn mask(&mut self, mask: &str, positions: &str) -> Name {
        let graph = &mut self.graph;
        let total = graph.node("mask.Shape", "Shape", &[mask], &[]);
        let (zero, one) = (graph.integers("mask.zero", &[], &[0]), graph.integers("mask.one", &[], &[1]));
        let total = graph.node("mask.Gather", "Gather", &[&total, &one], &[Attribute::Int("axis", 0)]);
        let keys = graph.node("mask.Range", "Range", &[&zero, &total, &one], &[]);
        let axes = graph.integers("mask.axes", &[2], &[1, 3]);
        let rows = graph.node("mask.Unsqueeze", "Unsqueeze", &[positions, &axes], &[]);
        let seen = graph.node("mask.LessOrEqual", "LessOrEqual", &[&keys, &rows], &[]);
        let (nothing, lowest) =
            (graph.floats("mask.nothing", &[], &[0.0]), graph.floats("mask.lowest", &[], &[f32::MIN]));
        graph.node("mask.Where", "Where", &[&seen, &nothing, &lowest], &[])
    }

    fn lengths(&mut self, mask: &str) -> [Name; 2] {
        let graph = &mut self.graph;
        let cast = [Attribute::Int("to", Element::I32 as i64)];
        let row = graph.integers("lengths.row", &[1], &[1]);
        let (one, index) = (graph.integers("lengths.one", &[], &[1]), graph.integers("lengths.index", &[], &[1]));
        let counted = [Attribute::Int("keepdims", 0)];
        let counted = graph.node("lengths.ReduceSum", "ReduceSum", &[mask, &row], &counted);
        let last = graph.node("lengths.Sub", "Sub", &[&counted, &one], &[]);
        let last = graph.node("lengths.Cast", "Cast", &[&last], &cast);
        let total = graph.node("lengths.Shape", "Shape", &[mask], &[]);
        let total = graph.node("lengths.Gather", "Gather", &[&total, &index], &[Attribute::Int("axis", 0)]);
        [last, graph.node("lengths.Cast_1", "Cast", &[&total], &cast)]
    }

    fn layer(&mut self, layer: usize, x: &str, seen: &Seen) -> Name {
        let hidden = self.sizes.hidden;
        let path = format!("transformer.h.{layer}");
        let normed = self.norm(&format!("{path}.ln_1"), x);
        let all = self.linear(&format!("{path}.attn.c_attn"), &normed, [hidden, 3 * hidden]);
        let mixed = match seen {
            Seen::Mask(mask) => self.primitive(layer, &all, mask),
            Seen::Lengths([last, total]) => self.fused(layer, &all, [last, total]),
        };
        let out = self.linear(&format!("{path}.attn.c_proj"), &mixed, [hidden, hidden]);
        let x = self.graph.node(&format!("{path}.attn.residual"), "Add", &[&out, x], &[]);
        let normed = self.norm(&format!("{path}.ln_2"), &x);
        let up = self.linear(&format!("{path}.mlp.c_fc"), &normed, [hidden, 4 * hidden]);
        let up = self.gelu(&format!("{path}.mlp.act"), &up);
        let down = self.linear(&format!("{path}.mlp.c_proj"), &up, [4 * hidden, hidden]);
        self.graph.node(&format!("{path}.mlp.residual"), "Add", &[&x, &down], &[])
    }

    fn fused(&mut self, layer: usize, all: &str, [last, total]: [&str; 2]) -> Name {
        let heads = self.sizes.heads as i64;
        let ([past_key, past_value], [key, value]) = (cache("past_key_values", layer), cache("present", layer));
        let path = format!("transformer.h.{layer}.attn.GroupQueryAttention");
        let output = format!("{path}_output_0");
        let inputs = [all, "", "", &past_key, &past_value, last, total];
        let attributes = [Attribute::Int("num_heads", heads), Attribute::Int("kv_num_heads", heads)];
        self.graph.contributed(&[&output, &key, &value], &path, "GroupQueryAttention", &inputs, &attributes);
        output
    }

    fn primitive(&mut self, layer: usize, all: &str, mask: &str) -> Name {
        let Gpt2Sizes { hidden, heads, .. } = self.sizes;
        let path = format!("transformer.h.{layer}.attn");
        let name = |what: &str| format!("{path}.{what}");
        let graph = &mut self.graph;
        let parts = ["query", "key", "value"].map(|part| format!("{path}.{part}"));
        let widths = graph.integers(&name("widths"), &[3], &[hidden as i64; 3]);
        let [query, key, value] = &parts;
        let last = [Attribute::Int("axis", -1)];
        graph.node_to_all(&[query, key, value], &name("Split"), "Split", &[all, &widths], &last);
        let shape = graph.integers(&name("split"), &[4], &[1, -1, heads as i64, (hidden / heads) as i64]);
        let [query, key, value] = parts.each_ref().map(|part| {
            let split = graph.node(&format!("{part}.Reshape"), "Reshape", &[part, &shape], &[]);
            let order = [Attribute::Ints("perm", &[0, 2, 1, 3])];
            graph.node(&format!("{part}.Transpose"), "Transpose", &[&split], &order)
        });
        let (past, present) = (cache("past_key_values", layer), cache("present", layer));
        for (at, new) in [key, value].iter().enumerate() {
            let along = [Attribute::Int("axis", 2)];
            graph.node_to(&present[at], &name(&format!("Concat_{at}")), "Concat", &[&past[at], new], &along);
        }
        let order = [Attribute::Ints("perm", &[0, 1, 3, 2])];
        let keys = graph.node(&name("Transpose_3"), "Transpose", &[&present[0]], &order);
        let scores = graph.node(&name("MatMul"), "MatMul", &[&query, &keys], &[]);
        #[expect(clippy::cast_precision_loss, reason = "heads are small")]
        let root = graph.floats(&name("root"), &[], &[((hidden / heads) as f32).sqrt()]);
        let scores = graph.node(&name("Div"), "Div", &[&scores, &root], &[]);
        let scores = graph.node(&name("Add"), "Add", &[&scores, mask], &[]);
        let shares = graph.node(&name("Softmax"), "Softmax", &[&scores], &last);
        let mixed = graph.node(&name("MatMul_1"), "MatMul", &[&shares, &present[1]], &[]);
        let order = [Attribute::Ints("perm", &[0, 2, 1, 3])];
        let mixed = graph.node(&name("Transpose_4"), "Transpose", &[&mixed], &order);
        let shape = graph.integers(&name("merged"), &[3], &[1, -1, hidden as i64]);
        graph.node(&name("Reshape_3"), "Reshape", &[&mixed, &shape], &[])
    }

    /// A linear layer whose weight is stored `[in, out]`, as GPT-2's are: a product of matrices between two reshapes.
    fn linear(&mut self, path: &str, x: &str, [ins, outs]: [usize; 2]) -> Name {
        let (weight, bias) = (self.weight(&format!("{path}.weight")), self.weight(&format!("{path}.bias")));
        let graph = &mut self.graph;
        let rows = graph.integers(&format!("{path}.rows"), &[2], &[-1, ins as i64]);
        let rows = graph.node(&format!("{path}.Reshape"), "Reshape", &[x, &rows], &[]);
        let product = graph.node(&format!("{path}.Gemm"), "Gemm", &[&rows, &weight, &bias], &[]);
        let shape = graph.integers(&format!("{path}.shape"), &[3], &[1, -1, outs as i64]);
        graph.node(&format!("{path}.Reshape_1"), "Reshape", &[&product, &shape], &[])
    }

    /// GELU by the hyperbolic tangent, as the exporter spells it.
    fn gelu(&mut self, path: &str, x: &str) -> Name {
        let graph = &mut self.graph;
        let name = |what: &str| format!("{path}.{what}");
        let scalar = |graph: &mut Graph, what: &str, value: f32| graph.floats(&name(what), &[], &[value]);
        let half = scalar(graph, "half", 0.5);
        let half = graph.node(&name("Mul"), "Mul", &[x, &half], &[]);
        let three = scalar(graph, "three", 3.0);
        let cube = graph.node(&name("Pow"), "Pow", &[x, &three], &[]);
        let share = scalar(graph, "share", 0.044_715);
        let cube = graph.node(&name("Mul_1"), "Mul", &[&cube, &share], &[]);
        let sum = graph.node(&name("Add"), "Add", &[x, &cube], &[]);
        let root = scalar(graph, "root", (2.0 / std::f32::consts::PI).sqrt());
        let sum = graph.node(&name("Mul_2"), "Mul", &[&sum, &root], &[]);
        let tanh = graph.node(&name("Tanh"), "Tanh", &[&sum], &[]);
        let one = scalar(graph, "one", 1.0);
        let raised = graph.node(&name("Add_1"), "Add", &[&tanh, &one], &[]);
        graph.node(&name("Mul_3"), "Mul", &[&half, &raised], &[])
    }

    fn norm(&mut self, path: &str, x: &str) -> Name {
        let (scale, bias) = (self.weight(&format!("{path}.weight")), self.weight(&format!("{path}.bias")));
        let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", EPSILON)];
        self.graph.node(path, "LayerNormalization", &[x, &scale, &bias], &attributes)
    }

    fn weight(&mut self, name: &str) -> Name {
        let (dims, values) = (self.weight)(name);
        self.graph.floats(name, &dims, &values)
    }
}

/// A matrix with so many columns, turned.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::{Gpt2Form, Gpt2Sizes, gpt2_model, transposed};

    #[test]
    fn a_file_names_its_caches_and_its_own_operators_only_where_it_has_some() {
        let sizes = Gpt2Sizes { layers: 2, hidden: 8, heads: 2, vocabulary: 4, positions: 4 };
        let weight = |_: &str| (vec![4, 8], vec![0.0; 32]);
        let count = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).filter(|w| *w == wanted).count();
        let [plain, fused] = [Gpt2Form::Primitive, Gpt2Form::Fused].map(|form| gpt2_model(sizes, form, &weight));
        for file in [&plain, &fused] {
            assert!(count(file, b"past_key_values.1.value") >= 2, "an input, and who reads it");
            assert!(count(file, b"present.1.key") >= 2, "an output, and who gives it");
        }
        assert_eq!([count(&plain, b"com.microsoft"), count(&fused, b"com.microsoft")], [0, sizes.layers + 1]);
        assert_eq!(count(&plain, b"\x22\x07Softmax"), sizes.layers);
    }

    #[test]
    fn matrices_turn() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
