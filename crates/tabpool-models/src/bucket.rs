//! Buckets: the few shapes that programs are built for. Requests are padded to the next one.
//!
//! The ladders trade padding against the number of programs a worker holds: a step is a third to a half larger than the
//! one before, so at most a third of a run is padding from 16 tokens on. Questions and names are shorter than that, and take
//! half the time in the steps below.

use std::fmt;

use crate::RequestError;

/// How many sequences a run takes.
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// How many tokens a sequence of a run has, where a model's positions allow them.
const SEQUENCES: [usize; 22] =
    [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384];
/// The most tokens in a run of more than one sequence: longer runs only make others wait.
const MAX_TOKENS: usize = 16384;

/// The static shape of a program: how many sequences of how many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// Sequences.
    pub batch: usize,
    /// Tokens a sequence.
    pub sequence: usize,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.batch, self.sequence)
    }
}

/// The lengths of sounds in samples at 16 kHz, from half a second to a minute.
const SAMPLES: [usize; 15] = [
    8_000, 16_000, 24_000, 32_000, 48_000, 64_000, 96_000, 128_000, 192_000, 256_000, 384_000, 480_000, 640_000,
    800_000, 960_000,
];

/// The buckets of an entry point: which shapes its positions allow, and the IR's 32-bit element counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ladder {
    /// The lengths of sequences to choose from, ascending.
    lengths: Vec<usize>,
    /// How many elements of a sequence are one position of the widest values.
    unit: usize,
    /// Positions there are besides, whatever the sequence is: those of a picture.
    beside: usize,
    /// Whether no other lengths are possible.
    fixed: bool,
    pub(crate) heads: usize,
    /// The widest vector of a position in any layer.
    pub(crate) width: usize,
}

impl Ladder {
    /// For tokens, of which positions allow so many: the ladder's steps below that, then that itself.
    pub(crate) fn tokens(positions: usize, heads: usize, width: usize) -> Self {
        let steps = SEQUENCES.into_iter().filter(|&s| s < positions);
        Self { lengths: steps.chain([positions]).collect(), unit: 1, beside: 0, fixed: false, heads, width }
    }

    /// For what has one length only; `positions` is what it comes to inside.
    pub(crate) fn fixed(length: usize, positions: usize, heads: usize, width: usize) -> Self {
        Self { lengths: vec![length], unit: length.max(1), beside: positions, fixed: true, heads, width }
    }

    /// For samples, `unit` of which become one position.
    pub(crate) fn samples(unit: usize, heads: usize, width: usize) -> Self {
        Self { lengths: SAMPLES.to_vec(), unit: unit.max(1), beside: 0, fixed: false, heads, width }
    }

    /// The same with positions besides those of the sequence.
    pub(crate) fn beside(self, positions: usize) -> Self {
        Self { beside: positions.max(self.beside), ..self }
    }

    fn positions(&self, sequence: usize) -> usize {
        sequence.div_ceil(self.unit).max(self.beside)
    }

    /// Whether every value of the graph has a number of elements that fits 32 bits; the largest are attention's scores
    /// and a layer's inner vectors.
    fn fits(&self, batch: usize, sequence: usize) -> bool {
        let positions = self.positions(sequence);
        let fits = |dims: [usize; 4]| {
            let elements = dims.into_iter().try_fold(1usize, usize::checked_mul);
            elements.is_some_and(|n| u32::try_from(n).is_ok())
        };
        fits([batch, self.heads, positions, positions]) && fits([batch, positions, self.width, 1])
    }

    /// The lengths of sequences there are buckets for.
    pub(crate) fn sequences(&self) -> Vec<usize> {
        self.lengths.iter().copied().filter(|&s| self.fits(1, s)).collect()
    }

    /// Whether a program can be built for this length at all, be it in the ladder or not.
    pub(crate) fn takes(&self, sequence: usize) -> bool {
        if self.fixed { self.lengths.contains(&sequence) } else { (1..=self.longest()).contains(&sequence) }
    }

