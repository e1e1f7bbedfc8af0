//! How pictures become sequences: patches of equal size, each a vector, with learned positions that are resampled where a
//! picture is of another size than the ones the model was trained on.

use tabpool_graph::{Op, ValueId};

use super::{Build, Built, resampled};
use crate::ModelError;
use crate::fields::Fields;

/// The most patches on a side.
const MOST_PATCHES: usize = 1024;

/// The sizes of pictures and patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patches {
    pub(crate) channels: usize,
    /// Height and width of the pictures that programs take.
    pub(crate) picture: [usize; 2],
    /// Height and width of the pictures that positions were learned for.
    pub(crate) trained: [usize; 2],
    /// Height and width of a patch.
    pub(crate) patch: [usize; 2],
}

impl Patches {
    /// Reads `image_size`, `patch_size` and `num_channels`.
    pub(crate) fn read(config: &Fields, picture: usize, patch: usize) -> Result<Self, ModelError> {
        let trained = config.pair_or("image_size", 1..=1 << 14, picture)?;
        let patches = Self {
            channels: config.size_or("num_channels", 1..=64, 3)?,
            picture: trained,
            trained,
            patch: config.pair_or("patch_size", 1..=1 << 14, patch)?,
        };
        patches.check().map_err(|reason| config.refuse("image_size", &reason))?;
        Ok(patches)
    }

    /// The same for pictures of another size.
    pub(crate) fn resized(self, picture: [usize; 2]) -> Result<Self, ModelError> {
        let resized = Self { picture, ..self };
        resized.check().map_err(|reason| ModelError::Picture { got: picture, reason })?;
        Ok(resized)
    }

    fn check(&self) -> Result<(), String> {
        // A side of patches is also one of the matrices that resample positions.
        if self.grid().into_iter().chain(self.trained_grid()).all(|side| (1..=MOST_PATCHES).contains(&side)) {
            return Ok(());
        }
        Err(format!("of which patches of {:?} make no 1 to {MOST_PATCHES} on each side", self.patch))
    }

    /// Patches down and across.
    pub(crate) fn grid(&self) -> [usize; 2] {
        [self.picture[0] / self.patch[0], self.picture[1] / self.patch[1]]
    }

    /// How many patches there are.
    pub(crate) fn tokens(&self) -> usize {
        self.grid()[0] * self.grid()[1]
    }

    fn trained_grid(&self) -> [usize; 2] {
        [self.trained[0] / self.patch[0], self.trained[1] / self.patch[1]]
    }

    /// How many patches positions were learned for.
    pub(crate) fn trained_tokens(&self) -> usize {
        self.trained_grid()[0] * self.trained_grid()[1]
    }

    /// The patches of `pixels` as vectors: `[batch, tokens, hidden]`.
    pub(crate) fn embed(&self, b: &mut Build<'_>, name: &str, pixels: ValueId, hidden: usize, bias: bool) -> Built {
        let [height, width] = self.patch;
        let mut operands = vec![pixels, b.weight(&format!("{name}.weight"), &[hidden, self.channels, height, width])?];
        if bias {
            operands.push(b.weight(&format!("{name}.bias"), &[hidden])?);
        }
        let op = Op::Conv2d { stride: self.patch, padding: [0; 4], dilation: [1; 2], groups: 1, activation: None };
        let x = b.node(name, op, &operands)?;
        let x = b.reshape(name, x, &[b.batch, hidden, self.tokens()])?;
        b.transpose(name, x, &[0, 2, 1])
    }

    /// The positions of all patches, `[1, tokens, hidden]`, out of a table `[trained tokens, hidden]`.
    pub(crate) fn positions(&self, b: &mut Build<'_>, name: &str, table: ValueId) -> Built {
        let hidden = b.width(table);
        let [from, to] = [self.trained_grid(), self.grid()];
        let table = b.reshape(name, table, &[from[0], from[1], hidden])?;
        let table = if from == to { table } else { resampled(b, name, table, to)? };
        b.reshape(name, table, &[1, self.tokens(), hidden])
    }
}
