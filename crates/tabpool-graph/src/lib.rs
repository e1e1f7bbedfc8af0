//! The graph IR of tabpool: what a model computes, with every shape known.
//!
//! # What a graph means
//!
//! A [`Graph`] is a list of *values*, each with a dtype and a static shape, and of *nodes* in topological order. A value
//! has exactly one origin: it is an *input* of the run, a *weight* (bytes that live in content-addressed blocks, equal
//! for every run), a *constant* (a few bytes that travel inside the program), a *state* (what lives on the worker between
//! runs), or the single output of a node. Some values are named *outputs*. Evaluating the graph means giving tensors for
//! the inputs and evaluating each node once, in order, after which each state becomes the value that the graph names for
//! it; nothing else happens: no control flow, no randomness.
//!
//! Numbers are `f32` or `i32`. A weight may be stored narrower (`f16`, `bf16`): [`Weight::stored`] says how, the value
//! itself is what arithmetic sees. Indices, ids and masks are `i32`; a host that is given `i64` narrows them first.
//!
//! The meaning of each operator, with its shapes, stands at its variant of [`Op`]. Operators follow PyTorch's
//! conventions: row-major, linear weights `[out, in]`, broadcasting as NumPy's.
//!
//! # State
//!
//! A decoder generates one token a run and must not compute the earlier ones again. What it keeps of them, and whatever
//! else of a run the next one needs, are [`State`]s: zeros at first, read by a run as any value, and afterwards what the
//! graph says they become. Programs with the same states, name by name, may take turns on one set of them: one that reads
//! a prompt, one that goes a token further. Long caches are written a few rows at a time: where an [`Op::WriteRows`] has a
//! state's value as its target and its result is what the state becomes, backends write into the state's own memory. So
//! that nobody sees it half written, nothing else may read the value of such a state; everything reads the result.
//!
//! # From a graph to a program
//!
//! Model builders emit *primitive* operators, and [`Op::Attention`] where a model's attention is grouped or causal
//! ([`GraphBuilder`] checks every node as it is added). [`passes`] rewrite them into *fused* ones, and a graph whose weights are bound to blocks becomes a
//! [`Program`]: a few kilobytes with a versioned encoding that any worker can run. A program that decodes is valid, and
//! a valid program never fails later for a reason that validation could have seen.
//!
//! ```
//! use tabpool_graph::{GraphBuilder, Op, Unary};
//! use tabpool_tensor::DType;
//!
//! let mut b = GraphBuilder::new();
//! let x = b.input("x", DType::F32, [4, 8])?;
//! let w = b.weight("w", DType::F16, [16, 8])?;
//! let y = b.node("project", Op::LINEAR, &[x, w])?;
//! let y = b.node("squash", Op::Unary(Unary::Tanh), &[y])?;
//! b.output("y", y)?;
//! let graph = tabpool_graph::passes::optimise(b.finish()?)?;
//! assert_eq!(graph.nodes().len(), 1, "the activation moved into the linear node");
//! # Ok::<(), tabpool_graph::GraphError>(())
//! ```

mod builder;
mod graph;
mod op;
mod parts;
pub mod passes;
mod program;
mod validate;

pub use builder::GraphBuilder;
pub use graph::{BlockRef, Constant, Graph, Node, Output, State, Value, ValueId, Weight};
pub use op::{Activation, Binary, Op, Reduction, Unary};
pub use parts::KeptValue;
pub use program::{PROGRAM_VERSION, Program, ProgramError, ProgramLimits};
pub use validate::GraphError;
