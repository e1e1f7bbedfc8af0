//! What only shows from inside: lost devices, errors nobody waited for, small limits, what is shared.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures::future::join;
use tabpool_engine::conformance::{Case, EncoderSize, MemoryWeights, encoder};
use tabpool_engine::tuning::Tuning;
use tabpool_engine::{Api, Backend, BackendInfo, EngineError, Executable};
use tabpool_graph::{Graph, GraphBuilder, Op, Program, Unary};
use tabpool_tensor::{DType, Precision, Tensor};

use super::WebGpuBackend;
use crate::Options;
use crate::device::Gpu;
use crate::kernels::gemm::GemmVariant;
use crate::tuner::Tuner;

const SMALL: EncoderSize =
    EncoderSize { batch: 2, sequence: 13, vocabulary: 1000, hidden: 30, intermediate: 70, heads: 5, layers: 2 };

/// Runs a test on the machine's adapter after a change to what it says of itself. Without one the test is left out,
/// unless `TABPOOL_REQUIRE_GPU=1`.
fn with(name: &str, change: impl FnOnce(&mut Gpu), test: impl AsyncFnOnce(WebGpuBackend)) {
    pollster::block_on(async {
        match Gpu::open(&Options::default()).await {
            Ok(mut gpu) => {
                change(&mut gpu);
                let info = BackendInfo { api: Api::WebGpu, device: String::new() };
                test(WebGpuBackend { gpu: Rc::new(gpu), info, tuner: Tuner::default() }).await;
            }
            Err(e) if std::env::var("TABPOOL_REQUIRE_GPU").is_ok_and(|v| v == "1") => {
                panic!("{name}: TABPOOL_REQUIRE_GPU is set and there is no adapter: {e}")
            }
            Err(e) => eprintln!("left out: {name}: {e}"),
        }
    });
}

fn small(stored: DType) -> Case {
    encoder(SMALL, stored).and_then(|c| c.optimised()).expect("the suite's encoder is valid")
}

#[test]
fn a_lost_device_ends_pending_and_later_runs() {
    with(
        "lost device",
        |_| (),
        async |backend| {
            let case = small(DType::F32);
            let mut source = MemoryWeights::new();
            let program = source.bind(case.graph().clone(), case.weights()).expect("binds");
            let loaded = backend.load(&program, &source).await.expect("loads");
            let inputs = &case.runs()[0];
            loaded.executable.run(inputs).await.expect("runs while the device lives");
            let lose = async { backend.gpu.device.destroy() };
            let (pending, ()) = join(loaded.executable.run(inputs), lose).await;
            // The device may have finished before it was destroyed, never failed in another way.
            assert!(matches!(pending, Ok(_) | Err(EngineError::DeviceLost { .. })), "{pending:?}");
            let later = loaded.executable.run(inputs).await;
            assert!(matches!(later, Err(EngineError::DeviceLost { .. })), "{later:?}");
            let again = backend.load(&program, &source).await.err();
            assert!(matches!(again, Some(EngineError::DeviceLost { .. })), "{again:?}");
        },
    );
}

#[test]
fn a_loss_wakes_who_waits() {
    with(
        "loss wakes",
        |_| (),
        async |backend| {
            let never = Box::pin(std::future::pending::<()>());
            let lose = async { backend.gpu.health.lose("unplugged".to_owned()) };
            let (waited, ()) = join(backend.gpu.unless_lost(never), lose).await;
            assert_eq!(waited.expect_err("the device is lost").to_string(), "the device is lost: unplugged");
        },
    );
}

fn invalid_buffer(device: &wgpu::Device) {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE;
    let _ = device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false });
}

#[test]
fn an_error_nobody_waited_for_comes_with_the_next_run_once() {
    with(
        "uncaptured error",
        |_| (),
        async |backend| {
            let case = small(DType::F32);
            let mut source = MemoryWeights::new();
            let program = source.bind(case.graph().clone(), case.weights()).expect("binds");
            let loaded = backend.load(&program, &source).await.expect("loads");
            invalid_buffer(&backend.gpu.device);
            let inputs = &case.runs()[0];
            let next = loaded.executable.run(inputs).await;
            assert!(matches!(next, Err(EngineError::Device { .. })), "{next:?}");
            let output = loaded.executable.run(inputs).await.expect("reported once");
            case.compare(inputs, &output.tensors).expect("right numbers");
        },
    );
}

