//! Steps: nodes with everything worked out that can be known before a run.
//!
//! A step is plain data of one size, so that a list of them can be copied into the memory of a WebAssembly module that was
//! built from the same source for the same target; its addresses are that memory's.

use crate::attention::Attention;
use crate::convolution::Convolution;
use crate::elementwise::{self, Binary, Broadcast};
use crate::gemm::{Product, TileSize};
use crate::isa::Isa;
use crate::layout::{self, Spread, Walk, Write};
use crate::math::{self, Function};
use crate::ranking;
use crate::rows::{self, Reduction};
use crate::team::Tasks;

/// The most dimensions that stay apart once those that are walked as one are joined.
pub const MAX_RANK: usize = 8;

/// The most operands of one step.
pub const MAX_OPERANDS: usize = 6;

/// The most tasks of one step: what a [`Team`](crate::Team)'s ticket can count. Steps of more parts give each task several.
pub(crate) const MAX_TASKS: usize = 1 << 14;

/// Elements of the smallest piece handed to another thread: some microseconds of work, as much as waking it costs.
const SMALLEST_PIECE: usize = 8192;

/// Elements to the end of a cache line.
pub(crate) fn line(len: usize) -> usize {
    len.next_multiple_of(16)
}

/// Words in memory: `f32` or `i32` values.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where the first word is, in bytes.
    pub address: usize,
    /// How many words there are.
    pub len: usize,
}

impl Span {
    /// Nothing: an operand that is not there.
    pub const NONE: Self = Self { address: 0, len: 0 };

    /// # Safety
    /// The words exist, nobody writes them as long as the result lives, and `T` is a number of 32 bits.
    unsafe fn read<'a, T>(self) -> &'a [T] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the caller's promise. The address came from an allocation that gave its provenance away as a number.
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(self.address), self.len) }
    }
}

/// Memory for the threads that execute a step.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// Where the first thread's memory is.
    pub address: usize,
    /// Words of each thread, a multiple of a cache line.
    pub lane_len: usize,
}

/// What a step computes; the operands' order is given where it is not plain.
#[repr(C, u32)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// Rows of a table of `rows`, then indices.
    Gather {
        /// Rows of the table.
        rows: usize,
    },
    /// Left, right, bias and residual, as far as there are.
    Product(Product),
    /// Image, kernel, and where there is one the bias.
    Convolution(Convolution),
    /// Functions of two floating-point numbers.
    Binary(Binary, Broadcast),
    /// Functions of two integers.
    BinaryIntegers(Binary, Broadcast),
    /// A function of each element.
    Unary(Function),
    /// Softmax of each row.
    Softmax {
        /// Elements of a row.
        width: usize,
    },
    /// Layer norm of the first operand; then scale and shift, as far as there are.
    LayerNorm {
        /// Elements of a row.
        width: usize,
        /// Added to the variance.
        epsilon: f32,
    },
    /// Layer norm of the sum of the first two operands; then scale and shift.
    AddLayerNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Rows divided by the root of the mean of their squares; then the scale.
    RmsNorm {
        /// Added to the mean.
        epsilon: f32,
    },
    /// Rows whose heads are rotated; then cos and sin.
    Rope {
        /// Elements of a head.
        depth: usize,
        /// Elements of a head that are rotated.
        rotary: usize,
        /// Elements of a row.
        width: usize,
        /// Rows of cos and sin, which come again after the last.
        tables: usize,
    },
    /// Reduction of `[outer, size, inner]` to `[outer, inner]`.
    Reduce {
        /// Which.
        reduction: Reduction,
        /// Elements that become one.
        size: usize,
        /// Elements between them.
        inner: usize,
    },
    /// Rows divided by their length.
    L2Normalize {
        /// Elements of a row.
        width: usize,
        /// The smallest length divided by.
        epsilon: f32,
    },
    /// Elements in another order.
    Walk(Walk),
    /// The same elements.
    Copy,
    /// Integers to floating-point numbers.
    CastToF32,
    /// Floating-point numbers to integers, towards zero.
    CastToI32,
    /// Positions of tokens.
    TokenPositions {
        /// Tokens of a sequence.
        width: usize,
        /// The id of the padding token.
        padding_id: i32,
    },
    /// Positions of the largest floating-point numbers of rows.
    ArgMax {
        /// Elements of a row.
        width: usize,
    },
    /// Positions of the largest integers of rows.
    ArgMaxIntegers {
        /// Elements of a row.
        width: usize,
    },
    /// The largest elements of rows and their positions.
    TopK {
        /// Elements of a row.
        width: usize,
        /// How many.
        k: usize,
    },
    /// Rows to a distance from each other.
    Spread(Spread),
    /// Rows, and the position they go to.
    Write(Write),
    /// Queries, keys, values, up to two biases, and where it is causal the position of the first query.
    Attention(Attention),
}

