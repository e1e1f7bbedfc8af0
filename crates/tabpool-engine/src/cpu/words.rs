//! Memory of 32-bit words that begins at a cache line, so that no vector load of a packed panel straddles two.

use crate::backend::EngineError;

#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Words that hold `f32` or `i32` values.
#[derive(Debug, Default)]
pub(crate) struct Words {
    lines: Vec<Line>,
    len: usize,
}

impl Words {
    /// Zeros.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] where there is no room, saying what needed it.
    pub(crate) fn zeroed(len: usize, doing: &str) -> Result<Self, EngineError> {
        let mut lines = Vec::new();
        lines
            .try_reserve_exact(len.div_ceil(16))
            .map_err(|e| EngineError::OutOfMemory { doing: doing.to_owned(), reason: format!("{len} words: {e}") })?;
        lines.resize(len.div_ceil(16), Line([0; 16]));
        Ok(Self { lines, len })
    }

    /// A copy of little-endian bytes, however they are aligned.
    pub(crate) fn of_bytes(bytes: &[u8], doing: &str) -> Result<Self, EngineError> {
        let mut words = Self::zeroed(bytes.len() / 4, doing)?;
        words.fill(bytes);
        Ok(words)
    }

    /// Copies little-endian bytes, however they are aligned, over the first words.
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        let own = &mut bytemuck::cast_slice_mut::<Line, u8>(&mut self.lines)[..bytes.len()];
        own.copy_from_slice(bytes);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.lines.len() as u64 * 64
    }

    pub(crate) fn words(&self) -> &[u32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }

    pub(crate) fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(self.words())
    }

    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.words_mut())
    }
}
