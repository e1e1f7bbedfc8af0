//! Operators: what a node does, with the shapes it takes and gives.

mod infer;

/// Elementwise functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unary {
    /// `x * Phi(x)` with the error function, as `torch.nn.functional.gelu`.
    Gelu,
    /// GELU's tanh approximation, as `gelu(x, approximate="tanh")`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `tanh(x)`.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x * sigmoid(x)`.
    Silu,
    /// The error function.
    Erf,
    /// `exp(x)`.
    Exp,
    /// `sqrt(x)`.
    Sqrt,
    /// `-x`.
    Neg,
    /// `|x|`.
    Abs,
    /// `x * sigmoid(1.702 * x)`, as CLIP's `quick_gelu`.
    QuickGelu,
    /// The natural logarithm.
    Log,
    /// `1 / x`.
    Reciprocal,
}

/// The functions that may follow a linear layer or a convolution inside its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// See [`Unary::Gelu`].
    Gelu,
    /// See [`Unary::GeluTanh`].
    GeluTanh,
    /// See [`Unary::Relu`].
    Relu,
    /// See [`Unary::Tanh`].
    Tanh,
    /// See [`Unary::Sigmoid`].
    Sigmoid,
    /// See [`Unary::Silu`].
    Silu,
    /// See [`Unary::QuickGelu`].
    QuickGelu,
}

impl Activation {
    /// The elementwise function this is.
    #[must_use]
    pub fn unary(self) -> Unary {
        match self {
            Activation::Gelu => Unary::Gelu,
            Activation::GeluTanh => Unary::GeluTanh,
            Activation::Relu => Unary::Relu,
            Activation::Tanh => Unary::Tanh,
            Activation::Sigmoid => Unary::Sigmoid,
            Activation::Silu => Unary::Silu,
            Activation::QuickGelu => Unary::QuickGelu,
        }
    }

    /// The activation an elementwise function is, if it may follow a linear node.
    #[must_use]
    pub fn from_unary(op: Unary) -> Option<Self> {
        Some(match op {
            Unary::Gelu => Activation::Gelu,
            Unary::GeluTanh => Activation::GeluTanh,
            Unary::Relu => Activation::Relu,
            Unary::Tanh => Activation::Tanh,
            Unary::Sigmoid => Activation::Sigmoid,
            Unary::Silu => Activation::Silu,
            Unary::QuickGelu => Activation::QuickGelu,
            _ => return None,
        })
    }
}

/// Elementwise functions of two operands that broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`; floating point only.
    Div,
    /// The larger.
    Max,
    /// The smaller.
    Min,
}

/// How a dimension is reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reduction {
    /// The sum.
    Sum,
    /// The arithmetic mean.
    Mean,
    /// The largest element.
    Max,
}

