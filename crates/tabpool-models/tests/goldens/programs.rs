//! Every family's outputs against its golden: fused and not, in several buckets; and what programs are made of.

use std::collections::BTreeMap;

use tabpool_graph::Op;
use tabpool_models::{Bucket, Model};
use tabpool_tensor::Tensor;

use crate::fixture::{Fixture, folder, share_of_tolerance, tensors, with_prefix};

const FAMILIES: [&str; 5] = ["bert", "bert_odd", "distilbert", "roberta", "mpnet"];

/// Compares outputs with the golden's, leaving out what the mask hides. `rows` of the golden, the first `columns` tokens.
fn compare(what: &str, got: &[(String, Tensor)], golden: &Golden, rows: std::ops::Range<usize>, columns: usize) {
    for (name, tensor) in got {
        let want = &golden.output(name);
        let dims = want.shape().dims();
        let (got, want) = (tensor.to_f32().expect("floats"), want.to_f32().expect("floats"));
        let width = *dims.last().expect("outputs have dimensions");
        let tokens = if dims.len() == 3 { dims[1] } else { 1 };
        let taken = if dims.len() == 3 { columns } else { 1 };
        let want: Vec<f32> =
            rows.clone().flat_map(|r| want[r * tokens * width..][..taken * width].iter().copied()).collect();
        let hidden = |i: usize| {
            let (row, column) = (rows.start + i / (taken * width), i / width % taken);
            dims.len() == 3 && golden.mask[row * golden.sequence + column] == 0
        };
        let share = share_of_tolerance(&got, &want, |i| !hidden(i));
        assert!(share <= 1.0, "{what}: {name} is off by {share} times the tolerance");
    }
}

struct Golden {
    tensors: std::collections::HashMap<String, Tensor>,
    inputs: Vec<(String, Tensor)>,
    outputs: Vec<String>,
    mask: Vec<i32>,
    batch: usize,
    sequence: usize,
}

impl Golden {
    fn read(name: &str) -> Self {
        let tensors = tensors(&folder(name).join("golden.safetensors"));
        let mask = &tensors["input.attention_mask"];
        let (batch, sequence) = (mask.shape()[0], mask.shape()[1]);
        Self {
            inputs: with_prefix(&tensors, "input."),
            outputs: with_prefix(&tensors, "output.").into_iter().map(|(name, _)| name).collect(),
            mask: mask.to_i32().expect("integers").into_owned(),
            batch,
            sequence,
            tensors,
        }
    }

    fn output(&self, name: &str) -> Tensor {
        self.tensors[&format!("output.{name}")].clone()
    }

    /// One row of every input, cut to its real tokens.
    fn row(&self, row: usize) -> (Vec<(String, Tensor)>, usize) {
        let mask = &self.mask[row * self.sequence..][..self.sequence];
        let length = mask.iter().rposition(|&m| m == 1).expect("a token") + 1;
        let cut = |t: &Tensor| {
            let values = t.to_i32().expect("integers")[row * self.sequence..][..length].to_vec();
            Tensor::from_i32([1, length], values).expect("fits")
        };
        (self.inputs.iter().map(|(name, t)| (name.clone(), cut(t))).collect(), length)
    }
}

fn names(outputs: &[String]) -> Vec<&str> {
    outputs.iter().map(String::as_str).collect()
}

#[test]
fn every_family_gives_its_golden_in_the_bucket_of_the_request() {
    for family in FAMILIES {
        let (fixture, golden) = (Fixture::open(&folder(family)), Golden::read(family));
        let request = fixture.model.prepare(&golden.inputs, &golden.outputs).expect("a good request");
        assert_ne!(request.bucket.sequence, golden.sequence, "the golden's length is no bucket, so padding is tested");
        let program = fixture.model.program(request.bucket, &names(&golden.outputs)).expect("a program");
        let outputs = request.crop.apply(fixture.run(&program, &request.tensors)).expect("as the program says");
        assert_eq!(outputs.len(), golden.outputs.len());
        compare(&format!("{family} {}", request.bucket), &outputs, &golden, 0..golden.batch, golden.sequence);
    }
}

