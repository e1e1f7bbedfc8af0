//! Strides of operands over a result's dimensions, with neighbours that lie contiguously joined into one, so that
//! kernels loop over as few dimensions as possible.

/// A result's dimensions, and for each operand how far apart its elements lie along them (0 repeats an element).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) dims: Vec<usize>,
    pub(crate) strides: Vec<Vec<usize>>,
}

impl Joined {
    /// Drops dimensions of size 1 and joins those that every operand walks through in one step.
    pub(crate) fn new(dims: &[usize], strides: &[Vec<usize>]) -> Self {
        let mut joined = Joined { dims: Vec::new(), strides: vec![Vec::new(); strides.len()] };
        for (i, &size) in dims.iter().enumerate().filter(|&(_, &size)| size != 1) {
            let here: Vec<usize> = strides.iter().map(|s| s[i]).collect();
            let continues = joined.strides.iter().zip(&here).all(|(s, &h)| s.last() == Some(&(h * size)));
            if let Some(last) = joined.dims.last_mut().filter(|_| continues) {
                *last *= size;
                for (s, h) in joined.strides.iter_mut().zip(here) {
                    if let Some(stride) = s.last_mut() {
                        *stride = h;
                    }
                }
            } else {
                joined.dims.push(size);
                for (s, h) in joined.strides.iter_mut().zip(here) {
                    s.push(h);
                }
            }
        }
        joined
    }

    /// The number of elements of the result.
    pub(crate) fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// The strides of a contiguous operand of shape `from` over the dimensions `to` that it broadcasts to.
pub(crate) fn broadcast(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; to.len()];
    let mut stride = 1;
    for (i, &size) in from.iter().enumerate().rev() {
        if size != 1 {
            strides[to.len() - from.len() + i] = stride;
        }
        stride *= size;
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::{Joined, broadcast};

    #[test]
    fn contiguous_dimensions_become_one() {
        let dims = [2, 3, 4];
        let joined = Joined::new(&dims, &[broadcast(&dims, &dims), broadcast(&[1], &dims)]);
        assert_eq!(joined, Joined { dims: vec![24], strides: vec![vec![1], vec![0]] });
    }

    #[test]
    fn a_broadcast_in_the_middle_stays_apart() {
        let dims = [2, 3, 1, 4];
        let joined = Joined::new(&dims, &[broadcast(&dims, &dims), broadcast(&[3, 1, 1], &dims)]);
        assert_eq!(joined, Joined { dims: vec![2, 3, 4], strides: vec![vec![12, 4, 1], vec![0, 1, 0]] });
        assert_eq!(joined.elements(), 24);
    }

    #[test]
    fn a_scalar_has_one_element_and_no_dimensions() {
        assert_eq!(Joined::new(&[1, 1], &[vec![0, 0]]).elements(), 1);
    }
}
