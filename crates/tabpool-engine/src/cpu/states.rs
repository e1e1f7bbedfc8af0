//! Sets of states in the processor's memory.
//!
//! States of equal kinds lie alike, whoever asked for the set, so a program's steps name them by their distance from where a
//! set begins and are moved from one set to another by a number (`Step::move_states`).

use std::cell::Cell;
use std::rc::Rc;

use super::processor::{Processor, Region};
use super::{LINE, too_large};
use crate::backend::EngineError;
use crate::state::{StateSet, StateSpec};

/// Where states of these kinds lie in any set, in bytes from its beginning; last, how many words a set has.
///
/// # Errors
/// [`EngineError::OutOfMemory`] where that cannot be counted.
pub(super) fn lay_out(specs: &[StateSpec]) -> Result<(Vec<usize>, usize), EngineError> {
    let mut words = 0usize;
    let mut place = |spec: &StateSpec| {
        let at = words;
        let len = spec.shape.checked_elements().and_then(|len| len.checked_next_multiple_of(LINE));
        words = len.and_then(|len| words.checked_add(len)).ok_or_else(|| too_large("making room for states"))?;
        at.checked_mul(4).ok_or_else(|| too_large("making room for states"))
    };
    let places = specs.iter().map(&mut place).collect::<Result<_, _>>()?;
    Ok((places, words))
}

/// A set of states.
pub(super) struct CpuStates {
    specs: Vec<StateSpec>,
    /// The memory, and with it the processor it is of.
    region: Region,
    /// Which set this is: addresses are used again, numbers are not.
    number: u64,
}

impl CpuStates {
    /// A set of zeros.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`].
    pub(super) fn new(processor: &Rc<dyn Processor>, specs: &[StateSpec]) -> Result<Self, EngineError> {
        thread_local! {
            static SETS: Cell<u64> = const { Cell::new(0) };
        }
        let (_, words) = lay_out(specs)?;
        let region = Region::words(processor, words, "making room for states")?;
        let number = SETS.get() + 1;
        SETS.set(number);
        Ok(Self { specs: specs.to_vec(), region, number })
    }

    /// Where it is, and which set this is.
    ///
    /// # Errors
    /// [`EngineError::State`] where it lies in another processor's memory.
    pub(super) fn place(&self, processor: &Rc<dyn Processor>) -> Result<(usize, u64), EngineError> {
        if !self.region.is_of(processor) {
            return Err(EngineError::State { reason: "are in the memory of another backend".to_owned() });
        }
        Ok((self.region.address(), self.number))
    }
}

impl StateSet for CpuStates {
    fn specs(&self) -> &[StateSpec] {
        &self.specs
    }

    fn bytes(&self) -> u64 {
        self.region.bytes()
    }
}