#[test]
fn an_error_within_a_scope_is_that_call_s() {
    with(
        "scoped error",
        |_| (),
        async |backend| {
            let failed = backend.gpu.scoped("testing", || invalid_buffer(&backend.gpu.device)).await;
            let text = failed.expect_err("the usage is invalid").to_string();
            assert!(text.starts_with("the device failed while testing: "), "{text}");
            backend.gpu.health.check().expect("nobody else hears of it");
        },
    );
}

#[test]
fn tables_larger_than_a_binding_are_read_in_parts() {
    for stored in [DType::F32, DType::F16] {
        with(
            "small bindings",
            |gpu| gpu.capabilities.binding = 64 << 10,
            async |backend| {
                let case = small(stored);
                let mut source = MemoryWeights::new();
                let program = source.bind(case.graph().clone(), case.weights()).expect("binds");
                let (executable, _) = backend.load_program(&program, &source).await.expect("loads");
                let gathers = executable.plan().filter(|(_, kernel)| *kernel == "gather").count();
                assert_eq!(gathers, 2, "120,000 bytes in parts of at most 65,536");
                let output = executable.run(&case.runs()[0]).await.expect("runs");
                case.compare(&case.runs()[0], &output.tensors).expect("right numbers");
            },
        );
    }
}

#[test]
fn folded_grids_give_the_same_numbers() {
    with(
        "folded grids",
        |gpu| gpu.capabilities.groups = 8,
        async |backend| {
            let mut b = GraphBuilder::new();
            let x = b.input("x", DType::F32, [61, 97]).expect("valid");
            let y = b.node("turn", Op::Transpose { permutation: vec![1, 0] }, &[x]).expect("valid");
            let y = b.node("abs", Op::Unary(Unary::Abs), &[y]).expect("valid");
            let y = b.node("softmax", Op::Softmax, &[y]).expect("valid");
            b.output("y", y).expect("valid");
            let graph = b.finish().expect("valid");
            let numbers = (0..61 * 97).map(|i: i16| f32::from(i % 23 - 11)).collect();
            let inputs = [Tensor::from_f32([61, 97], numbers).expect("fits")];
            let want = tabpool_engine::oracle::run(&graph, &|_| None, &inputs).expect("the oracle runs");
            let program = tabpool_graph::Program::new(graph).expect("has no weights");
            let (executable, _) = backend.load_program(&program, &MemoryWeights::new()).await.expect("loads");
            let got = executable.run(&inputs).await.expect("runs");
            let (got, want) = (got.tensors[0].to_f32().expect("f32"), want[0].to_f32().expect("f32"));
            let worst = got.iter().zip(want.iter()).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-6, "{worst}");
        },
    );
}

#[test]
fn a_second_bucket_shares_weights_and_compiles_nothing() {
    with(
        "second bucket",
        |_| (),
        async |backend| {
            let mut source = MemoryWeights::new();
            let short = small(DType::F32);
            let program = source.bind(short.graph().clone(), short.weights()).expect("binds");
            let (_first, report) = backend.load_program(&program, &source).await.expect("loads");
            assert_eq!(report.memory.shared, 0);
            let (asked, kernels) = (source.asked(), backend.gpu.pipelines.len());
            let (_second, report) = backend.load_program(&program, &source).await.expect("loads");
            // What only the load read was given up after the first load, and comes again.
            assert!(report.memory.shared * 10 > report.memory.weights * 9, "{report:?}");
            assert!(source.asked() - asked < asked / 10, "{} blocks, then {} more", asked, source.asked() - asked);
            assert_eq!(backend.gpu.pipelines.len(), kernels);
        },
    );
}

#[test]
fn the_kernels_for_hardware_conform_too() {
    with(
        "kernels for hardware",
        |gpu| gpu.capabilities.kind = crate::AdapterKind::Hardware,
        async |backend| {
            let results = tabpool_engine::conformance::run(&backend).await;
            let failed: Vec<String> = results.iter().filter(|r| !r.passed()).map(ToString::to_string).collect();
            assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), results.len(), failed.join("\n"));
        },
    );
}

/// The program of a case with a permission, and where its weights come from.
fn permitting(case: &Case, precision: Precision) -> (Program, MemoryWeights) {
    let mut source = MemoryWeights::new();
    let program = source.bind(case.graph().clone(), case.weights()).expect("binds").permitting(precision);
    (program, source)
}

