//! The conformance suite: what a backend must do to be called one.
//!
//! Every operator over shapes that are multiples of nothing, and of four where kernels may care, every way operands broadcast,
//! weights in every stored dtype cut into blocks at odd places, whole encoder layers with and without fusion, and the
//! promises of [`Executable`](crate::Executable) and [`Backend`]: several runs in flight, weights shared, states kept and
//! shared, wrong inputs refused.
//! What is right, [`oracle`](crate::oracle) says.
//!
//! The suite needs neither threads nor files, so it runs in a browser's worker as it runs natively:
//!
//! ```
//! # use tabpool_engine::{conformance, cpu::{CpuBackend, CpuOptions}};
//! # pollster::block_on(async {
//! let backend = CpuBackend::new(&CpuOptions::default())?;
//! for case in conformance::run_matching(&backend, "softmax").await {
//!     assert!(case.passed(), "{case}");
//! }
//! # Ok::<(), tabpool_engine::EngineError>(())
//! # }).unwrap();
//! ```

mod attention;
mod case;
mod convolution;
mod elementwise;
mod encoder;
mod fours;
mod layout;
mod precision;
mod product;
mod promises;
mod random;
mod ranking;
mod rows;
mod states;
mod weights;

use std::fmt;

use tabpool_tensor::Precision;

use crate::backend::Backend;

pub use case::{Case, CaseError};
pub use encoder::{EncoderSize, encoder};
pub use random::Random;
pub use weights::MemoryWeights;

/// How one case went.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseResult {
    /// The case's name: the operator, its shapes and what is special.
    pub name: String,
    /// The worst error over all elements of all outputs of all runs: `|got - want| / max(1, |want|)`.
    pub worst_error: f64,
    /// The largest error allowed.
    pub tolerance: f64,
    /// Whether that is a pass, and if not, why.
    pub outcome: Outcome,
}

/// Whether a case passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend did what it should.
    Passed,
    /// The backend says that it cannot run the case's program; the text is its reason.
    Unsupported(String),
    /// The backend gave wrong numbers or broke a promise; the text says which.
    Failed(String),
}

impl CaseResult {
    /// Whether the case passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Passed
    }
}

impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, worst_error, tolerance, outcome } = self;
        match outcome {
            Outcome::Passed => write!(f, "pass {name}: error {worst_error:.1e} of {tolerance:.0e}"),
            Outcome::Unsupported(reason) => write!(f, "skip {name}: {reason}"),
            Outcome::Failed(reason) => write!(f, "FAIL {name}: {reason}"),
        }
    }
}

/// Every case that compares numbers. Equal in every build: the data come from a generator of fixed seeds.
///
/// # Errors
/// [`CaseError`] where a case is no valid program, which is a bug of the suite.
pub fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = elementwise::cases()?;
    all.extend(layout::cases()?);
    all.extend(rows::cases()?);
    all.extend(product::cases()?);
    all.extend(attention::cases()?);
    all.extend(convolution::cases()?);
    all.extend(ranking::cases()?);
    all.extend(states::cases()?);
    all.extend(fours::cases()?);
    all.extend(encoder::cases()?);
    Ok(all)
}

/// The cases of linear layers for which arithmetic of this precision is permitted. A backend may be more exact.
///
/// # Errors
/// As [`cases`].
pub fn cases_permitting(precision: Precision) -> Result<Vec<Case>, CaseError> {
    precision::cases(precision)
}

/// Runs every case and checks every promise.
pub async fn run(backend: &dyn Backend) -> Vec<CaseResult> {
    run_matching(backend, "").await
}

/// Runs the cases whose names hold this text.
pub async fn run_matching(backend: &dyn Backend, filter: &str) -> Vec<CaseResult> {
    let cases = match cases() {
        Ok(cases) => cases,
        Err(e) => return vec![case::failed("the suite itself", e.to_string())],
    };
    let mut results = Vec::with_capacity(cases.len());
    for case in cases.iter().filter(|c| c.name().contains(filter)) {
        results.push(case.check(backend).await);
    }
    results.extend(promises::check_all(backend, filter).await);
    results
}

/// Runs the cases of [`cases_permitting`] whose names hold this text.
pub async fn run_permitting(backend: &dyn Backend, precision: Precision, filter: &str) -> Vec<CaseResult> {
    let cases = match cases_permitting(precision) {
        Ok(cases) => cases,
        Err(e) => return vec![case::failed("the suite itself", e.to_string())],
    };
    let mut results = Vec::with_capacity(cases.len());
    for case in cases.iter().filter(|c| c.name().contains(filter)) {
        results.push(case.check(backend).await);
    }
    results
}

#[cfg(test)]
mod tests;
