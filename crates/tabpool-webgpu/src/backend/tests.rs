//! What only shows from inside: lost devices, errors nobody waited for, small limits, what is shared.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures::future::join;
use tabpool_engine::conformance::{Case, EncoderSize, MemoryWeights, encoder};
use tabpool_engine::tuning::Tuning;
use tabpool_engine::{Api, Backend, BackendInfo, EngineError, Executable, StateSpec};
use tabpool_graph::{Activation, Binary, Graph, GraphBuilder, Op, Program, Unary};
use tabpool_tensor::{DType, Precision, Tensor};

use super::WebGpuBackend;
use crate::Options;
use crate::device::Gpu;
use crate::kernels::gemm::GemmVariant;
use crate::states::States;
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
fn weights_of_linear_layers_larger_than_a_binding_are_read_in_parts() {
    for (n, precision) in [(1003, Precision::F32), (1004, Precision::F32), (1003, Precision::F16)] {
        with(
            "small bindings of linear layers",
            |gpu| gpu.capabilities.binding = 40 << 10,
            async |backend| {
                let mut b = GraphBuilder::new();
                let x = b.input("x", DType::F32, [5, 40]).expect("valid");
                let residual = b.input("residual", DType::F32, [5, n]).expect("valid");
                let w = b.weight("w", DType::F16, [n, 40]).expect("valid");
                let bias = b.weight("bias", DType::F32, [n]).expect("valid");
                let op = Op::Linear { activation: Some(Activation::Relu), residual: true };
                let y = b.node("large", op, &[x, w, bias, residual]).expect("valid");
                b.output("y", y).expect("valid");
                let graph = b.finish().expect("valid");
                let numbers =
                    |count: usize| (0..count).map(|i| (i * 37 % 101) as f32 / 64.0 - 0.75).collect::<Vec<_>>();
                let bits =
                    numbers(n * 40).iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect::<Vec<_>>();
                let weights: BTreeMap<_, _> = [
                    ("w".to_owned(), Tensor::new(DType::F16, [n, 40], bits.into()).expect("fits")),
                    ("bias".to_owned(), Tensor::from_f32([n], numbers(n)).expect("fits")),
                ]
                .into();
                let inputs = [
                    Tensor::from_f32([5, 40], numbers(5 * 40)).expect("fits"),
                    Tensor::from_f32([5, n], numbers(5 * n)).expect("fits"),
                ];
                let weight = |id| weights.get(&graph.value(id).name).cloned();
                let want = tabpool_engine::oracle::run(&graph, &weight, &inputs).expect("the oracle runs");
                let mut source = MemoryWeights::new();
                let program = source.bind(graph.clone(), &weights).expect("binds").permitting(precision);
                let (executable, _) = backend.load_program(&program, &source).await.expect("loads");
                assert!(executable.dispatches() > 2, "{} dispatches", executable.dispatches());
                let got = executable.run(&inputs).await.expect("runs");
                let (got, want) = (got.tensors[0].to_f32().expect("f32"), want[0].to_f32().expect("f32"));
                let worst = got.iter().zip(want.iter()).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{worst}");
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

/// Adds what it is given to a state, and gives back the sum.
fn adder() -> Graph {
    let mut b = GraphBuilder::new();
    let sum = b.state("sum", DType::F32, [3]).expect("valid");
    let x = b.input("x", DType::F32, [3]).expect("valid");
    let more = b.node("add", Op::Binary(Binary::Add), &[sum, x]).expect("valid");
    b.next(sum, more).expect("valid");
    b.output("y", more).expect("valid");
    b.finish().expect("valid")
}

#[test]
fn neither_a_set_of_states_nor_an_executable_holds_the_other() {
    with(
        "who holds states",
        |_| (),
        async |backend| {
            let graph = adder();
            let specs = StateSpec::of(&graph);
            let mut source = MemoryWeights::new();
            let program = source.bind(graph, &BTreeMap::new()).expect("binds");
            let loaded = backend.load(&program, &source).await.expect("loads");
            let states = backend.new_states(&specs).await.expect("makes states");
            assert_eq!(states.bytes(), 16, "three numbers in a buffer of whole fours");
            let x = [Tensor::from_f32([3], vec![1.0, 2.0, 3.0]).expect("fits")];
            for _ in 0..2 {
                loaded.executable.run_on(&states, &x).await.expect("runs");
            }
            let own: Rc<States> = tabpool_engine::state::own(&states).expect("ours");
            assert_eq!(own.bound_executables(), 1);
            drop(loaded);
            assert_eq!(own.bound_executables(), 0, "the executable's bind groups went with it");
            let again = backend.load(&program, &source).await.expect("loads");
            let got = again.executable.run_on(&states, &x).await.expect("runs");
            assert_eq!(got.tensors[0].to_f32().expect("numbers").as_ref(), [3.0, 6.0, 9.0]);
            assert_eq!(Rc::strong_count(&own), 2, "held by this test alone");
            let held = Rc::downgrade(&own);
            drop((own, states));
            assert!(held.upgrade().is_none());
        },
    );
}

#[test]
fn states_of_another_device_are_refused() {
    with(
        "another device's states",
        |_| (),
        async |backend| {
            let Ok(other) = WebGpuBackend::new(Options::default()).await else {
                eprintln!("left out: another device's states: the adapter opens once only");
                return;
            };
            let (graph, mut source) = (adder(), MemoryWeights::new());
            let states = other.new_states(&StateSpec::of(&graph)).await.expect("makes states");
            let program = source.bind(graph, &BTreeMap::new()).expect("binds");
            let loaded = backend.load(&program, &source).await.expect("loads");
            let x = [Tensor::from_f32([3], vec![0.0; 3]).expect("fits")];
            let refused = loaded.executable.run_on(&states, &x).await;
            assert!(matches!(refused, Err(EngineError::State { .. })), "{refused:?}");
        },
    );
}

#[test]
fn a_state_larger_than_a_buffer_is_refused_with_the_numbers() {
    with(
        "large states",
        |gpu| gpu.capabilities.binding = 1024,
        async |backend| {
            let large = StateSpec { name: "cache".to_owned(), dtype: DType::F32, shape: [1, 300].into() };
            let refused = backend.new_states(&[large]).await.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(refused.contains("cache") && refused.contains("1200") && refused.contains("1024"), "{refused}");
        },
    );
}
