//! What programs dispatch, seen without a device.

use std::collections::BTreeSet;

use tabpool_engine::conformance::{EncoderSize, encoder};
use tabpool_engine::tuning::{Tuning, Winner};
use tabpool_engine::{EngineError, memory};
use tabpool_graph::{Binary, Graph, GraphBuilder, GraphError, Op};
use tabpool_tensor::{DType, Precision, Tensor};

use super::{Capabilities, Forced, Layout, Lowered, Permission, Source, lower, turned};
use crate::kernels::gemm::{GemmVariant, Has};
use crate::report::AdapterKind;
use crate::tuner::Tuner;

const DEVICE: Capabilities = Capabilities {
    binding: 128 << 20,
    buffer: 256 << 20,
    alignment: 256,
    groups: 65_535,
    kind: AdapterKind::Software,
    has: Has { f16: false, subgroups: false },
    forced: Forced { gemm: None, attention: None, rows: None },
};

fn lowered(graph: &Graph, device: Capabilities) -> Result<Lowered, EngineError> {
    permitting(Precision::F32, graph, device)
}

fn permitting(precision: Precision, graph: &Graph, device: Capabilities) -> Result<Lowered, EngineError> {
    tuned(precision, graph, device, &Tuner::default())
}

fn tuned(precision: Precision, graph: &Graph, device: Capabilities, tuner: &Tuner) -> Result<Lowered, EngineError> {
    let permission = Permission { precision, unfit: &BTreeSet::new() };
    let mut plan = memory::plan(graph);
    plan.leave_out(graph, turned(graph, &device).keys());
    lower(graph, &plan, device, tuner, permission)
}

fn kernels(of: &Lowered) -> Vec<&'static str> {
    of.run.iter().map(|s| s.variant.kernel.name).collect()
}

fn minilm(layers: usize) -> Lowered {
    let size = EncoderSize { layers, ..EncoderSize::minilm(1, 128) };
    let case = encoder(EncoderSize { vocabulary: 100, ..size }, DType::F32).and_then(|c| c.optimised());
    lowered(case.expect("the suite's encoder is valid").graph(), DEVICE).expect("every operator has a kernel")
}

#[test]
fn a_fused_bert_layer_takes_nine_dispatches() {
    let (one, two) = (minilm(1), minilm(2));
    assert_eq!(two.run.len() - one.run.len(), 9, "{:?}", kernels(&two));
    let gemms = |l: &Lowered| kernels(l).iter().filter(|k| k.starts_with("register_")).count();
    assert_eq!(gemms(&two) - gemms(&one), 6);
    let others =
        |l: &Lowered| kernels(l).iter().filter(|k| k.starts_with("layer_norm") || k.starts_with("attention")).count();
    assert_eq!(others(&two) - others(&one), 3);
}

#[test]
fn what_no_run_changes_is_computed_at_load() {
    let one = minilm(1);
    assert!(!one.load.is_empty());
    let written: Vec<Source> = one.load.iter().map(|s| s.write).collect();
    assert!(one.run.iter().all(|s| !written.contains(&s.write)), "a run overwrites what the load computed");
}

#[test]
fn no_dispatch_reads_the_slot_it_writes() {
    let two = minilm(2);
    for step in two.load.iter().chain(&two.run) {
        assert!(step.reads.iter().all(|r| r.source != step.write), "{step:?}");
    }
}

#[test]
fn the_adapter_and_the_rows_choose_the_gemm() {
    let kernel = |rows: usize, device: Capabilities| {
        let graph = linear(rows, 8, 16).expect("valid");
        kernels(&lowered(&graph, device).expect("lowers"))[0]
    };
    let hardware = Capabilities { kind: AdapterKind::Hardware, ..DEVICE };
    let swiftshader = Capabilities { kind: AdapterKind::SwiftShader, ..DEVICE };
    assert_eq!(kernel(64, DEVICE), "register_16x16");
    assert_eq!(kernel(64, swiftshader), "register_16x8_short");
    assert_eq!(kernel(64, hardware), "tiled_64x64");
    assert_eq!(kernel(1, hardware), "split_1x16");
    let forced = Forced { gemm: GemmVariant::named("register_4x8"), ..Forced::default() };
    let forced = Capabilities { forced, ..DEVICE };
    assert_eq!(kernel(1, forced), "register_4x8");
}

