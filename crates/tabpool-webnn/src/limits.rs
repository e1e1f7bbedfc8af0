//! What a browser's WebNN accepts, as `opSupportLimits()` tells it: data types and ranks for every operand of every
//! operator. A plain table, so that lowering can be tested against the tables of browsers that are not here.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

use tabpool_tensor::DType;

/// What one operand may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Support {
    /// Data types by their WebNN names.
    pub(crate) dtypes: BTreeSet<String>,
    /// Numbers of dimensions; a browser that tells none takes any.
    pub(crate) ranks: RangeInclusive<usize>,
}

/// The table of one browser.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// By operator and operand. Inputs, constants and outputs of graphs stand here as operators with one operand, `""`.
    operands: HashMap<(String, String), Support>,
    /// The most bytes of one tensor, where the browser tells.
    tensor_bytes: Option<u64>,
}

impl Limits {
    /// A table without operators.
    pub(crate) fn new(tensor_bytes: Option<u64>) -> Self {
        Self { operands: HashMap::new(), tensor_bytes }
    }

    /// Adds what one operand of an operator may be.
    pub(crate) fn insert(&mut self, operator: &str, operand: &str, support: Support) {
        self.operands.insert((operator.to_owned(), operand.to_owned()), support);
    }

    /// Whether the browser has this operator at all.
    pub(crate) fn has(&self, operator: &str) -> bool {
        self.operands.keys().any(|(known, _)| known == operator)
    }

    /// Whether this operand may be of this data type and rank.
    ///
    /// # Errors
    /// A clause that says what the browser takes instead.
    pub(crate) fn check(&self, operator: &str, operand: &str, dtype: DType, shape: &[usize]) -> Result<(), String> {
        let what = if operand.is_empty() { operator.to_owned() } else { format!("{operator}'s {operand}") };
        let Some(support) = self.operands.get(&(operator.to_owned(), operand.to_owned())) else {
            return Err(format!("needs {operator}, which this browser does not have"));
        };
        let name = data_type(dtype).ok_or_else(|| format!("needs {what} in {dtype}, which WebNN does not know"))?;
        if !support.dtypes.contains(name) {
            let known = support.dtypes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(format!("needs {what} in {name}; this browser takes {known}"));
        }
        if !support.ranks.contains(&shape.len()) {
            let (least, most) = (support.ranks.start(), support.ranks.end());
            return Err(format!("needs {what} of rank {}; this browser takes {least} to {most}", shape.len()));
        }
        let bytes = shape.iter().map(|&d| d as u64).product::<u64>().saturating_mul(dtype.size() as u64);
        match self.tensor_bytes {
            Some(most) if bytes > most => Err(format!("needs {what} of {bytes} bytes; this browser takes {most}")),
            _ => Ok(()),
        }
    }
}

/// The WebNN name of a data type.
pub(crate) fn data_type(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::I64 => "int64",
        DType::I32 => "int32",
        DType::U32 => "uint32",
        DType::I8 => "int8",
        DType::U8 => "uint8",
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use tabpool_tensor::DType;

    use super::{Limits, Support};

    /// The table of Chromium 153's shell, one operand a line: operator, operand, data types, least and greatest rank.
    const SHELL: &str = include_str!("limits/chromium-153-shell.txt");

    /// Reads a table as it is kept for tests.
    pub(crate) fn of_the_shell() -> Limits {
        let mut limits = Limits::new(Some(2_147_483_647));
        for line in SHELL.lines() {
            let [operator, operand, dtypes, least, most] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("not a row of the table: {line:?}");
            };
            let operand = if operand == "-" { "" } else { operand };
            let number = |text: &str| text.parse::<usize>().expect("a rank");
            let dtypes = dtypes.split(',').map(str::to_owned).collect();
            limits.insert(operator, operand, Support { dtypes, ranks: number(least)..=number(most) });
        }
        limits
    }

    #[test]
    fn refusals_say_what_the_browser_takes() {
        let limits = of_the_shell();
        assert!(limits.has("gelu") && !limits.has("flashAttention"));
        assert_eq!(limits.check("gemm", "a", DType::F32, &[2, 3]), Ok(()));
        let refused = |operator, operand, dtype, shape: &[usize]| {
            limits.check(operator, operand, dtype, shape).expect_err("outside the table")
        };
        let rank = refused("gemm", "a", DType::F32, &[1, 2, 3]);
        assert_eq!(rank, "needs gemm's a of rank 3; this browser takes 2 to 2");
        let dtype = refused("matmul", "b", DType::I32, &[2, 3]);
        assert_eq!(dtype, "needs matmul's b in int32; this browser takes float16, float32");
        assert_eq!(refused("nothing", "a", DType::F32, &[]), "needs nothing, which this browser does not have");
        let large = refused("input", "", DType::F32, &[1 << 20, 1 << 10]);
        assert_eq!(large, "needs input of 4294967296 bytes; this browser takes 2147483647");
    }
}
