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

    /// The same walk in fours of the innermost dimension, where every operand has them side by side or repeats one element
    /// over it: the strides of those that repeat go on counting elements, everything else counts fours. A walk over one
    /// dimension may end within a four: buffers are padded to whole ones.
    pub(crate) fn quads(&self) -> Option<Self> {
        let &inner = self.dims.last()?;
        let rank = self.dims.len();
        let side_by_side = |s: &Vec<usize>| s[rank - 1] == 1 && s[..rank - 1].iter().all(|s| s.is_multiple_of(4));
        let repeats = |s: &Vec<usize>| s[rank - 1] == 0;
        let whole = rank == 1 || inner.is_multiple_of(4);
        if !whole || !self.strides.iter().all(|s| side_by_side(s) || repeats(s)) {
            return None;
        }
        let mut quads = self.clone();
        quads.dims[rank - 1] = inner.div_ceil(4);
        for strides in quads.strides.iter_mut().filter(|s| side_by_side(s)) {
            strides[..rank - 1].iter_mut().for_each(|s| *s /= 4);
        }
        Some(quads)
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
    fn fours_are_walked_where_every_operand_has_them() {
        let dims = [3, 2, 8];
        let joined = Joined::new(&dims, &[broadcast(&dims, &dims), broadcast(&[2, 1], &dims)]);
        let quads = Joined { dims: vec![3, 2, 2], strides: vec![vec![4, 2, 1], vec![0, 1, 0]] };
        assert_eq!(joined.quads(), Some(quads));
        let odd = Joined::new(&[3, 2, 6], &[broadcast(&[3, 2, 6], &[3, 2, 6]), broadcast(&[2, 1], &[3, 2, 6])]);
        assert_eq!(odd.quads(), None, "six elements are no whole fours");
        let across = Joined::new(&[8, 8], &[vec![1, 8]]);
        assert_eq!(across.quads(), None, "a transposed operand has them apart");
    }

    #[test]
    fn one_dimension_may_end_within_a_four() {
        let joined = Joined::new(&[7], &[vec![1], vec![0]]);
        assert_eq!(joined.quads(), Some(Joined { dims: vec![2], strides: vec![vec![1], vec![0]] }));
        assert_eq!(Joined::new(&[1], &[vec![1]]).quads(), None, "a scalar is no four");
    }

    #[test]
    fn a_scalar_has_one_element_and_no_dimensions() {
        assert_eq!(Joined::new(&[1, 1], &[vec![0, 0]]).elements(), 1);
    }
}
