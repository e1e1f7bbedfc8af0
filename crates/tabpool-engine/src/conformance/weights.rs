//! Weights served from memory, cut into blocks at places no kernel would like.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use bytes::Bytes;
use tabpool_graph::{BlockRef, Graph, Program, ProgramError};
use tabpool_tensor::Tensor;

use super::random::{Random, fnv1a};
use crate::backend::{WeightError, WeightSource};

/// A source of blocks that lie in memory. Their CIDs are made up, but content-addressed: equal bytes, equal names.
#[derive(Debug, Default)]
pub struct MemoryWeights {
    blocks: HashMap<Box<[u8]>, Bytes>,
    asked: Cell<usize>,
}

impl MemoryWeights {
    /// A source without blocks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds every weight of a graph to blocks of the tensor of its name, cut between elements at odd places.
    ///
    /// # Errors
    /// [`ProgramError`] where a weight has no tensor, or its tensor is not stored as the graph says.
    pub fn bind(&mut self, mut graph: Graph, tensors: &BTreeMap<String, Tensor>) -> Result<Program, ProgramError> {
        for (value, blocks) in graph.weights_mut() {
            let Some(tensor) = tensors.get(&value.name) else { continue };
            *blocks = self.cut(tensor);
        }
        Program::new(graph)
    }

    /// How many blocks were asked for so far.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.get()
    }

    /// Shortens every block by its last byte, to see what a backend does with a source that breaks its promise.
    pub(super) fn truncate_all(&mut self) {
        for block in self.blocks.values_mut() {
            block.truncate(block.len() - 1);
        }
    }

    /// Forgets every block.
    pub(super) fn forget_all(&mut self) {
        self.blocks.clear();
    }

    /// The blocks of a tensor: up to six pieces, none a multiple of anything, the same for equal tensors.
    fn cut(&mut self, tensor: &Tensor) -> Vec<BlockRef> {
        let (size, mut rest) = (tensor.dtype().size(), tensor.data().clone());
        let mut random = Random::named(&rest.len().to_string());
        let mut blocks = Vec::new();
        while !rest.is_empty() {
            let elements = rest.len() / size;
            let take = if blocks.len() < 5 { 1 + random.below(elements) } else { elements };
            let block = rest.split_to(take * size);
            let cid: Box<[u8]> = [&fnv1a(&block).to_le_bytes()[..], &block.len().to_le_bytes()[..]].concat().into();
            blocks.push(BlockRef { cid: cid.clone(), len: u32::try_from(block.len()).unwrap_or(u32::MAX) });
            self.blocks.insert(cid, block);
        }
        blocks
    }
}

#[async_trait(?Send)]
impl WeightSource for MemoryWeights {
    async fn block(&self, block: &BlockRef) -> Result<Bytes, WeightError> {
        self.asked.set(self.asked.get() + 1);
        self.blocks.get(&block.cid).cloned().ok_or_else(|| WeightError {
            cid: block.cid.iter().map(|b| format!("{b:02x}")).collect(),
            reason: "is not in memory".to_owned(),
        })
    }
}