/// One node of a program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    kernel: Kernel,
    operands: [Span; MAX_OPERANDS],
    out: Span,
    scratch: Scratch,
    tasks: usize,
    /// Elements of the result that one task computes, for kernels that are cut by their results.
    piece: usize,
    /// Which operands lie in a set of states, a bit for each; the one after those is the result's.
    in_states: u32,
    /// Where the set of states is that those addresses are of.
    states: usize,
}

impl Step {
    /// A step cut for this many threads. Its scratch memory is still to be given, see [`lane_len`](Self::lane_len).
    #[must_use]
    pub fn new(kernel: Kernel, operands: [Span; MAX_OPERANDS], out: Span, threads: usize) -> Self {
        let scratch = Scratch { address: 0, lane_len: 0 };
        let mut step = Self { kernel, operands, out, scratch, tasks: 1, piece: 1, in_states: 0, states: 0 };
        step.tasks = match step.units() {
            Some(units) => units.min(MAX_TASKS),
            None => {
                let (len, width) = (out.len.max(1), step.width().max(1));
                step.piece = len;
                if threads > 1 && len >= 2 * SMALLEST_PIECE {
                    let rows = (len / width).div_ceil(threads * 2).max(SMALLEST_PIECE.div_ceil(width));
                    step.piece = rows * width;
                }
                len.div_ceil(step.piece)
            }
        };
        step
    }

    /// The step with another operand.
    #[must_use]
    pub fn with_operand(mut self, operand: usize, span: Span) -> Self {
        self.operands[operand] = span;
        self
    }

    /// Says that an operand, or for [`MAX_OPERANDS`] the result, lies in a set of states: its address so far is its distance
    /// from where the set begins, and the step must not be executed before [`move_states`](Self::move_states) says where.
    #[must_use]
    pub fn in_states(mut self, operand: usize) -> Self {
        self.in_states |= 1 << operand;
        self
    }

    /// Makes the step one of another set of states.
    pub fn move_states(&mut self, address: usize) {
        for (n, span) in self.operands.iter_mut().chain([&mut self.out]).enumerate() {
            if self.in_states >> n & 1 == 1 {
                span.address = span.address - self.states + address;
            }
        }
        self.states = address;
    }

    /// The words of scratch memory that each thread needs.
    #[must_use]
    pub fn lane_len(&self, tile: TileSize) -> usize {
        match &self.kernel {
            Kernel::Product(product) => product.lane_len(tile),
            Kernel::Attention(attention) => attention.lane_len(tile),
            Kernel::Convolution(convolution) => convolution.lane_len(tile),
            _ => 0,
        }
    }

    /// Gives the step its scratch memory, which it may share with all others of the same team.
    pub fn set_scratch(&mut self, scratch: Scratch) {
        self.scratch = scratch;
    }