fn linear(rows: usize, k: usize, n: usize) -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [rows, k])?;
    let w = b.weight("w", DType::F32, [n, k])?;
    let y = b.node("dense", Op::LINEAR, &[x, w])?;
    b.output("y", y)?;
    b.finish()
}

#[test]
fn a_turned_weight_is_packed_from_the_other_side_and_never_computed() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4, 8]).expect("valid");
    let w = b.weight("w", DType::F32, [8, 16]).expect("valid");
    let turned = b.node("turned", Op::Transpose { permutation: [1, 0].into() }, &[w]).expect("valid");
    let y = b.node("dense", Op::LINEAR, &[x, turned]).expect("valid");
    b.output("y", y).expect("valid");
    let graph = b.finish().expect("valid");
    let all = lowered(&graph, DEVICE).expect("lowers");
    let layouts: Vec<Layout> = all.weights.iter().map(|w| w.layout).collect();
    assert_eq!((layouts, all.load.len()), (vec![Layout::TurnedPanels], 0));
}

#[test]
fn a_weight_read_in_two_ways_lies_there_twice() {
    let mut b = GraphBuilder::new();
    let ids = b.input("ids", DType::I32, [4]).expect("valid");
    let w = b.weight("table", DType::F32, [10, 8]).expect("valid");
    let x = b.node("embed", Op::Gather, &[w, ids]).expect("valid");
    let y = b.node("score", Op::LINEAR, &[x, w]).expect("valid");
    b.output("y", y).expect("valid");
    let layouts = lowered(&b.finish().expect("valid"), DEVICE).expect("lowers").weights;
    let layouts: Vec<Layout> = layouts.iter().map(|w| w.layout).collect();
    assert_eq!(layouts, [Layout::Natural, Layout::Panels(Precision::F32)]);
}

#[test]
fn a_large_table_is_bound_in_parts() {
    let mut b = GraphBuilder::new();
    let ids = b.input("ids", DType::I32, [7]).expect("valid");
    let table = b.weight("table", DType::F32, [50_265, 768]).expect("valid");
    let x = b.node("embed", Op::Gather, &[table, ids]).expect("valid");
    b.output("x", x).expect("valid");
    let lowered = lowered(&b.finish().expect("valid"), DEVICE).expect("lowers");
    assert_eq!(lowered.run.len(), 2);
    for step in &lowered.run {
        let (offset, size) = step.reads[0].range.expect("a part");
        assert!(offset % 256 == 0 && size <= DEVICE.binding, "{offset} {size}");
    }
}

#[test]
fn a_weight_larger_than_a_binding_is_read_in_parts() {
    let device = Capabilities { buffer: 1 << 30, ..DEVICE };
    let lowered = lowered(&linear(4, 896, 151_936).expect("valid"), device).expect("lowers");
    assert_eq!(lowered.run.len(), 5);
    for step in &lowered.run {
        let (offset, size) = step.reads[1].range.expect("a part");
        assert!(offset % 256 == 0 && size <= DEVICE.binding && step.write == lowered.run[0].write, "{offset} {size}");
    }
}

#[test]
fn what_a_device_cannot_hold_is_refused_with_the_numbers() {
    let graph = linear(4, 4096, 32_768).expect("valid");
    let refused = lowered(&graph, DEVICE).expect_err("the weight takes 512 MiB");
    let text = refused.to_string();
    assert!(text.contains("dense") && text.contains("536870912") && text.contains("268435456"), "{text}");
}

#[test]
fn what_won_on_a_device_is_taken_and_unknown_variants_are_not() {
    let tuner = Tuner::default();
    let won = |variant: &str| Winner { class: "gemm m64 n16 k8".into(), variant: variant.into(), timings: Vec::new() };
    let graph = linear(64, 8, 16).expect("valid");
    let kernel = |tuner: &Tuner| kernels(&tuned(Precision::F32, &graph, DEVICE, tuner).expect("lowers"))[0];
    tuner.set(Tuning { known: vec![won("a kernel of another version")], ..Tuning::default() });
    assert_eq!(kernel(&tuner), "register_16x16");
    tuner.set(Tuning { known: vec![won("register_4x16")], ..Tuning::default() });
    assert_eq!(kernel(&tuner), "register_4x16");
}

