//! Buckets: the few shapes that programs are built for. Requests are padded to the next one.
//!
//! The ladders trade padding against the number of programs a worker holds: a step is a third to a half larger than the
//! one before, so less than half of a run is padding, and at most a third from 32 tokens on.

use std::fmt;

use crate::RequestError;

/// How many sequences a run takes.
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// How many tokens a sequence of a run has, where a model's positions allow them.
const SEQUENCES: [usize; 20] = [
    16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384,
];

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

/// The batches there are buckets for.
pub(crate) fn batches() -> &'static [usize] {
    &BATCHES
}

/// The largest batch there is a bucket for.
pub(crate) fn largest_batch() -> usize {
    BATCHES[BATCHES.len() - 1]
}

/// The sequences there are buckets for in a model that takes `longest` tokens: the ladder's steps below it, then itself.
pub(crate) fn sequences(longest: usize) -> Vec<usize> {
    let mut steps: Vec<usize> = SEQUENCES.into_iter().filter(|&s| s < longest).collect();
    steps.push(longest);
    steps
}

/// The smallest bucket that holds a request.
pub(crate) fn smallest(batch: usize, sequence: usize, longest: usize) -> Result<Bucket, RequestError> {
    if batch == 0 || sequence == 0 {
        return Err(RequestError::Empty { batch, sequence });
    }
    let too_many = RequestError::TooMany { got: batch, limit: largest_batch() };
    let rows = BATCHES.into_iter().find(|&b| b >= batch).ok_or(too_many)?;
    let too_long = RequestError::TooLong { got: sequence, limit: longest };
    let columns = sequences(longest).into_iter().find(|&s| s >= sequence).ok_or(too_long)?;
    Ok(Bucket { batch: rows, sequence: columns })
}

#[cfg(test)]
mod tests {
    use super::{Bucket, sequences, smallest};
    use crate::RequestError;

    #[test]
    fn the_ladder_ends_with_the_models_own_length() {
        assert_eq!(sequences(37), [16, 32, 37]);
        assert_eq!(sequences(64), [16, 32, 48, 64]);
        assert_eq!(sequences(5), [5]);
    }

    #[test]
    fn a_request_gets_the_smallest_bucket_that_holds_it() {
        assert_eq!(smallest(3, 17, 37), Ok(Bucket { batch: 4, sequence: 32 }));
        assert_eq!(smallest(1, 37, 37), Ok(Bucket { batch: 1, sequence: 37 }));
        assert_eq!(smallest(1, 38, 37), Err(RequestError::TooLong { got: 38, limit: 37 }));
        assert_eq!(smallest(33, 1, 37), Err(RequestError::TooMany { got: 33, limit: 32 }));
        assert_eq!(smallest(0, 4, 37), Err(RequestError::Empty { batch: 0, sequence: 4 }));
    }
}
