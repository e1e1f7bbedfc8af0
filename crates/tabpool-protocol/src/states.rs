//! Sets of states: what a generation keeps on one worker between its runs, and how much of it a worker takes.
//!
//! The host numbers sets. A set is asked for with [`MakeStates`](crate::Message::MakeStates), named by
//! [`Run`](crate::Message::Run)s, and ends in one of these ways:
//!
//! - [`FreeStates`](crate::Message::FreeStates): the host has no use for it. Runs that were sent before are still done.
//! - [`StatesLost`](crate::Message::StatesLost): its lease is over, or the device failed in a run on it.
//! - [`DeviceLost`](crate::Message::DeviceLost): everything of that API is gone, sets that were being made included.
//! - A `Welcome` that resumes no session: the worker frees every set. One that does resume keeps those that the worker's
//!   [`Hello`](crate::Hello) lists; what it does not list is gone.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tabpool_tensor::{DType, Shape};

use crate::ApiKind;

/// One state of a set: what it is called and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateSpec {
    /// Its name in the programs that keep it.
    pub name: String,
    /// The type of its elements, by its code.
    #[serde(with = "dtype")]
    pub dtype: DType,
    /// Its dimensions.
    pub dims: Vec<u64>,
}

impl StateSpec {
    /// A state of this name, dtype and shape.
    #[must_use]
    pub fn new(name: impl Into<String>, dtype: DType, shape: &Shape) -> Self {
        Self { name: name.into(), dtype, dims: shape.iter().map(|&dim| dim as u64).collect() }
    }

    /// Its shape, `None` where this machine cannot address as much.
    #[must_use]
    pub fn shape(&self) -> Option<Shape> {
        let dims = self.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<Vec<_>>>()?;
        let shape = Shape::from(dims);
        shape.checked_elements()?.checked_mul(self.dtype.size())?;
        Some(shape)
    }

    /// The bytes of its elements, `None` where they cannot be counted.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.dims.iter().try_fold(self.dtype.size() as u64, |bytes, &dim| bytes.checked_mul(dim))
    }
}

/// A set as the worker that has it lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldStates {
    /// The host's number for the set.
    pub states: u64,
    /// The API it is of.
    pub api: ApiKind,
    /// The bytes that it takes on its device; nothing while it is being made.
    pub bytes: Option<u64>,
}

/// How much of a worker sets of states may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLimits {
    /// Sets at once, those being made included.
    pub sets: usize,
    /// States of one set.
    pub states: usize,
    /// Bytes of a state's name.
    pub name: usize,
    /// Dimensions of a state.
    pub rank: usize,
    /// Bytes of one set.
    pub set_bytes: u64,
    /// Bytes of all sets together.
    pub all_bytes: u64,
    /// The longest lease.
    pub lease: Duration,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self {
            sets: 256,
            states: 1024,
            name: 256,
            rank: 8,
            set_bytes: 16 << 30,
            all_bytes: 64 << 30,
            lease: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// Why what a set is asked for with is not sound.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StatesError {
    /// A set of nothing.
    #[error("a set holds at least one state")]
    Empty,
    /// Something is more than the limits allow.
    #[error("{what}: {got}, at most {limit} allowed")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How much it is.
        got: u64,
        /// How much it may be.
        limit: u64,
    },
    /// A name that is empty, too long, or another state's.
    #[error("state {index}: {reason}")]
    Name {
        /// Which state.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// A shape with a dimension of zero, too many of them, or more bytes than a set may have.
    #[error("state {name:?} of {dtype}{dims:?}: {reason}")]
    Shape {
        /// Which state.
        name: String,
        /// Its dtype.
        dtype: DType,
        /// Its dimensions.
        dims: Vec<u64>,
        /// What is wrong.
        reason: String,
    },
    /// A lease of no time.
    #[error("a lease lasts at least a millisecond")]
    NoLease,
}

impl StateLimits {
    /// Checks what a set is asked for with; gives the bytes of its elements.
    ///
    /// # Errors
    /// [`StatesError`] that says what is wrong and where.
    pub fn check(&self, specs: &[StateSpec], lease: Duration) -> Result<u64, StatesError> {
        if specs.is_empty() {
            return Err(StatesError::Empty);
        }
        at_most("states of a set", specs.len() as u64, self.states as u64)?;
        if lease.is_zero() {
            return Err(StatesError::NoLease);
        }
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        at_most("milliseconds of a lease", ms(lease), ms(self.lease))?;
        let (mut names, mut total) = (HashSet::new(), 0u64);
        for (index, spec) in specs.iter().enumerate() {
            self.check_name(index, spec, &mut names)?;
            total = total.saturating_add(self.check_shape(spec)?);
        }
        at_most("bytes of a set of states", total, self.set_bytes)?;
        Ok(total)
    }

