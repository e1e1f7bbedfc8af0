//! What can be wrong with a model's folder, and what with a request to a model.

use tabpool_content::DirectoryError;
use tabpool_graph::{GraphError, ProgramError};
use tabpool_tensor::{DType, TensorError};

use crate::Bucket;

/// Why a folder is not a model that can be run, or a program of it cannot be made. Files are named by their path inside
/// the folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The folder's tree could not be read.
    #[error(transparent)]
    Folder(#[from] DirectoryError),
    /// A file that every model needs is not there.
    #[error("the model's folder holds no {file} (it holds {holds})")]
    MissingFile {
        /// What was looked for.
        file: String,
        /// The first few files there are.
        holds: String,
    },
    /// A file is not the JSON it should be.
    #[error("{file} is not readable: {reason}")]
    Json {
        /// The file.
        file: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// The architecture is none of those supported.
    #[error("{file}: the architecture {got:?} is not supported; supported are {supported}")]
    Architecture {
        /// The file that names it.
        file: String,
        /// What it names.
        got: String,
        /// The supported values of `model_type`.
        supported: String,
    },
    /// An option has a value that is wrong or not supported.
    #[error("{file}: {key} is {value}, {reason}")]
    Option {
        /// The file.
        file: String,
        /// The option.
        key: String,
        /// Its value as JSON.
        value: String,
        /// What is allowed, as a clause.
        reason: String,
    },
    /// An option without a default is absent.
    #[error("{file}: {key} is missing")]
    MissingOption {
        /// The file.
        file: String,
        /// The option.
        key: String,
    },
    /// A safetensors file contradicts itself or is cut off.
    #[error("{file} is not a valid safetensors file: {reason}")]
    Safetensors {
        /// The file.
        file: String,
        /// What is wrong with it, with the tensor's name where one is at fault.
        reason: String,
    },
    /// A tensor that the architecture needs is in no file.
    #[error("tensor {tensor:?} is missing from {file}")]
    MissingTensor {
        /// The file, or the index where the weights are in several.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("{file}: tensor {tensor:?}: expected {expected:?}, got {got:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
        /// The shape that the file states.
        got: Vec<u64>,
    },
    /// A tensor is stored in a dtype that weights are not read from.
    #[error("{file}: tensor {tensor:?} is stored in {got}; F32, F16 and BF16 are supported")]
    DType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The dtype as the file writes it.
        got: String,
    },
    /// A tensor does not begin and end with a block, so no list of blocks can name it.
    #[error("{file}: tensor {tensor:?} does not begin and end with a block")]
    Blocks {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// An output was asked for that the model does not have, or none at all.
    #[error("the model has no output {got:?}; it has {available}")]
    Output {
        /// What was asked for; empty where nothing was.
        got: String,
        /// The outputs there are.
        available: String,
    },
    /// An entry point was asked for that the model does not have.
    #[error("the model has no entry point {got:?}; it has {available}")]
    Entry {
        /// What was asked for.
        got: String,
        /// The entry points there are.
        available: String,
    },
    /// Pictures of a size that the model cannot take.
    #[error("pictures of {got:?} were asked for, {reason}")]
    Picture {
        /// Height and width.
        got: [usize; 2],
        /// What they may be, as a clause.
        reason: String,
    },
    /// A program that generates was asked for in a shape that the model cannot take.
    #[error("no program can be made to generate: {reason}")]
    Plan {
        /// What is wrong.
        reason: String,
    },
    /// A program was asked for in a shape that the model cannot take.
    #[error("no program can be made for {bucket}: {reason}")]
    Bucket {
        /// The shape asked for.
        bucket: Bucket,
        /// What it may be.
        reason: String,
    },
    /// The graph built from the folder is not valid.
    #[error("the model's graph is not valid: {0}")]
    Graph(#[from] GraphError),
    /// The program built from the folder is not valid.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

impl ModelError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MissingFile { file, holds } if file.ends_with(".safetensors") && holds.contains(".bin") => {
                Some("convert the weights to safetensors first: files of other formats are not read".to_owned())
            }
            Self::MissingFile { .. } => Some("check that this is the folder of a Hugging Face model".to_owned()),
            Self::Blocks { .. } => {
                Some("import the folder again with tabpool, which cuts weight files at their tensors".to_owned())
            }
            Self::Safetensors { .. } => Some("download or export the file again; this copy is damaged".to_owned()),
            _ => None,
        }
    }
}