/// An operator. Shapes are written outermost first; `…` stands for any number of dimensions.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// Rows of a table. Inputs: table `f32 [V, D…]`, indices `i32 [I…]`. Output `f32 [I…, D…]`. An index outside
    /// `0..V` reads the nearest row; hosts refuse such ids before they are sent.
    Gather,
    /// Matrix product over the last two dimensions; leading ones broadcast. Inputs: `f32 [A…, M, K]`,
    /// `f32 [B…, K, N]` (`[B…, N, K]` where `transpose_b`). Output `f32 [broadcast…, M, N]`.
    MatMul {
        /// Whether the second operand is stored `[N, K]`.
        transpose_b: bool,
    },
    /// `activation(x @ weight.T + bias) + residual`. Inputs: `f32 […, K]`, weight `f32 [N, K]`, optionally bias `f32 [N]`,
    /// and where `residual` last of all a value of the output's shape. Output `f32 […, N]`. Primitive without an activation
    /// and a residual, fused with either.
    Linear {
        /// What follows the sum.
        activation: Option<Activation>,
        /// Whether the last operand is added to what the activation gives.
        residual: bool,
    },
    /// A convolution of two dimensions, as `torch.nn.functional.conv2d`: a sum of products of the kernel with what lies under
    /// it, the input continued by zeros, then bias and activation. Inputs: `f32 [B, C, H, W]`, weight
    /// `f32 [O, C / groups, Kh, Kw]`, optionally bias `f32 [O]`. Output `f32 [B, O, H', W']` with
    /// `H' = (top + H + bottom - dilation * (Kh - 1) - 1) / stride + 1`, rounded down; the width alike. Output channel `o` sees
    /// the input channels of group `o / (O / groups)` only. One dimension is this with `H = 1`.
    Conv2d {
        /// Steps of the kernel down and to the right.
        stride: [usize; 2],
        /// Rows and columns of zeros: top, left, bottom, right.
        padding: [usize; 4],
        /// Distance between the kernel's elements, down and to the right.
        dilation: [usize; 2],
        /// Into how many groups channels are divided.
        groups: usize,
        /// What follows the sum.
        activation: Option<Activation>,
    },
    /// An elementwise function of two operands, both `f32` or both `i32`, broadcast to each other.
    Binary(Binary),
    /// An elementwise function of one `f32` operand.
    Unary(Unary),
    /// Softmax over the last dimension of `f32 […, N]`.
    Softmax,
    /// `(x - mean) / sqrt(variance + epsilon) * scale + shift` over the last dimension, with the biased variance. Inputs:
    /// `f32 […, N]`, optionally scale `f32 [N]`, and after a scale optionally shift `f32 [N]`. A group norm is this without
    /// both, over a reshape, then a multiplication and an addition.
    LayerNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Fused: `LayerNorm(x + residual)`. Inputs: x `f32 […, N]`, residual of the same shape, scale, shift.
    AddLayerNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// `x / sqrt(mean(x^2) + epsilon) * scale` over the last dimension. Inputs: `f32 […, N]`, scale `f32 [N]`.
    RmsNorm {
        /// Added to the mean.
        epsilon: f32,
    },
    /// Reduces one dimension of an `f32` value.
    Reduce {
        /// What is computed.
        reduction: Reduction,
        /// The dimension.
        axis: usize,
        /// Whether the dimension stays, with size 1.
        keep: bool,
    },
    /// `x / max(||x||_2, epsilon)` over the last dimension, as `torch.nn.functional.normalize`.
    L2Normalize {
        /// The smallest length divided by.
        epsilon: f32,
    },
    /// The same elements in row-major order under another shape.
    Reshape {
        /// The new shape: static, the same number of elements.
        shape: tabpool_tensor::Shape,
    },
    /// Reorders dimensions: output dimension `i` is input dimension `permutation[i]`.
    Transpose {
        /// A permutation of `0..rank`.
        permutation: Vec<usize>,
    },
    /// `length` elements of one dimension from `start` on.
    Slice {
        /// The dimension.
        axis: usize,
        /// The first element kept.
        start: usize,
        /// How many are kept, at least one.
        length: usize,
    },
    /// Values one after another along one dimension. Inputs: 1 to 16, all `f32` or all `i32`, of shapes that differ in that
    /// dimension only.
    Concat {
        /// The dimension.
        axis: usize,
    },
    /// Replaces rows: inputs are target `[B, C, W]`, rows `[B, S, W]` of its dtype with `S <= C`, and at `i32 [1]`; the output
    /// is the target with rows `at..at + S` of dimension 1 replaced. Rows that would fall outside `0..C` are dropped; hosts
    /// refuse such positions before they are sent. Where the target is a state's value and the output what that state
    /// becomes, backends write into the state's own memory; see [`Graph::in_place`](crate::Graph::in_place).
    WriteRows,
    /// The position of the largest element of the last dimension, the first among equals: `f32 […, N]` or `i32 […, N]` to
    /// `i32 […]`. Where an element is no number the result is some position.
    ArgMax,
    /// The `k` largest elements of the last dimension with their positions: `f32 […, N]` to `f32 […, 2, k]`, first the
    /// elements, the largest first and the one of the lower position first among equals, then their positions as `f32`,
    /// which hold them exactly because `N` is at most `2^24`. Where an element is no number the result is some elements.
    TopK {
        /// How many, at most `N`.
        k: usize,
    },
    /// Rotary positions, as `transformers` applies them with `rotate_half`: of each head's first `rotary` elements the halves
    /// `(a, b)` become `(a * cos - b * sin, b * cos + a * sin)`; the rest passes. Inputs: `f32 [B, S, heads * D]`, then cos and
    /// sin, each `f32 [B, S, rotary / 2]` or `f32 [1, S, rotary / 2]`.
    Rope {
        /// The number of heads.
        heads: usize,
        /// How many elements of each head are rotated: an even number, at most `D`.
        rotary: usize,
    },
    /// Converts between `i32` and `f32` (towards zero).
    Cast {
        /// `F32` or `I32`.
        to: tabpool_tensor::DType,
    },
    /// Positions that count only real tokens, as `RoBERTa` and `MPNet` number them: ids `i32 [B, S]` to `i32 [B, S]`;
    /// `padding_id` where the id is `padding_id`, otherwise `padding_id +` the number of other ids up to and with it.
    TokenPositions {
        /// The id of the padding token.
        padding_id: i32,
    },
    /// Attention of several heads: `softmax(q @ k.T * scale + biases) @ v` for each. Inputs: q `f32 [B, Sq, heads * D]`, k
    /// `f32 [B, Sk, kv_heads * D]`, v `f32 [B, Sk, kv_heads * Dv]`, then up to two additive biases, each `f32` of rank 4 that
    /// broadcasts to `[B, heads, Sq, Sk]`, and where `causal` last of all start `i32 [1]`. Output `f32 [B, Sq, heads * Dv]`.
    ///
    /// Head `h` uses keys and values of head `h / (heads / kv_heads)`. Where `causal`, query `i` sees key `j` only if
    /// `j <= start + i`, and nothing of what it does not see reaches its result, not even what is no number: a cache may hold
    /// anything beyond the rows that were written. A start below 0 counts as 0, so every query sees a key.
    Attention {
        /// The number of heads of queries.
        heads: usize,
        /// The number of heads of keys and values: a divisor of `heads`, equal to it where nothing is grouped.
        kv_heads: usize,
        /// What scores are multiplied by, commonly `1 / sqrt(D)`.
        scale: f32,
        /// Whether queries see keys up to their own position only.
        causal: bool,
    },
}