    /// How many tasks there are, from 0 on.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks
    }

    /// The parts of kernels that cut themselves.
    fn units(&self) -> Option<usize> {
        match &self.kernel {
            Kernel::Product(product) => Some(product.units()),
            Kernel::Attention(attention) => Some(attention.units()),
            Kernel::Convolution(convolution) => Some(convolution.units()),
            Kernel::Spread(spread) => Some(spread.units()),
            Kernel::Write(write) => Some(write.units()),
            _ => None,
        }
    }

    /// The elements of the result that belong together.
    fn width(&self) -> usize {
        match &self.kernel {
            Kernel::Gather { rows } => self.operands[0].len / rows,
            Kernel::Binary(_, how) | Kernel::BinaryIntegers(_, how) => how.width(),
            Kernel::Softmax { width } | Kernel::L2Normalize { width, .. } | Kernel::TokenPositions { width, .. } => {
                *width
            }
            Kernel::LayerNorm { width, .. } | Kernel::Rope { width, .. } => *width,
            Kernel::RmsNorm { .. } => self.operands[1].len,
            Kernel::TopK { k, .. } => 2 * k,
            Kernel::AddLayerNorm { .. } => self.operands[2].len,
            Kernel::Reduce { inner, .. } => *inner,
            Kernel::Walk(walk) => walk.width(),
            _ => 1,
        }
    }

    /// Executes the tasks that are given, in the order in which they are, as the thread of this lane.
    ///
    /// # Safety
    /// Every address of the step is that of living memory of its length, aligned for `f32`; operands and results do not
    /// overlap; nobody else executes these tasks, uses this lane, or writes what the step reads.
    // Kept apart from the loops that call it: a browser compiles a function anew, and faster, only for its next call, and
    // a helper calls its loop once in its life. In a browser whatever this calls is a function of its own, too, see `vectorised!`:
    // with all small kernels in it this one took longer to compile than a run takes.
    #[inline(never)]
    pub(crate) unsafe fn work(&self, isa: Isa, lane: usize, tasks: &mut Tasks<'_>) {
        let Scratch { address, lane_len } = self.scratch;
        // SAFETY: the caller's promise: this lane is ours.
        let memory: &mut [f32] = unsafe {
            if lane_len == 0 {
                &mut []
            } else {
                let first = core::ptr::with_exposed_provenance_mut(address + lane * lane_len * 4);
                core::slice::from_raw_parts_mut(first, lane_len)
            }
        };
        let out: *mut u32 = core::ptr::with_exposed_provenance_mut(self.out.address);
        let Some(units) = self.units() else {
            while let Some(task) = tasks.next() {
                let first = task * self.piece;
                // SAFETY: the caller's promise: the task's piece of the result is ours.
                unsafe {
                    let out = core::slice::from_raw_parts_mut(out.add(first), self.piece.min(self.out.len - first));
                    self.simple(isa, first, out);
                }
            }
            return;
        };
        let mut units = Units { tasks, stride: self.tasks, units, at: units };
        // SAFETY: the caller's promise.
        let operand = |n: usize| unsafe { self.operands[n].read::<f32>() };
        let optional = |n: usize| Some(operand(n)).filter(|operand| !operand.is_empty());
        match &self.kernel {
            Kernel::Product(product) => {
                // SAFETY: the caller's promise: these units of the result are ours.
                unsafe {
                    let added = [optional(2), optional(3)];
                    product.compute(isa, [operand(0), operand(1)], added, out.cast(), memory, &mut units);
                }
            }
            Kernel::Attention(attention) => {
                let qkv = [operand(0), operand(1), operand(2)];
                let biases = [optional(3), optional(4)];
                // SAFETY: as above.
                unsafe {
                    let start = self.operands[5].read::<i32>().first().copied().unwrap_or(0);
                    attention.compute(isa, qkv, biases, start, out.cast(), memory, &mut units);
                }
            }
            Kernel::Convolution(convolution) => {
                let image_and_kernel = [operand(0), operand(1)];
                // SAFETY: as above.
                unsafe {
                    convolution.compute(isa, image_and_kernel, optional(2), out.cast(), memory, &mut units);
                }
            }
            Kernel::Spread(spread) => {
                // SAFETY: as above.
                unsafe { spread.copy(self.operands[0].read::<u32>(), out, &mut units) };
            }
            Kernel::Write(write) => {
                // SAFETY: as above.
                unsafe {
                    let at = self.operands[1].read::<i32>()[0];
                    write.copy(self.operands[0].read::<u32>(), at, out, &mut units);
                }
            }
            _ => {}
        }
    }

    /// Computes the piece of the result that begins at element `first`.
    ///
    /// # Safety
    /// As for [`work`](Self::work).
    unsafe fn simple(&self, isa: Isa, first: usize, words: &mut [u32]) {
        let len = words.len();
        // SAFETY: the caller's promise: nobody writes what the step reads.
        let x = |n: usize| unsafe { self.operands[n].read::<f32>() };
        // SAFETY: as above.
        let ids = |n: usize| unsafe { self.operands[n].read::<i32>() };
        let part = |n: usize| &x(n)[first..][..len];
        match &self.kernel {
            Kernel::Gather { rows } => {
                let table = x(0);
                layout::gather(table, *rows, &ids(1)[first / (table.len() / rows)..], floats(words));
            }
            Kernel::Binary(op, how) => elementwise::floats(isa, *op, how, [x(0), x(1)], first, floats(words)),
            Kernel::BinaryIntegers(op, how) => {
                elementwise::integers(*op, how, [ids(0), ids(1)], first, integers(words));
            }
            Kernel::Unary(function) => math::apply(isa, *function, part(0), floats(words)),
            Kernel::Softmax { width } => rows::softmax(isa, *width, part(0), floats(words)),
            Kernel::LayerNorm { width, epsilon } => {
                rows::layer_norm(isa, *width, part(0), None, [x(1), x(2)], *epsilon, floats(words));
            }
            Kernel::AddLayerNorm { epsilon } => {
                let scale = x(2);
                rows::layer_norm(isa, scale.len(), part(0), Some(part(1)), [scale, x(3)], *epsilon, floats(words));
            }
            Kernel::RmsNorm { epsilon } => rows::rms_norm(isa, x(1), *epsilon, part(0), floats(words)),
            Kernel::Rope { depth, rotary, width, tables } => {
                let out = floats(words);
                out.copy_from_slice(part(0));
                rows::rope(isa, [*depth, *rotary, *width], (first / width, *tables), [x(1), x(2)], out);
            }
            Kernel::ArgMax { width } => {
                ranking::arg_max(isa, *width, &x(0)[first * width..][..len * width], integers(words));
            }
            Kernel::ArgMaxIntegers { width } => {
                ranking::arg_max_integers(*width, &ids(0)[first * width..][..len * width], integers(words));
            }
            Kernel::TopK { width, k } => {
                let (row, rows) = (first / (2 * k), len / (2 * k));
                ranking::top_k(isa, *width, *k, &x(0)[row * width..][..rows * width], floats(words));
            }
            Kernel::Reduce { reduction, size, inner } => {
                rows::reduce(isa, *reduction, *size, *inner, &x(0)[first * size..][..len * size], floats(words));
            }
            Kernel::L2Normalize { width, epsilon } => {
                rows::l2_normalize(isa, *width, *epsilon, part(0), floats(words));
            }
            Kernel::Walk(walk) => {
                // SAFETY: as above.
                walk.copy(unsafe { self.operands[0].read::<u32>() }, first, words);
            }
            Kernel::Copy => {
                // SAFETY: as above.
                words.copy_from_slice(&unsafe { self.operands[0].read::<u32>() }[first..][..len]);
            }
            Kernel::CastToF32 => elementwise::cast_to_f32(&ids(0)[first..][..len], floats(words)),
            Kernel::CastToI32 => elementwise::cast_to_i32(part(0), integers(words)),
            Kernel::TokenPositions { width, padding_id } => {
                layout::token_positions(*width, *padding_id, &ids(0)[first..][..len], integers(words));
            }
            Kernel::Product(_)
            | Kernel::Attention(_)
            | Kernel::Convolution(_)
            | Kernel::Spread(_)
            | Kernel::Write(_) => {}
        }
    }
}

fn floats(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: both are 32 bits with equal alignment, and every pattern is a value of either.
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

fn integers(words: &mut [u32]) -> &mut [i32] {
    // SAFETY: as for `floats`.
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// The parts that belong to tasks: of so many tasks, task `t` has parts `t`, `t + tasks` and so on.
pub(crate) struct Units<'a, 'b> {
    tasks: &'a mut Tasks<'b>,
    stride: usize,
    units: usize,
    at: usize,
}

impl Iterator for Units<'_, '_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.at >= self.units {
            self.at = self.tasks.next()?;
        }
        let unit = self.at;
        self.at += self.stride;
        Some(unit)
    }
}
