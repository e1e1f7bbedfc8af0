//! The machine that executes steps: slots, inputs, weights and scratch memory, all made at load.

use std::sync::Arc;

use super::attention::Bias;
use super::gemm::{Epilogue, Matrix, Size, pack_right, product};
use super::isa::Isa;
use super::step::{Kernel, Operand, ScratchSize, Source, Step};
use super::threads::Threads;
use super::words::Words;
use super::{elementwise, layout, math, rows};
use crate::backend::EngineError;

/// Everything steps read and write.
pub(crate) struct Machine {
    pub(crate) slots: Vec<Words>,
    pub(crate) inputs: Vec<Words>,
    /// Plain weights and constants.
    pub(crate) fixed: Vec<Arc<Words>>,
    pub(crate) packed: Vec<Arc<Words>>,
    scratch: Scratch,
}

struct Scratch {
    left: Words,
    right: Words,
    lanes: Vec<Words>,
}

impl Machine {
    /// A machine with slots and inputs of these sizes in elements.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`].
    pub(crate) fn new(
        slots: &[usize],
        inputs: &[usize],
        scratch: ScratchSize,
        threads: usize,
    ) -> Result<Self, EngineError> {
        let words = |len: usize| Words::zeroed(len, "making room for activations");
        let all = |sizes: &[usize]| sizes.iter().map(|&len| words(len)).collect::<Result<Vec<_>, _>>();
        let lanes = all(&vec![scratch.lane; threads])?;
        let scratch = Scratch { left: words(scratch.left)?, right: words(scratch.right)?, lanes };
        Ok(Self { slots: all(slots)?, inputs: all(inputs)?, fixed: Vec::new(), packed: Vec::new(), scratch })
    }

    /// The bytes of slots, inputs and scratch memory.
    pub(crate) fn bytes(&self) -> u64 {
        let Scratch { left, right, lanes } = &self.scratch;
        self.slots.iter().chain(&self.inputs).chain(lanes).chain([left, right]).map(Words::bytes).sum()
    }

    /// An operand's words.
    pub(crate) fn read(&self, operand: Operand) -> &[u32] {
        let words = match operand.source {
            Source::Slot(i) => &self.slots[i],
            Source::Input(i) => &self.inputs[i],
            Source::Fixed(i) => &self.fixed[i],
        };
        &words.words()[..operand.len]
    }

    fn floats(&self, step: &Step, operand: usize) -> &[f32] {
        bytemuck::cast_slice(self.read(step.operands[operand]))
    }

    fn integers(&self, step: &Step, operand: usize) -> &[i32] {
        bytemuck::cast_slice(self.read(step.operands[operand]))
    }

    /// Executes one step. Its result's slot is none of its operands', so it is taken out while they are read.
    pub(crate) fn execute(&mut self, on: (Isa, &Threads), step: &Step) {
        let mut slot = std::mem::take(&mut self.slots[step.out]);
        let mut right = std::mem::take(&mut self.scratch.right);
        let mut left = std::mem::take(&mut self.scratch.left);
        let mut lanes = std::mem::take(&mut self.scratch.lanes);
        let out = &mut slot.words_mut()[..step.len];
        match &step.kernel {
            Kernel::Linear { .. } | Kernel::MatMul { .. } => {
                self.product(on, step, bytemuck::cast_slice_mut(out), left.floats_mut(), right.floats_mut());
            }
            Kernel::Attention { .. } => self.attention(on, step, bytemuck::cast_slice_mut(out), &mut lanes),
            _ => self.simple(on, step, out),
        }
        self.scratch = Scratch { left, right, lanes };
        self.slots[step.out] = slot;
    }