#[test]
fn fewer_bits_are_less_memory_and_the_report_says_so() {
    for (precision, variant, percent) in
        [(Precision::F16, "f16_register_4x16", 55), (Precision::Int8, "int8_register_4x8", 40)]
    {
        with(
            "fewer bits",
            |gpu| gpu.capabilities.forced.gemm = GemmVariant::named(variant),
            async |backend| {
                let case = small(DType::F32);
                let (program, source) = permitting(&case, Precision::F32);
                let (_exact, exact) = backend.load_program(&program, &source).await.expect("loads");
                assert_eq!((exact.precision, exact.kept.len()), (Precision::F32, 0));
                let (program, source) = permitting(&case, precision);
                let (_less, less) = backend.load_program(&program, &source).await.expect("loads");
                assert_eq!((less.precision, less.kept.len()), (precision, 0));
                // What is no linear layer's is the same in both; what only loads read is not shared, but little.
                let panels = exact.memory.weights - less.memory.shared;
                let packed = less.memory.weights - less.memory.shared;
                assert!(packed * 100 <= panels * percent, "{precision}: {packed} bytes instead of {panels}");
            },
        );
    }
}

/// A chain of two linear layers, the second one's weight too large for f16.
fn unfit() -> (Graph, BTreeMap<String, Tensor>) {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [3, 8]).expect("valid");
    let first = b.weight("first", DType::F32, [8, 8]).expect("valid");
    let second = b.weight("second", DType::F32, [4, 8]).expect("valid");
    let y = b.node("small", Op::LINEAR, &[x, first]).expect("valid");
    let y = b.node("large", Op::LINEAR, &[y, second]).expect("valid");
    b.output("y", y).expect("valid");
    let numbers = |count: usize, factor: f32| (0..count).map(|i| (i % 7) as f32 * factor).collect::<Vec<f32>>();
    let weights = [
        ("first".to_owned(), Tensor::from_f32([8, 8], numbers(64, 0.25)).expect("fits")),
        ("second".to_owned(), Tensor::from_f32([4, 8], numbers(32, 20_000.0)).expect("fits")),
    ];
    (b.finish().expect("valid"), weights.into())
}

#[test]
fn weights_beyond_f16_stay_in_32_bits_and_their_nodes_are_named() {
    with(
        "weights beyond f16",
        |gpu| gpu.capabilities.forced.gemm = GemmVariant::named("f16_register_4x16"),
        async |backend| {
            let (graph, weights) = unfit();
            let mut source = MemoryWeights::new();
            let program = source.bind(graph.clone(), &weights).expect("binds").permitting(Precision::F16);
            let (executable, report) = backend.load_program(&program, &source).await.expect("loads");
            assert_eq!((report.precision, &*report.kept), (Precision::F16, &["large".to_owned()][..]));
            let inputs = [Tensor::from_f32([3, 8], (0..24).map(|i: i16| f32::from(i % 5)).collect()).expect("fits")];
            let want = tabpool_engine::oracle::run(&graph, &|id| weights.get(&graph.value(id).name).cloned(), &inputs);
            let (got, want) = (executable.run(&inputs).await.expect("runs"), want.expect("the oracle runs"));
            let (got, want) = (got.tensors[0].to_f32().expect("f32"), want[0].to_f32().expect("f32"));
            // These numbers lose nothing in f16.
            assert!(got.iter().zip(want.iter()).all(|(g, w)| (g - w).abs() <= w.abs() * 1e-6), "{got:?} {want:?}");
        },
    );
}

#[test]
fn programs_for_other_rows_share_less_exact_weights_too() {
    for precision in Precision::ALL {
        with(
            "sharing less exact weights",
            |_| (),
            async |backend| {
                backend.tuner.set(Tuning { budget: std::time::Duration::from_secs(20), known: Vec::new() });
                let mut held = Vec::new();
                for rows in [1, 40] {
                    let mut b = GraphBuilder::new();
                    let x = b.input("x", DType::F32, [rows, 96]).expect("valid");
                    let w = b.weight("w", DType::F32, [64, 96]).expect("valid");
                    let y = b.node("linear", Op::LINEAR, &[x, w]).expect("valid");
                    b.output("y", y).expect("valid");
                    let numbers = (0..64 * 96).map(|i: u16| f32::from(i % 11)).collect();
                    let weights = [("w".to_owned(), Tensor::from_f32([64, 96], numbers).expect("fits"))].into();
                    let mut source = MemoryWeights::new();
                    let program = source.bind(b.finish().expect("valid"), &weights).expect("binds");
                    let loaded = backend.load_program(&program.permitting(precision), &source).await.expect("loads");
                    let memory = loaded.1.memory;
                    assert_eq!(memory.shared == memory.weights, rows == 40, "{precision}, {rows} rows: {memory:?}");
                    // Held, or there would be nothing to share.
                    held.push(loaded.0);
                }
            },
        );
    }
}
