//! What host and worker tell each other of the kernel variants that win on a device.

use serde::{Deserialize, Serialize};

/// Bytes of a class's or a variant's name at most.
const NAME_BYTES: usize = 128;
/// Variants of one class at most.
const VARIANTS: usize = 64;

/// The fastest variant for one class of work on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunedClass {
    /// The kernel and the class of its shapes, as in `gemm m128 n384 k384`.
    pub class: String,
    /// The variant that won.
    pub variant: String,
    /// Every variant that was timed, with nanoseconds for one launch, or nothing where it failed or gave wrong numbers.
    pub timings: Vec<(String, Option<u64>)>,
}

impl TunedClass {
    /// Classes in one message at most.
    pub const MOST: usize = 512;

    /// Whether its names and lists have sizes that may be kept: it comes from a worker, which is not trusted.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        let name = |text: &str| {
            !text.is_empty() && text.len() <= NAME_BYTES && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
        };
        name(&self.class)
            && name(&self.variant)
            && self.timings.len() <= VARIANTS
            && self.timings.iter().all(|(variant, _)| name(variant))
    }
}

#[cfg(test)]
mod tests {
    use super::TunedClass;

    #[test]
    fn names_that_are_empty_long_or_not_plain_are_not_kept() {
        let class =
            |class: &str| TunedClass { class: class.to_owned(), variant: "row".to_owned(), timings: Vec::new() };
        assert!(class("gemm m128 n384 k384").is_sane());
        assert!(!class("").is_sane());
        assert!(!class(&"x".repeat(129)).is_sane());
        assert!(!class("gemm\u{1b}[31m").is_sane());
        let timed = |variant: &str| TunedClass { timings: vec![(variant.to_owned(), None)], ..class("gemm") };
        assert!(timed("row").is_sane());
        assert!(!timed("").is_sane());
        let many = TunedClass { timings: vec![("row".to_owned(), Some(1)); 65], ..class("gemm") };
        assert!(!many.is_sane());
    }
}