/// A token's way through a cache of 40 rows: written, and attended to by two heads that share it.
fn step() -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let cache = b.state("cache", DType::F32, [1, 40, 8])?;
    let position = b.state("position", DType::I32, [1])?;
    let x = b.input("x", DType::F32, [1, 1, 16])?;
    let w = b.weight("w", DType::F32, [8, 16])?;
    let k = b.node("key", Op::LINEAR, &[x, w])?;
    let k = b.node("write", Op::WriteRows, &[cache, k, position])?;
    b.next(cache, k)?;
    let op = Op::Attention { heads: 2, kv_heads: 1, scale: 0.5, causal: true };
    let y = b.node("attend", op, &[x, k, k, position])?;
    let one = b.constant("one", Tensor::from_i32([1], vec![1]).expect("fits"))?;
    let moved = b.node("move", Op::Binary(Binary::Add), &[position, one])?;
    b.next(position, moved)?;
    b.output("y", y)?;
    b.finish()
}

#[test]
fn rows_are_written_into_a_state_where_it_lies() {
    let lowered = lowered(&step().expect("valid"), DEVICE).expect("lowers");
    assert_eq!(kernels(&lowered), ["register_1x16", "write_rows_vec4", "attention_single_8", "binary"]);
    assert_eq!(lowered.run[1].write, Source::State(0));
    assert_eq!(lowered.run[1].reads[1].source, Source::State(1));
    let attend = &lowered.run[2];
    assert_eq!([1, 2, 5].map(|i| attend.reads[i].source), [Source::State(0), Source::State(0), Source::State(1)]);
    let touching: Vec<bool> = lowered.run.iter().map(super::Step::touches_states).collect();
    assert_eq!(touching, [false, true, true, true]);
    // The position is no state that is written in place: it is copied when the run is over.
    let [(from, state)] = lowered.copies[..] else { panic!("{:?}", lowered.copies) };
    assert!(matches!(from, Source::Slot(_)) && state == 1);
}

#[test]
fn few_queries_have_kernels_of_their_own() {
    let kernel = |kind: AdapterKind| {
        let graph = step().expect("valid");
        kernels(&lowered(&graph, Capabilities { kind, ..DEVICE }).expect("lowers"))[2]
    };
    assert_eq!(kernel(AdapterKind::Hardware), "attention_split_vec4");
    assert_eq!(kernel(AdapterKind::SwiftShader), "attention_single_8");
}

fn convolution(channels: usize, groups: usize) -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1, channels, 10, 10])?;
    let w = b.weight("w", DType::F32, [channels, channels / groups, 3, 3])?;
    let op = Op::Conv2d { stride: [1, 1], padding: [1; 4], dilation: [1, 1], groups, activation: None };
    let y = b.node("convolve", op, &[x, w])?;
    b.output("y", y)?;
    b.finish()
}

#[test]
fn convolutions_are_products_unless_their_groups_are_small() {
    let of = |channels, groups| lowered(&convolution(channels, groups).expect("valid"), DEVICE).expect("lowers");
    let whole = of(64, 1);
    assert_eq!(kernels(&whole), ["convolution_columns", "register_16x16_channels"]);
    assert_eq!(whole.run[0].write, whole.run[1].reads[1].source);
    assert_eq!(whole.scratch, 64 * 9 * 112 * 4, "100 places, up to a multiple of 16");
    assert_eq!(kernels(&of(64, 4)).len(), 8);
    assert_eq!(kernels(&of(64, 64)), ["convolution_direct"]);
}

#[test]
fn rows_in_fours_are_computed_alone_where_there_are_many() {
    let kernel = |shape: [usize; 2], tuner: &Tuner| {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, shape).expect("valid");
        let y = b.node("softmax", Op::Softmax, &[x]).expect("valid");
        b.output("y", y).expect("valid");
        kernels(&tuned(Precision::F32, &b.finish().expect("valid"), DEVICE, tuner).expect("lowers"))[0]
    };
    let tuner = Tuner::default();
    assert_eq!(kernel([64, 20], &tuner), "softmax_row");
    assert_eq!(kernel([64, 21], &tuner), "softmax");
    assert_eq!(kernel([2, 20], &tuner), "softmax");
    let won = Winner { class: "softmax r64 n20".into(), variant: "across".into(), timings: Vec::new() };
    tuner.set(Tuning { known: vec![won], ..Tuning::default() });
    assert_eq!(kernel([64, 20], &tuner), "softmax");
}
