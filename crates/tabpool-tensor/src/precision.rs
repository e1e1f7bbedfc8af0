//! The number formats that the arithmetic of linear layers may use.

use std::fmt;
use std::str::FromStr;

/// A number format of arithmetic, from the most exact to the least. As a permission it names the least exact one
/// that may be used; as a report, the least exact one that was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 16-bit floating point: weights, and where a device can, products; sums of more than a few products stay in 32 bits.
    F16,
    /// 8-bit integers: weights with a scale for each output column, activations with a scale for each row; sums are exact.
    Int8,
}

impl Precision {
    /// Every precision, in the order of their codes and of falling exactness.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Int8];

    /// The stable number of this precision in encodings. Numbers are never reused.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Precision::F32 => 0,
            Precision::F16 => 1,
            Precision::Int8 => 2,
        }
    }

    /// The precision of a code, `None` where this version knows no such code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The name in lower case: `f32`, `f16` or `int8`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Int8 => "int8",
        }
    }

    /// Whether arithmetic of this precision may be used where `permitted` is.
    #[must_use]
    pub fn within(self, permitted: Precision) -> bool {
        self <= permitted
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no precision.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown precision {0:?}; there are f32, f16 and int8")]
pub struct UnknownPrecision(String);

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(s: &str) -> Result<Self, UnknownPrecision> {
        let lower = s.to_ascii_lowercase();
        Self::ALL.into_iter().find(|p| p.name() == lower).ok_or_else(|| UnknownPrecision(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::Precision;

    #[test]
    fn codes_and_names_round_trip() {
        for p in Precision::ALL {
            assert_eq!(Precision::from_code(p.code()), Some(p));
            assert_eq!(p.name().parse(), Ok(p));
        }
        assert_eq!(Precision::from_code(3), None);
        assert!("f8".parse::<Precision>().is_err());
    }

    #[test]
    fn a_permission_admits_what_is_at_least_as_exact() {
        assert!(Precision::F32.within(Precision::Int8) && Precision::F16.within(Precision::F16));
        assert!(!Precision::Int8.within(Precision::F16) && !Precision::F16.within(Precision::F32));
    }
}
