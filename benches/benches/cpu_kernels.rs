//! The CPU kernels one at a time, natively, on every level of instructions this processor has and one thread: products of an
//! encoder's sizes, attention, and what is limited by memory. Throughput is in elements a second, of which a multiplication
//! and an addition are two: `Gelem/s` of a product are GF/s.
//!
//! `cargo bench --package tabpool-benches --bench cpu_kernels [-- FILTER]`. What the same kernels reach in browsers,
//! `web-runtime`'s page measures.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tabpool_kernels::attention::Attention;
use tabpool_kernels::layout::Axes;
use tabpool_kernels::math::Function;
use tabpool_kernels::team::{Park, Team};
use tabpool_kernels::{Isa, Kernel, Product, Right, Scratch, Size, Span, Step, packed_right_len};

/// One thread has nobody to wait for.
struct Alone;

impl Park for Alone {
    fn wait(&self, _: &std::sync::atomic::AtomicU32, _: u32, _: u32) {}
    fn wake(&self, _: &std::sync::atomic::AtomicU32) {}
    fn micros(&self) -> u32 {
        0
    }

    fn gives_up(&self) -> bool {
        false
    }
}

/// Lines of a cache: operands begin at one, as backends place them.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

/// A step and the memory it names.
struct Ready {
    step: [Step; 1],
    isa: Isa,
    team: Team,
    _memory: Vec<Vec<Line>>,
}

impl Ready {
    fn new(isa: Isa, kernel: Kernel, operands: &[usize], out: usize) -> Self {
        let mut memory = Vec::new();
        let mut room = |len: usize| {
            // Small numbers of both signs, so that no function leaves its usual range.
            let value = |i: usize| (i % 61) as f32 / 61.0 - 0.5;
            let line = |i: usize| Line(std::array::from_fn(|j| value(i * 16 + j)));
            let mut lines: Vec<Line> = (0..len.div_ceil(16)).map(line).collect();
            let address = lines.as_mut_ptr().expose_provenance();
            memory.push(lines);
            Span { address, len }
        };
        let mut spans = [Span::NONE; 6];
        for (span, &len) in spans.iter_mut().zip(operands) {
            *span = room(len);
        }
        let mut step = Step::new(kernel, spans, room(out), 1);
        let lane_len = step.lane_len(isa.tile());
        step.set_scratch(Scratch { address: room(lane_len.max(1)).address, lane_len });
        Self { step: [step], isa, team: Team::new(), _memory: memory }
    }

    fn run(&self) {
        // SAFETY: all spans are memory of this value's own, results apart from operands, with one lane for one thread.
        let led = unsafe { self.team.lead(self.isa, black_box(&self.step), &Alone) };
        led.expect("there is no helper to lose");
    }
}

fn product(isa: Isa, m: usize, k: usize, n: usize, right: Right, function: Function) -> Ready {
    let product = Product::new(isa.tile(), Size { m, k, n }, Axes::NONE, right, function, 1);
    let right = if right == Right::Packed { packed_right_len(isa.tile(), k, n) } else { k * n };
    Ready::new(isa, Kernel::Product(product), &[m * k, right, n], m * n)
}

fn products(c: &mut Criterion) {
    for isa in Isa::all() {
        let mut group = c.benchmark_group(format!("product/{}", isa.name()));
        for (m, k, n) in
            [(1, 384, 384), (16, 384, 1536), (128, 384, 384), (128, 384, 1536), (128, 1536, 384), (1024, 384, 1536)]
        {
            group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
            for (name, right, function) in [
                ("packed", Right::Packed, Function::Identity),
                ("packed, gelu", Right::Packed, Function::Gelu),
                ("unpacked", Right::Columns, Function::Identity),
            ] {
                let ready = product(isa, m, k, n, right, function);
                group.bench_function(BenchmarkId::new(name, format!("{m}x{k}x{n}")), |b| b.iter(|| ready.run()));
            }
        }
    }
}

fn attention(c: &mut Criterion) {
    for isa in Isa::all() {
        let mut group = c.benchmark_group(format!("attention/{}", isa.name()));
        for tokens in [16, 128, 512] {
            let (heads, depth) = (12, 32);
            let len = tokens * heads * depth;
            let kernel = Kernel::Attention(Attention {
                batch: 1,
                heads,
                shared: 1,
                queries: tokens,
                keys: tokens,
                depth,
                depth_v: depth,
                scale: 0.18,
                bias_strides: [[tokens, 0, 0, 1], [0; 4]],
                causal: false,
            });
            let ready = Ready::new(isa, kernel, &[len, len, len, tokens], len);
            group.throughput(Throughput::Elements(4 * (len * tokens) as u64));
            group.bench_function(BenchmarkId::from_parameter(tokens), |b| b.iter(|| ready.run()));
        }
    }
}

fn rows(c: &mut Criterion) {
    for isa in Isa::all() {
        let mut group = c.benchmark_group(format!("rows/{}", isa.name()));
        let (count, width) = (128, 384);
        let len = count * width;
        group.throughput(Throughput::Elements(len as u64));
        let kernels = [
            ("add and norm", Kernel::AddLayerNorm { epsilon: 1e-12 }, [len, len, width, width]),
            ("softmax", Kernel::Softmax { width }, [len, 0, 0, 0]),
            ("gelu", Kernel::Unary(Function::Gelu), [len, 0, 0, 0]),
            ("tanh", Kernel::Unary(Function::Tanh), [len, 0, 0, 0]),
            ("exp", Kernel::Unary(Function::Exp), [len, 0, 0, 0]),
            ("copy", Kernel::Copy, [len, 0, 0, 0]),
        ];
        for (name, kernel, operands) in kernels {
            let ready = Ready::new(isa, kernel, &operands, len);
            group.bench_function(name, |b| b.iter(|| ready.run()));
        }
    }
}

criterion_group!(benches, products, attention, rows);
criterion_main!(benches);
