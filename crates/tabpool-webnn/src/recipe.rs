//! A graph of WebNN as plain data: every call of `MLGraphBuilder` in order, checked against the browser's limits as it is
//! written down.
//!
//! Operands carry the shape in which they lie; a value of the program may lie in any shape with the same elements in the
//! same order. So a reshape costs a call only where an operator needs another shape than the one at hand, and chains of
//! them are one.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tabpool_engine::{Api, EngineError};
use tabpool_tensor::DType;

use crate::limits::{Limits, data_type};

/// Names an operand: its position in [`Recipe::steps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Operand(pub(crate) usize);

/// One operand and how it is made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) source: Source,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
}

/// Where an operand comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// An input of the program, by its position.
    Input(usize),
    /// A weight of the program, by its position, always in `f32`.
    Weight(usize),
    /// A weight of the program, by its position, that is read row by row and nothing else. It is an input of the graph that
    /// programs share, not a constant: a constant would be copied into every graph, and tables are half of a small model.
    Table(usize),
    /// What a state of the program holds before the run, by its position.
    State(usize),
    /// These bytes.
    Constant(Bytes),
    /// A method of the builder.
    Call { method: &'static str, arguments: Vec<Argument>, options: Vec<(&'static str, Argument)> },
}

/// An argument or an option of a call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Argument {
    Operand(Operand),
    /// Several operands in one array.
    Operands(Vec<Operand>),
    Dims(Vec<usize>),
    Number(f64),
    Flag(bool),
    Text(&'static str),
}

/// Everything that makes an `MLGraph`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recipe {
    /// Operands in an order in which each is made before it is read.
    pub(crate) steps: Vec<Step>,
    /// What a run gives back, one operand for each output of the program, none twice and each made by a call.
    pub(crate) outputs: Vec<Operand>,
    /// What states become that a run changes, with their positions; operands as in `outputs`, and none of those.
    pub(crate) nexts: Vec<(usize, Operand)>,
}

impl Recipe {
    /// The operand of each input that is read; a graph does not know the others.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (usize, &Step)> {
        self.steps.iter().filter_map(|step| match step.source {
            Source::Input(position) => Some((position, step)),
            _ => None,
        })
    }

    /// The positions of the states that are read.
    pub(crate) fn states(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().filter_map(|step| match step.source {
            Source::State(position) => Some(position),
            _ => None,
        })
    }

    /// The positions of the weights that are read.
    pub(crate) fn weights(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().filter_map(|step| match step.source {
            Source::Weight(position) | Source::Table(position) => Some(position),
            _ => None,
        })
    }

    /// The operand of each table.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (usize, &Step)> {
        self.steps.iter().filter_map(|step| match step.source {
            Source::Table(position) => Some((position, step)),
            _ => None,
        })
    }
}

/// The names under which `opSupportLimits()` lists the operands of a method, in the order of [`Draft::call`].
fn operand_names(method: &str) -> &'static [&'static str] {
    match method {
        "add" | "sub" | "mul" | "div" | "max" | "min" | "matmul" => &["a", "b"],
        "equal" | "greater" | "greaterOrEqual" | "lesserOrEqual" | "logicalAnd" | "logicalOr" => &["a", "b"],
        "logicalNot" => &["a"],
        "conv2d" => &["input", "filter"],
        "gemm" => &["a", "b", "c"],
        "gather" => &["input", "indices"],
        "where" => &["condition", "trueValue", "falseValue"],
        "layerNormalization" => &["input", "scale", "bias"],
        _ => &["input"],
    }
}

/// A recipe in the making.
pub(crate) struct Draft<'a> {
    limits: &'a Limits,
    recipe: Recipe,
    /// What each reshaped operand is a reshape of.
    origins: HashMap<Operand, Operand>,
    views: HashMap<(Operand, Vec<usize>), Operand>,
    constants: HashMap<(DType, Vec<usize>, Bytes), Operand>,
    /// The node that is lowered, for refusals.
    node: (String, &'static str),
}

/// What a call makes.
pub(crate) type Made = Result<Operand, EngineError>;