/// Why a request does not fit a model, or what a worker gave back does not fit the request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The model has no input of this name.
    #[error("the model has no input {name:?}; it takes {available}")]
    UnknownInput {
        /// The name given.
        name: String,
        /// The inputs there are.
        available: String,
    },
    /// An input that has no default is absent.
    #[error("input {name:?} is missing; the model takes {available}")]
    MissingInput {
        /// The input.
        name: String,
        /// The inputs there are.
        available: String,
    },
    /// An input is given twice.
    #[error("input {name:?} is given twice")]
    DuplicateInput {
        /// The input.
        name: String,
    },
    /// An input has a dtype that it is not accepted in.
    #[error("input {name:?}: {got} given, {accepted} wanted")]
    DType {
        /// The input.
        name: String,
        /// The dtype given.
        got: DType,
        /// The dtypes accepted, as text.
        accepted: String,
    },
    /// An input has another shape than the signature or the other inputs ask for.
    #[error("input {name:?}: shape {got:?}, {reason}")]
    Shape {
        /// The input.
        name: String,
        /// The shape given.
        got: Vec<usize>,
        /// What is wanted, as a clause.
        reason: String,
    },
    /// A value lies outside of what the input may hold.
    #[error("input {name:?}: {value} at {position:?} is outside of {start}..{end}")]
    Value {
        /// The input.
        name: String,
        /// The first such value.
        value: i64,
        /// Its row and column.
        position: Vec<usize>,
        /// The least value allowed.
        start: i32,
        /// One more than the largest value allowed.
        end: i32,
    },
    /// The sequences are longer than the model's positions allow.
    #[error("a sequence of {got} tokens is too long: the model takes at most {limit}")]
    TooLong {
        /// Tokens a sequence, padding included.
        got: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The sequences are shorter than one frame.
    #[error("a sequence of {got} is too short: the model takes at least {least}")]
    TooShort {
        /// Samples a sequence.
        got: usize,
        /// How few there may be.
        least: usize,
    },
    /// There are more sequences than one run takes.
    #[error("{got} sequences are too many for one run: at most {limit} of {sequence} tokens go together")]
    TooMany {
        /// Sequences in the request.
        got: usize,
        /// Tokens of each in the bucket they need.
        sequence: usize,
        /// How many there may be.
        limit: usize,
    },
    /// There is nothing to run.
    #[error("the request is empty: {batch} sequences of {sequence} tokens")]
    Empty {
        /// Sequences in the request.
        batch: usize,
        /// Tokens a sequence.
        sequence: usize,
    },
    /// The model has no output of this name, or none was asked for.
    #[error("the model has no output {name:?}; it has {available}")]
    UnknownOutput {
        /// The name asked for; empty where nothing was.
        name: String,
        /// The outputs there are.
        available: String,
    },
    /// A run gave back another number of outputs than the program has.
    #[error("the run gave {got} outputs, the program has {want}")]
    OutputCount {
        /// How many came back.
        got: usize,
        /// How many the program has.
        want: usize,
    },
    /// A run gave back an output in another shape than the program's.
    #[error("output {name:?}: the run gave {got:?}, the program says {want:?}")]
    OutputShape {
        /// The output.
        name: String,
        /// The shape that came back.
        got: Vec<usize>,
        /// The shape of the program.
        want: Vec<usize>,
    },
    /// A tensor contradicts itself.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