    fn check_name<'a>(
        &self,
        index: usize,
        spec: &'a StateSpec,
        names: &mut HashSet<&'a str>,
    ) -> Result<(), StatesError> {
        let name = &*spec.name;
        let reason = match name.len() {
            0 => "it has no name".to_owned(),
            len if len > self.name => format!("its name has {len} bytes, at most {} allowed", self.name),
            _ if !names.insert(name) => format!("an earlier one has the name {name:?}"),
            _ => return Ok(()),
        };
        Err(StatesError::Name { index, reason })
    }

    fn check_shape(&self, spec: &StateSpec) -> Result<u64, StatesError> {
        let reason = match spec.bytes() {
            _ if spec.dims.len() > self.rank => {
                format!("it has {} dimensions, at most {} allowed", spec.dims.len(), self.rank)
            }
            Some(0) => "it holds nothing".to_owned(),
            Some(bytes) if bytes <= self.set_bytes => return Ok(bytes),
            _ => format!("it is larger than the {} bytes a set may have", self.set_bytes),
        };
        let dims = spec.dims.iter().copied().take(self.rank).collect();
        Err(StatesError::Shape { name: spec.name.clone(), dtype: spec.dtype, dims, reason })
    }
}

fn at_most(what: &'static str, got: u64, limit: u64) -> Result<(), StatesError> {
    (got <= limit).then_some(()).ok_or(StatesError::TooLarge { what, got, limit })
}

/// How a [`DType`] travels within a frame's body: as its code.
mod dtype {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use tabpool_tensor::DType;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    pub(super) fn serialize<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(dtype.code())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
        let code = u8::deserialize(deserializer)?;
        DType::from_code(code).ok_or_else(|| D::Error::custom(format_args!("unknown dtype code {code}")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{any, prop, proptest};
    use tabpool_tensor::{DType, Shape};

    use super::{StateLimits, StateSpec, StatesError};

    const LEASE: Duration = Duration::from_secs(60);

    fn spec(name: &str, dims: &[u64]) -> StateSpec {
        StateSpec { name: name.to_owned(), dtype: DType::F32, dims: dims.to_vec() }
    }

    fn refusal(specs: &[StateSpec]) -> String {
        StateLimits::default().check(specs, LEASE).expect_err("refused").to_string()
    }

    #[test]
    fn a_sound_set_gives_its_bytes() {
        let specs = [spec("keys.0", &[1, 4, 128, 64]), spec("values.0", &[1, 4, 128, 64])];
        assert_eq!(StateLimits::default().check(&specs, LEASE), Ok(2 * 4 * 4 * 128 * 64));
        let shape = Shape::from([1, 4, 128, 64]);
        assert_eq!(StateSpec::new("keys.0", DType::F32, &shape), specs[0]);
        assert_eq!(specs[0].shape(), Some(shape));
    }

    #[test]
    fn what_is_wrong_with_a_set_is_said_by_name() {
        assert_eq!(refusal(&[]), "a set holds at least one state");
        assert_eq!(refusal(&[spec("", &[1])]), "state 0: it has no name");
        assert_eq!(refusal(&[spec("k", &[1]), spec("k", &[2])]), "state 1: an earlier one has the name \"k\"");
        assert_eq!(refusal(&[spec(&"k".repeat(257), &[1])]), "state 0: its name has 257 bytes, at most 256 allowed");
        assert_eq!(refusal(&[spec("k", &[2, 0])]), "state \"k\" of f32[2, 0]: it holds nothing");
        assert!(refusal(&[spec("k", &[1; 9])]).ends_with("it has 9 dimensions, at most 8 allowed"));
        assert!(refusal(&[spec("k", &[u64::MAX, 2])]).ends_with("larger than the 17179869184 bytes a set may have"));
        let many: Vec<_> = (0..1025).map(|n| spec(&n.to_string(), &[1])).collect();
        assert_eq!(refusal(&many), "states of a set: 1025, at most 1024 allowed");
    }

    #[test]
    fn a_set_is_bounded_as_a_whole_and_so_is_its_lease() {
        let limits = StateLimits { set_bytes: 16, ..StateLimits::default() };
        let specs = [spec("a", &[3]), spec("b", &[2])];
        let too_large = StatesError::TooLarge { what: "bytes of a set of states", got: 20, limit: 16 };
        assert_eq!(limits.check(&specs, LEASE), Err(too_large));
        assert_eq!(limits.check(&specs[..1], LEASE), Ok(12));
        assert_eq!(limits.check(&specs[..1], Duration::ZERO), Err(StatesError::NoLease));
        let long = limits.check(&specs[..1], limits.lease + Duration::from_millis(1)).expect_err("too long");
        assert_eq!(long.to_string(), "milliseconds of a lease: 86400001, at most 86400000 allowed");
    }

    proptest! {
        #[test]
        fn whatever_passes_can_be_counted(dims in prop::collection::vec(any::<u64>(), 0..12), low in any::<bool>()) {
            let dims: Vec<u64> = dims.into_iter().map(|dim| if low { dim % 32 } else { dim }).collect();
            let limits = StateLimits::default();
            if let Ok(bytes) = limits.check(&[spec("s", &dims)], LEASE) {
                assert!(bytes > 0 && bytes <= limits.set_bytes && dims.len() <= limits.rank);
                assert_eq!(u128::from(bytes), dims.iter().fold(4u128, |n, &dim| n * u128::from(dim)));
            }
        }
    }
}