#[test]
fn every_family_gives_its_golden_before_any_pass_and_without_padding() {
    for family in FAMILIES {
        let (fixture, golden) = (Fixture::open(&folder(family)), Golden::read(family));
        let bucket = Bucket { batch: golden.batch, sequence: golden.sequence };
        let graph = fixture.model.graph(bucket, &names(&golden.outputs)).expect("a graph");
        let fused = |op: &Op| matches!(op, Op::AddLayerNorm { .. } | Op::Linear { activation: Some(_), .. });
        assert!(graph.nodes().iter().all(|n| !fused(&n.op)), "{family}: builders leave fusing to the passes");
        let weights = tensors(&folder(family).join("model.safetensors"));
        let inputs: Vec<Tensor> = fixture
            .model
            .signature()
            .inputs
            .iter()
            .map(|spec| {
                let (_, tensor) = golden.inputs.iter().find(|(n, _)| n == spec.name).expect("goldens give every input");
                let values = tensor.to_i32().expect("integers").into_owned();
                Tensor::from_i32([golden.batch, golden.sequence], values).expect("fits")
            })
            .collect();
        let outputs = fixture.run_graph(&graph, &weights, &inputs);
        let outputs: Vec<_> = golden.outputs.iter().cloned().zip(outputs).collect();
        compare(&format!("{family} unfused"), &outputs, &golden, 0..golden.batch, golden.sequence);
    }
}

#[test]
fn each_sequence_alone_gives_what_it_gives_among_others() {
    for family in FAMILIES {
        let (fixture, golden) = (Fixture::open(&folder(family)), Golden::read(family));
        for row in 0..golden.batch {
            let (inputs, length) = golden.row(row);
            let request = fixture.model.prepare(&inputs, &golden.outputs).expect("a good request");
            let program = fixture.model.program(request.bucket, &names(&golden.outputs)).expect("a program");
            let outputs = request.crop.apply(fixture.run(&program, &request.tensors)).expect("as the program says");
            compare(&format!("{family} row {row} {}", request.bucket), &outputs, &golden, row..row + 1, length);
        }
    }
}

/// How often each operator occurs in a program for all outputs but the sentence embedding.
fn operators(model: &Model) -> BTreeMap<&'static str, usize> {
    let bucket = model.bucket_for(2, 20).expect("short enough");
    let program = model.program(bucket, &["last_hidden_state"]).expect("a program");
    let mut counts = BTreeMap::new();
    for node in program.graph().nodes() {
        *counts.entry(node.op.name()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn a_layer_is_one_attention_six_linear_and_two_norms() {
    for (family, layers) in [("bert", 3), ("bert_odd", 2), ("distilbert", 2), ("roberta", 2), ("mpnet", 2)] {
        let counts = operators(&Fixture::open(&folder(family)).model);
        assert_eq!(counts["attention"], layers, "{family}: {counts:?}");
        assert_eq!(counts["linear"], 6 * layers, "{family}: {counts:?}");
        // DistilBERT adds a slice of its position table, which broadcasts and so does not join the norm after it.
        let embedding_norm = usize::from(family != "distilbert");
        assert_eq!(counts["add_layer_norm"], 2 * layers + embedding_norm, "{family}: {counts:?}");
        for gone in ["softmax", "gelu", "matmul", "tanh"] {
            assert_eq!(counts.get(gone), None, "{family}: {counts:?}");
        }
    }
}

#[test]
fn a_program_has_no_weights_its_outputs_do_not_need() {
    let model = Fixture::open(&folder("bert")).model;
    let bucket = model.bucket_for(1, 10).expect("short enough");
    let weights = |outputs: &[&str]| {
        let program = model.program(bucket, outputs).expect("a program");
        let names = program.graph().weights().iter().map(|w| program.graph().value(w.value).name.clone());
        names.collect::<Vec<_>>()
    };
    assert!(weights(&["pooler_output"]).contains(&"pooler.dense.weight".to_owned()));
    assert!(!weights(&["sentence_embedding"]).iter().any(|name| name.starts_with("pooler")));
    assert!(weights(&["last_hidden_state"]).contains(&"encoder.layer.2.output.dense.weight".to_owned()));
}

#[test]
fn programs_of_one_model_name_the_same_blocks_and_round_trip() {
    let model = Fixture::open(&folder("roberta")).model;
    let blocks = |batch, sequence| {
        let program = model.program(Bucket { batch, sequence }, &["last_hidden_state"]).expect("a program");
        let bytes = program.encode();
        let again = tabpool_graph::Program::decode(&bytes, &tabpool_graph::ProgramLimits::default()).expect("decodes");
        assert_eq!(again, program);
        program.graph().weights().iter().flat_map(|w| w.blocks.clone()).collect::<Vec<_>>()
    };
    assert_eq!(blocks(1, 16), blocks(8, 48));
}