    fn product(&self, on: (Isa, &Threads), step: &Step, out: &mut [f32], left: &mut [f32], right: &mut [f32]) {
        match &step.kernel {
            Kernel::Linear { size, packed, activation } => {
                let a = Matrix { elements: self.floats(step, 0), row_stride: size.k, column_stride: 1 };
                let bias = if packed.is_some() { 1 } else { 2 };
                let bias = (step.operands.len() > bias).then(|| self.floats(step, bias));
                let right = match packed {
                    Some(weight) => self.packed[*weight].floats(),
                    None => pack(on.0, self.floats(step, 1), *size, true, right),
                };
                product(on, *size, a, right, out, Epilogue { bias, activation: *activation }, left);
            }
            Kernel::MatMul { size: size @ Size { m, k, n }, transpose_b, pairs } => {
                let (all_a, all_b) = (self.floats(step, 0), self.floats(step, 1));
                for (out, &[a, b]) in out.chunks_exact_mut(m * n).zip(pairs) {
                    let a = Matrix { elements: &all_a[a * m * k..], row_stride: *k, column_stride: 1 };
                    let right = pack(on.0, &all_b[b * k * n..], *size, *transpose_b, right);
                    product(on, *size, a, right, out, Epilogue::default(), left);
                }
            }
            _ => {}
        }
    }

    fn attention(&self, on: (Isa, &Threads), step: &Step, out: &mut [f32], lanes: &mut [Words]) {
        let Kernel::Attention { sizes, bias_strides } = &step.kernel else { return };
        let bias = |n: usize| {
            let strides = *bias_strides.get(n)?;
            Some(Bias { elements: self.floats(step, 3 + n), strides })
        };
        let [q, k, v] = [0, 1, 2].map(|n| self.floats(step, n));
        sizes.compute(on, [q, k, v], &[bias(0), bias(1)], out, lanes);
    }

    fn simple(&self, (isa, threads): (Isa, &Threads), step: &Step, out: &mut [u32]) {
        let x = |n: usize| self.floats(step, n);
        let ids = |n: usize| self.integers(step, n);
        match &step.kernel {
            Kernel::Walk(walk) => return walk.copy(threads, self.read(step.operands[0]), out),
            Kernel::Copy => return out.copy_from_slice(self.read(step.operands[0])),
            Kernel::BinaryIntegers(op, how) => {
                return elementwise::integers(threads, *op, how, [ids(0), ids(1)], bytemuck::cast_slice_mut(out));
            }
            Kernel::CastToI32 => return elementwise::cast_to_i32(x(0), bytemuck::cast_slice_mut(out)),
            Kernel::TokenPositions { width, padding_id } => {
                return layout::token_positions(*width, *padding_id, ids(0), bytemuck::cast_slice_mut(out));
            }
            _ => {}
        }
        let (on, out) = ((isa, threads), bytemuck::cast_slice_mut::<u32, f32>(out));
        match &step.kernel {
            Kernel::Gather { rows } => layout::gather(threads, x(0), *rows, ids(1), out),
            Kernel::Binary(op, how) => elementwise::floats(on, *op, how, [x(0), x(1)], out),
            Kernel::Unary(op) => {
                threads.rows(out, 1, |at, out| math::apply(isa, *op, &x(0)[at..][..out.len()], out));
            }
            Kernel::Softmax { width } => rows::softmax(on, *width, x(0), out),
            Kernel::LayerNorm { epsilon } => rows::layer_norm(on, x(0), None, [x(1), x(2)], *epsilon, out),
            Kernel::AddLayerNorm { epsilon } => {
                rows::layer_norm(on, x(0), Some(x(1)), [x(2), x(3)], *epsilon, out);
            }
            Kernel::Reduce { reduction, size, inner } => rows::reduce(isa, *reduction, *size, *inner, x(0), out),
            Kernel::L2Normalize { width, epsilon } => rows::l2_normalize(on, *width, *epsilon, x(0), out),
            Kernel::CastToF32 => elementwise::cast_to_f32(ids(0), out),
            _ => {}
        }
    }
}

/// Packs a right operand that changes from run to run.
fn pack<'a>(isa: Isa, b: &[f32], Size { k, n, .. }: Size, transposed: bool, out: &'a mut [f32]) -> &'a [f32] {
    let (row_stride, column_stride) = if transposed { (1, k) } else { (n, 1) };
    pack_right(isa, Matrix { elements: b, row_stride, column_stride }, k, n, out);
    out
}
