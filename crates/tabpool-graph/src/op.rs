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
}

/// The functions that may follow a linear node inside it.
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
    /// `activation(x @ weight.T + bias)`. Inputs: `f32 […, K]`, weight `f32 [N, K]`, optionally bias `f32 [N]`.
    /// Output `f32 […, N]`. Primitive without an activation, fused with one.
    Linear {
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
    /// `f32 […, N]`, scale `f32 [N]`, shift `f32 [N]`.
    LayerNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// Fused: `LayerNorm(x + residual)`. Inputs: x `f32 […, N]`, residual of the same shape, scale, shift.
    AddLayerNorm {
        /// Added to the variance.
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
    /// Fused multi-head attention: `softmax(q @ k.T * scale + biases) @ v` for each head. Inputs: q
    /// `f32 [B, Sq, heads * D]`, k `f32 [B, Sk, heads * D]`, v `f32 [B, Sk, heads * Dv]`, then up to two additive biases,
    /// each `f32` of rank 4 that broadcasts to `[B, heads, Sq, Sk]`. Output `f32 [B, Sq, heads * Dv]`.
    Attention {
        /// The number of heads.
        heads: usize,
        /// What scores are multiplied by, commonly `1 / sqrt(D)`.
        scale: f32,
    },
}

impl Op {
    /// The operator's name, as messages give it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Op::Gather => "gather",
            Op::MatMul { .. } => "matmul",
            Op::Linear { .. } => "linear",
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
            Op::Softmax => "softmax",
            Op::LayerNorm { .. } => "layer_norm",
            Op::AddLayerNorm { .. } => "add_layer_norm",
            Op::Reduce { .. } => "reduce",
            Op::L2Normalize { .. } => "l2_normalize",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Slice { .. } => "slice",
            Op::Cast { .. } => "cast",
            Op::TokenPositions { .. } => "token_positions",
            Op::Attention { .. } => "attention",
        }
    }
}