    /// The longest sequence there is a bucket for; 0 where not even the shortest fits.
    pub(crate) fn longest(&self) -> usize {
        self.sequences().last().copied().unwrap_or(0)
    }

    /// The numbers of sequences that go with this length, ascending: all but those that compute too much at once.
    pub(crate) fn batches(&self, sequence: usize) -> impl Iterator<Item = usize> {
        let allowed = move |&b: &usize| {
            b == 1 || b.saturating_mul(self.positions(sequence)) <= MAX_TOKENS && self.fits(b, sequence)
        };
        BATCHES.into_iter().filter(allowed)
    }

    /// The smallest bucket that holds a request.
    pub(crate) fn smallest(&self, batch: usize, sequence: usize) -> Result<Bucket, RequestError> {
        if batch == 0 || sequence == 0 {
            return Err(RequestError::Empty { batch, sequence });
        }
        let too_long = RequestError::TooLong { got: sequence, limit: self.longest() };
        let columns = self.sequences().into_iter().find(|&s| s >= sequence).ok_or(too_long)?;
        let limit = self.batches(columns).last().unwrap_or(1);
        let rows = self.batches(columns).find(|&b| b >= batch);
        let rows = rows.ok_or(RequestError::TooMany { got: batch, sequence: columns, limit })?;
        Ok(Bucket { batch: rows, sequence: columns })
    }
}

#[cfg(test)]
mod tests {
    use super::{Bucket, Ladder};
    use crate::RequestError;

    fn ladder(positions: usize) -> Ladder {
        Ladder::tokens(positions, 12, 3072)
    }

    #[test]
    fn the_ladder_ends_with_the_models_own_length() {
        assert_eq!(ladder(37).sequences(), [8, 16, 24, 32, 37]);
        assert_eq!(ladder(64).sequences(), [8, 16, 24, 32, 48, 64]);
        assert_eq!(ladder(5).sequences(), [5]);
    }

    #[test]
    fn a_request_gets_the_smallest_bucket_that_holds_it() {
        let smallest = |batch, sequence| ladder(37).smallest(batch, sequence);
        assert_eq!(smallest(3, 17), Ok(Bucket { batch: 4, sequence: 24 }));
        assert_eq!(smallest(1, 37), Ok(Bucket { batch: 1, sequence: 37 }));
        assert_eq!(smallest(1, 38), Err(RequestError::TooLong { got: 38, limit: 37 }));
        assert_eq!(smallest(33, 1), Err(RequestError::TooMany { got: 33, sequence: 8, limit: 32 }));
        assert_eq!(smallest(0, 4), Err(RequestError::Empty { batch: 0, sequence: 4 }));
    }

    #[test]
    fn pictures_and_sounds_count_as_the_positions_they_become() {
        let picture = Ladder::fixed(1, 1025, 16, 4096);
        assert_eq!(picture.sequences(), [1]);
        assert_eq!(picture.batches(1).last(), Some(8), "sixteen pictures would be more than 16384 positions");
        let sound = Ladder::samples(320, 12, 32768);
        assert_eq!(sound.smallest(3, 20_000), Ok(Bucket { batch: 4, sequence: 24_000 }));
        assert_eq!(sound.smallest(1, 960_001), Err(RequestError::TooLong { got: 960_001, limit: 960_000 }));
    }

    #[test]
    fn long_sequences_go_in_smaller_batches() {
        let most = |sequence: usize| ladder(8192).batches(sequence).last();
        assert_eq!([512, 768, 1024, 8192].map(most), [Some(32), Some(16), Some(16), Some(2)]);
        let wide = Ladder::tokens(1 << 20, 16, 4096);
        assert_eq!(wide.longest(), 12288, "16 heads of 16384 x 16384 scores are 2^32 elements");
        assert_eq!(Ladder::tokens(16, 1, usize::MAX).longest(), 0);
    }
}