impl<'a> Draft<'a> {
    pub(crate) fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            recipe: Recipe::default(),
            origins: HashMap::new(),
            views: HashMap::new(),
            constants: HashMap::new(),
            node: (String::new(), "program"),
        }
    }

    pub(crate) fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// Which node the calls to come are for.
    pub(crate) fn begin(&mut self, name: &str, op: &'static str) {
        self.node = (name.to_owned(), op);
    }

    pub(crate) fn shape(&self, operand: Operand) -> &[usize] {
        &self.recipe.steps[operand.0].shape
    }

    pub(crate) fn dtype(&self, operand: Operand) -> DType {
        self.recipe.steps[operand.0].dtype
    }

    /// The refusal of the node at hand.
    pub(crate) fn refuse(&self, reason: String) -> EngineError {
        let (node, op) = (self.node.0.clone(), self.node.1);
        EngineError::Unsupported { api: Api::WebNn.name(), node, op, reason }
    }

    fn push(&mut self, source: Source, dtype: DType, shape: Vec<usize>) -> Operand {
        self.recipe.steps.push(Step { source, dtype, shape });
        Operand(self.recipe.steps.len() - 1)
    }

    /// An input, a weight, a state or a constant of the program.
    pub(crate) fn leaf(&mut self, source: Source, dtype: DType, shape: &[usize]) -> Made {
        let slot =
            if matches!(source, Source::Input(_) | Source::Table(_) | Source::State(_)) { "input" } else { "constant" };
        self.limits.check(slot, "", dtype, shape).map_err(|reason| self.refuse(reason))?;
        if shape.contains(&0) {
            return Err(self.refuse("has no elements, which WebNN does not know".to_owned()));
        }
        Ok(self.push(source, dtype, shape.to_vec()))
    }

    /// A constant of this backend's own, made once however often it is asked for.
    fn constant(&mut self, dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Made {
        let key = (dtype, shape, bytes);
        if let Some(&known) = self.constants.get(&key) {
            return Ok(known);
        }
        let made = self.leaf(Source::Constant(key.2.clone()), dtype, &key.1)?;
        self.constants.insert(key, made);
        Ok(made)
    }

    /// One number, of rank 0 or of as many dimensions of size 1 as make it broadcast to an operand of that rank.
    fn scalar(&mut self, dtype: DType, bytes: [u8; 4], rank: usize) -> Made {
        self.constant(dtype, vec![1; rank.min(1)], Bytes::copy_from_slice(&bytes))
    }

    /// These numbers in `i32`.
    pub(crate) fn i32s(&mut self, shape: &[usize], numbers: impl Iterator<Item = usize>) -> Made {
        let mut bytes = Vec::new();
        for number in numbers {
            let number = i32::try_from(number);
            let number = number.map_err(|_| self.refuse("has positions that do not fit 32 bits".to_owned()))?;
            bytes.extend(number.to_le_bytes());
        }
        self.constant(DType::I32, shape.to_vec(), bytes.into())
    }

    /// These truth values in `u8`, as comparisons give them.
    pub(crate) fn truths(&mut self, shape: &[usize], truths: impl Iterator<Item = bool>) -> Made {
        self.constant(DType::U8, shape.to_vec(), truths.map(u8::from).collect())
    }

    /// A number in `f32` that broadcasts to this operand.
    pub(crate) fn f32(&mut self, value: f32, beside: Operand) -> Made {
        let rank = self.shape(beside).len();
        self.scalar(DType::F32, value.to_le_bytes(), rank)
    }

    /// A number in `i32` that broadcasts to this operand.
    pub(crate) fn i32(&mut self, value: i32, beside: Operand) -> Made {
        let rank = self.shape(beside).len();
        self.scalar(DType::I32, value.to_le_bytes(), rank)
    }

    /// A call whose operands come first, then `rest`; the result is of this data type and shape.
    pub(crate) fn call(
        &mut self,
        method: &'static str,
        operands: &[Operand],
        rest: Vec<Argument>,
        options: Vec<(&'static str, Argument)>,
        (dtype, shape): (DType, Vec<usize>),
    ) -> Made {
        let named = options.iter().filter_map(|(name, argument)| match argument {
            Argument::Operand(operand) => Some((*name, *operand)),
            _ => None,
        });
        // `gemm` takes its third operand as an option, which its limits list beside the others.
        for (name, operand) in operand_names(method).iter().copied().zip(operands.iter().copied()).chain(named) {
            self.admit(method, name, operand)?;
        }
        self.make(
            method,
            operands.iter().copied().map(Argument::Operand).chain(rest).collect(),
            options,
            (dtype, shape),
        )
    }

    /// Whether this browser takes this operand there.
    fn admit(&self, method: &'static str, name: &str, operand: Operand) -> Result<(), EngineError> {
        let checked = self.limits.check(method, name, self.dtype(operand), self.shape(operand));
        checked.map_err(|reason| self.refuse(reason))
    }

    /// A call whose operands were admitted.
    fn make(
        &mut self,
        method: &'static str,
        arguments: Vec<Argument>,
        options: Vec<(&'static str, Argument)>,
        (dtype, shape): (DType, Vec<usize>),
    ) -> Made {
        let output = if self.limits.has(method) { self.limits.check(method, "output", dtype, &shape) } else { Ok(()) };
        output.map_err(|reason| self.refuse(reason))?;
        Ok(self.push(Source::Call { method, arguments, options }, dtype, shape))
    }

    /// A method of one operand that keeps its data type and shape.
    pub(crate) fn unary(&mut self, method: &'static str, x: Operand) -> Made {
        let like = (self.dtype(x), self.shape(x).to_vec());
        self.call(method, &[x], Vec::new(), Vec::new(), like)
    }

    /// A method of two operands that broadcast, where the first has the result's shape.
    pub(crate) fn onto(&mut self, method: &'static str, x: Operand, other: Operand) -> Made {
        let like = (self.dtype(x), self.shape(x).to_vec());
        self.call(method, &[x, other], Vec::new(), Vec::new(), like)
    }

    /// Operands that differ in this dimension only, one after another.
    pub(crate) fn concat(&mut self, operands: &[Operand], axis: usize) -> Made {
        if let &[one] = operands {
            return Ok(one);
        }
        let Some(&first) = operands.first() else {
            return Err(self.refuse("has no operands".to_owned()));
        };
        for &operand in operands {
            self.admit("concat", "inputs", operand)?;
        }
        let (dtype, mut shape) = (self.dtype(first), self.shape(first).to_vec());
        shape[axis] = operands.iter().map(|&operand| self.shape(operand)[axis]).sum();
        let arguments = vec![Argument::Operands(operands.to_vec()), Argument::Number(axis as f64)];
        self.make("concat", arguments, Vec::new(), (dtype, shape))
    }

    /// `length` elements of one dimension from `start` on.
    pub(crate) fn slice(&mut self, x: Operand, axis: usize, start: usize, length: usize) -> Made {
        let mut sizes = self.shape(x).to_vec();
        if sizes[axis] == length {
            return Ok(x);
        }
        let mut starts = vec![0; sizes.len()];
        (starts[axis], sizes[axis]) = (start, length);
        let like = (self.dtype(x), sizes.clone());
        self.call("slice", &[x], vec![Argument::Dims(starts), Argument::Dims(sizes)], Vec::new(), like)
    }

    /// Converts to this data type.
    pub(crate) fn cast(&mut self, x: Operand, to: DType) -> Made {
        let name = data_type(to).ok_or_else(|| self.refuse(format!("needs {to}, which WebNN does not know")))?;
        let shape = self.shape(x).to_vec();
        self.call("cast", &[x], vec![Argument::Text(name)], Vec::new(), (to, shape))
    }

    /// The same elements in this shape.
    pub(crate) fn view(&mut self, x: Operand, shape: &[usize]) -> Made {
        let origin = self.origins.get(&x).copied().unwrap_or(x);
        for known in [x, origin] {
            if self.shape(known) == shape {
                return Ok(known);
            }
        }
        let key = (origin, shape.to_vec());
        if let Some(&known) = self.views.get(&key) {
            return Ok(known);
        }
        let like = (self.dtype(origin), shape.to_vec());
        let made = self.call("reshape", &[origin], vec![Argument::Dims(shape.to_vec())], Vec::new(), like)?;
        self.origins.insert(made, origin);
        self.views.insert(key, made);
        Ok(made)
    }

    /// The dimensions in another order. Where only dimensions of size 1 move, that is a view.
    pub(crate) fn transpose(&mut self, x: Operand, permutation: &[usize]) -> Made {
        let shape: Vec<_> = permutation.iter().map(|&p| self.shape(x)[p]).collect();
        let moved = permutation.iter().copied().filter(|&p| self.shape(x)[p] != 1);
        if moved.is_sorted() {
            return self.view(x, &shape);
        }
        let options = vec![("permutation", Argument::Dims(permutation.to_vec()))];
        self.call("transpose", &[x], Vec::new(), options, (self.dtype(x), shape))
    }

    /// The recipe. An output that is a leaf, or that another output is already, is copied: a graph's outputs are distinct
    /// results of operators. `nexts` are what states become, with their positions.
    pub(crate) fn finish(mut self, outputs: &[Operand], nexts: &[(usize, Operand)]) -> Result<Recipe, EngineError> {
        let mut taken = HashSet::new();
        for &output in outputs {
            let output = self.result(output, &mut taken)?;
            self.recipe.outputs.push(output);
        }
        for &(position, next) in nexts {
            let next = self.result(next, &mut taken)?;
            self.recipe.nexts.push((position, next));
        }
        Ok(self.recipe)
    }

    fn result(&mut self, operand: Operand, taken: &mut HashSet<Operand>) -> Made {
        let leaf = !matches!(self.recipe.steps[operand.0].source, Source::Call { .. });
        let operand = if leaf || taken.contains(&operand) { self.unary("identity", operand)? } else { operand };
        let checked = self.limits.check("output", "", self.dtype(operand), self.shape(operand));
        checked.map_err(|reason| self.refuse(reason))?;
        taken.insert(operand);
        Ok(operand)
    }
}
