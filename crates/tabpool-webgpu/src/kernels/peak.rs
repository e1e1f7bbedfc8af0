//! Launches `peak.wgsl`, which measures the adapter's arithmetic. No program needs it.

use std::rc::Rc;

use super::{Groups, Kernel, Launch, Variant};
use crate::trial::{Candidate, Trial, Work};

static KERNEL: Kernel = Kernel { name: "peak", parts: &[include_str!("peak.wgsl")], reads: 0 };

/// Workgroups of 64 invocations: enough to fill a GPU, few enough that a processor is done within milliseconds.
const GROUPS: u32 = 1024;
const TURNS: u32 = 16;
/// Products and sums of a turn: eight times three vectors of four.
const OPERATIONS: u64 = 2 * 8 * 3 * 4;

struct Peak;

/// The arithmetic alone.
pub(crate) fn trial() -> Trial {
    let launch = Launch {
        variant: Variant::new(&KERNEL, &[]),
        params: vec![TURNS, 0.5_f32.to_bits(), 1.0_f32.to_bits(), 0],
        groups: Groups::Plane(GROUPS, 1),
    };
    let operations = u64::from(GROUPS) * 64 * u64::from(TURNS) * OPERATIONS;
    Trial {
        class: "peak f32".to_owned(),
        candidates: vec![Candidate::plain("registers", launch)],
        operations,
        nodes: 1,
        work: Rc::new(Peak),
    }
}

impl Work for Peak {
    fn operands(&self) -> Vec<usize> {
        Vec::new()
    }

    fn element(&self, _operand: usize, _i: usize) -> f32 {
        0.0
    }

    fn results(&self) -> usize {
        64 * GROUPS as usize
    }

    fn expected(&self, _i: usize) -> (f64, f64) {
        (24.0, 1e-3)
    }
}

#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    vec![Variant::new(&KERNEL, &[])]
}
