//! Programs: graphs bound to content, in a versioned encoding that workers run.

mod encoding;

use tabpool_tensor::Precision;

use crate::{Graph, GraphError};

/// The version this crate writes. It reads this one only: host and runtime ship together, and the host sends the runtime.
pub const PROGRAM_VERSION: u8 = 3;

/// How large a program may be before decoding gives up.
#[derive(Clone, Copy, Debug)]
pub struct ProgramLimits {
    /// Bytes of the encoding.
    pub bytes: usize,
    /// Values of the graph.
    pub values: usize,
    /// Nodes of the graph.
    pub nodes: usize,
    /// States of the graph.
    pub states: usize,
    /// Bytes that one set of its states takes.
    pub state_bytes: usize,
}

impl Default for ProgramLimits {
    fn default() -> Self {
        Self { bytes: 16 << 20, values: 200_000, nodes: 100_000, states: 1024, state_bytes: 2 << 30 }
    }
}

/// Why a program could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The encoding was written by another version.
    #[error("the program is of version {got}, this side reads version {PROGRAM_VERSION}")]
    Version {
        /// The version found.
        got: u8,
    },
    /// The bytes are not a program.
    #[error("not a program: {0}")]
    Malformed(String),
    /// The program is larger than the limits allow.
    #[error("the program has {got} {what}, at most {limit} are allowed")]
    TooLarge {
        /// Bytes, values, nodes or states.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A weight names no blocks.
    #[error("the weight {name:?} is not bound to blocks")]
    Unbound {
        /// The weight's name.
        name: String,
    },
    /// The graph inside is not valid.
    #[error("the program's graph is not valid: {0}")]
    Graph(#[from] GraphError),
}

/// A valid graph whose weights are bound to blocks: what a worker loads and runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    graph: Graph,
    precision: Precision,
}

impl Program {
    /// A program of this graph, its linear layers in 32 bits.
    ///
    /// # Errors
    /// [`ProgramError::Unbound`] for a weight without blocks, [`ProgramError::Graph`] for an invalid graph.
    pub fn new(graph: Graph) -> Result<Self, ProgramError> {
        graph.validate()?;
        if let Some(w) = graph.weights().iter().find(|w| w.blocks.is_empty()) {
            return Err(ProgramError::Unbound { name: graph.value(w.value).name.clone() });
        }
        Ok(Self { graph, precision: Precision::F32 })
    }

    /// The same program with permission to compute linear layers at this precision and every more exact one.
    #[must_use]
    pub fn permitting(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The least exact arithmetic that its linear layers may be computed with.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The graph.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The bytes its weights take as stored, counting a block that two weights share once for each.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.graph.weights().iter().flat_map(|w| &w.blocks).map(|b| u64::from(b.len)).sum()
    }

    /// The encoding: one byte of version, one of precision, then the body. Equal programs give equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encoding::encode(&self.graph, self.precision)
    }

    /// Reads an encoding and validates what it holds.
    ///
    /// # Errors
    /// [`ProgramError`]; bytes from outside never panic.
    pub fn decode(bytes: &[u8], limits: &ProgramLimits) -> Result<Self, ProgramError> {
        let (graph, precision) = encoding::decode(bytes, limits)?;
        Ok(Self::new(graph)?.permitting(precision))
    }
}

#[cfg(test)]
mod tests;