impl Op {
    /// A linear layer with nothing after it.
    pub const LINEAR: Op = Op::Linear { activation: None, residual: false };

    /// Attention whose heads each have keys of their own and see all of them.
    #[must_use]
    pub fn attention(heads: usize, scale: f32) -> Self {
        Op::Attention { heads, kv_heads: heads, scale, causal: false }
    }

    /// The operator's name, as messages give it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Op::Gather => "gather",
            Op::MatMul { .. } => "matmul",
            Op::Linear { .. } => "linear",
            Op::Conv2d { .. } => "conv2d",
            Op::Binary(Binary::Add) => "add",
            Op::Binary(Binary::Sub) => "sub",
            Op::Binary(Binary::Mul) => "mul",
            Op::Binary(Binary::Div) => "div",
            Op::Binary(Binary::Max) => "max",
            Op::Binary(Binary::Min) => "min",
            Op::Unary(Unary::Gelu) => "gelu",
            Op::Unary(Unary::GeluTanh) => "gelu_tanh",
            Op::Unary(Unary::Relu) => "relu",
            Op::Unary(Unary::Tanh) => "tanh",
            Op::Unary(Unary::Sigmoid) => "sigmoid",
            Op::Unary(Unary::Silu) => "silu",
            Op::Unary(Unary::Erf) => "erf",
            Op::Unary(Unary::Exp) => "exp",
            Op::Unary(Unary::Sqrt) => "sqrt",
            Op::Unary(Unary::Neg) => "neg",
            Op::Unary(Unary::Abs) => "abs",
            Op::Unary(Unary::QuickGelu) => "quick_gelu",
            Op::Unary(Unary::Log) => "log",
            Op::Unary(Unary::Reciprocal) => "reciprocal",
            Op::Softmax => "softmax",
            Op::LayerNorm { .. } => "layer_norm",
            Op::AddLayerNorm { .. } => "add_layer_norm",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Reduce { .. } => "reduce",
            Op::L2Normalize { .. } => "l2_normalize",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::WriteRows => "write_rows",
            Op::ArgMax => "arg_max",
            Op::TopK { .. } => "top_k",
            Op::Rope { .. } => "rope",
            Op::Cast { .. } => "cast",
            Op::TokenPositions { .. } => "token_positions",
            Op::Attention { .. } => "attention",
        }
    }
}
