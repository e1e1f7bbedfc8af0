//! The kernels: each a `.wgsl` file beside the `.rs` file that says how to launch it.
//!
//! A [`Kernel`] is WGSL text put together from whole files (preludes first), the number of buffers it reads, and nothing
//! else: variants differ by `override` constants or by which of two preludes stands before them, never by edited text.
//! Bindings are the same for all: 0 the uniform parameters, then the buffers read, last the buffer written. Shapes
//! are parameters, so a pipeline serves every shape.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod binary;
pub(crate) mod cast;
pub(crate) mod concat;
pub(crate) mod convolution;
pub(crate) mod gather;
pub(crate) mod gemm;
pub(crate) mod l2_normalize;
pub(crate) mod layer_norm;
pub(crate) mod matmul;
pub(crate) mod peak;
pub(crate) mod quantise;
pub(crate) mod ranking;
pub(crate) mod reduce;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod row;
pub(crate) mod softmax;
pub(crate) mod strided;
pub(crate) mod token_positions;
pub(crate) mod unary;
pub(crate) mod unpack;
pub(crate) mod write_rows;

#[cfg(test)]
mod tests;

/// Prelude: positions in a folded grid.
pub(crate) const GRID: &str = include_str!("kernels/grid.wgsl");
/// Prelude: sums and maxima over a workgroup.
pub(crate) const ACROSS: &str = include_str!("kernels/across.wgsl");
/// Prelude: elements are moved one by one.
pub(crate) const WORD: &str = include_str!("kernels/element_word.wgsl");
/// Prelude: elements are moved in fours.
pub(crate) const QUAD: &str = include_str!("kernels/element_quad.wgsl");
/// Prelude: elementwise functions.
pub(crate) const ACTIVATION: &str = include_str!("kernels/activation.wgsl");

/// The most dimensions that kernels with strides take, after neighbours that lie contiguously were joined.
pub(crate) const MAX_RANK: usize = 8;

/// WGSL text and how many buffers it reads.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Unique; the pipeline cache knows the kernel by it.
    pub(crate) name: &'static str,
    /// Whole files, preludes first.
    pub(crate) parts: &'static [&'static str],
    /// How many buffers are bound for reading.
    pub(crate) reads: u32,
}

impl Kernel {
    /// The text that a device compiles.
    pub(crate) fn source(&self) -> String {
        self.parts.concat()
    }
}

/// A kernel with the values of its overrides: what a pipeline is made of. Booleans are 0 and 1.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    /// The kernel.
    pub(crate) kernel: &'static Kernel,
    /// The overrides that are set, always in the same order for one kernel.
    pub(crate) constants: Vec<(&'static str, u32)>,
}

impl Variant {
    pub(crate) fn new(kernel: &'static Kernel, constants: &[(&'static str, u32)]) -> Self {
        Self { kernel, constants: constants.to_vec() }
    }
}

/// A launch of a kernel, without its buffers.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// What runs.
    pub(crate) variant: Variant,
    /// The uniform parameters in words of 32 bits.
    pub(crate) params: Vec<u32>,
    /// The number of workgroups in x and y.
    pub(crate) groups: Groups,
}

/// How many workgroups a launch needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Groups {
    /// So many in a row; folded over y where x cannot hold them. The kernel uses `grid.wgsl` and checks for the end.
    Line(u32),
    /// Columns by rows, each within the limit of a dimension or refused when lowered.
    Plane(u32, u32),
}

impl Groups {
    /// Enough workgroups of 64 for so many invocations.
    pub(crate) fn of_64(invocations: usize) -> Self {
        Groups::Line(word(invocations.div_ceil(64)))
    }

    /// The sizes in x and y where a dimension holds at most `limit`; `None` where a plane is too large.
    pub(crate) fn folded(self, limit: u32) -> Option<[u32; 2]> {
        match self {
            Groups::Line(n) if n <= limit => Some([n, 1]),
            Groups::Line(n) => Some([limit, n.div_ceil(limit)]),
            Groups::Plane(x, y) => (x <= limit && y <= limit).then_some([x, y]),
        }
    }
}

/// A size as kernels take it. Validated graphs hold nothing larger than 32 bits; saturates otherwise, and the limits
/// checked at lowering refuse it.
pub(crate) fn word(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Sizes or strides as an `array<vec4u, 2>`. The caller keeps to [`MAX_RANK`].
pub(crate) fn words8(sizes: &[usize]) -> [u32; MAX_RANK] {
    let mut words = [0; MAX_RANK];
    for (w, &s) in words.iter_mut().zip(sizes) {
        *w = word(s);
    }
    words
}

/// Every variant that lowering can dispatch, for validation.
#[cfg(test)]
pub(crate) fn all_variants() -> Vec<Variant> {
    [
        attention::variants(),
        binary::variants(),
        cast::variants(),
        concat::variants(),
        convolution::variants(),
        gather::variants(),
        gemm::variants(),
        l2_normalize::variants(),
        layer_norm::variants(),
        matmul::variants(),
        peak::variants(),
        quantise::variants(),
        ranking::variants(),
        reduce::variants(),
        rms_norm::variants(),
        rope::variants(),
        softmax::variants(),
        strided::variants(),
        token_positions::variants(),
        unary::variants(),
        unpack::variants(),
        write_rows::variants(),
    ]
    .concat()
}
