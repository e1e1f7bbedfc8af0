//! What programs dispatch, seen without a device.

use std::collections::BTreeSet;

use tabpool_engine::conformance::{EncoderSize, encoder};
use tabpool_engine::tuning::{Tuning, Winner};
use tabpool_engine::{EngineError, memory};
use tabpool_graph::{Graph, GraphBuilder, GraphError, Op};
use tabpool_tensor::{DType, Precision};

use super::{Capabilities, Forced, Layout, Lowered, Permission, Source, lower};
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
    lower(graph, &memory::plan(graph), device, tuner, permission)
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
fn what_a_device_cannot_bind_is_refused_with_the_numbers() {
    let graph = linear(4, 4096, 16_384).expect("valid");
    let refused = lowered(&graph, DEVICE).expect_err("the weight takes 256 MiB");
    let text = refused.to_string();
    assert!(text.contains("dense") && text.contains("268435456") && text.contains("134217728"), "{text}");
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
