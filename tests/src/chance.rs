//! Dice that fall alike when they are thrown again: a run in random order can be had a second time by its seed.

use std::time::Duration;

/// A stream of numbers that follows from its seed (Marsaglia's xorshift64*).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give similar streams, and zero would give only zeros.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from((self.next() >> 32) % (bound.max(1) as u64)).unwrap_or_default()
    }

    /// A time from `least` to `most`.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.below(1001) as f64 / 1000.0)
    }

    /// One of these; nothing of nothing.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Chance;

    #[test]
    fn a_seed_gives_its_stream_again_and_every_face_comes_up() {
        let stream = |seed| {
            let mut chance = Chance::new(seed);
            (0..64).map(|_| chance.below(6)).collect::<Vec<_>>()
        };
        assert_eq!(stream(7), stream(7));
        assert_ne!(stream(7), stream(8));
        assert!((0..6).all(|face| stream(0).contains(&face)));
        let mut chance = Chance::new(1);
        assert_eq!(chance.pick::<u8>(&[]), None);
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(2));
        assert!((0..100).all(|_| (least..=most).contains(&chance.between(least, most))));
    }
}
