//! Rates of the kernels on this device, for benchmarks: every variant at every shape, beside the arithmetic's peak.

use std::time::Duration;

use tabpool_engine::EngineError;
use tabpool_tensor::Precision;
use web_time::Instant;

use crate::backend::WebGpuBackend;
use crate::kernels::gemm::{self, GemmVariant};
use crate::kernels::peak;
use crate::lower::Product;
use crate::trial::Trial;
use crate::tuner::{Limit, contest};

/// One variant at one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRate {
    /// The kernel and the class of its shape, as in `gemm m128 n384 k384`; `peak f32` is the arithmetic alone.
    pub class: String,
    /// The variant's name.
    pub variant: String,
    /// Additions and multiplications of one launch.
    pub operations: u64,
    /// The shortest time of one launch; `None` where it failed or gave wrong numbers.
    pub time: Option<Duration>,
}

impl KernelRate {
    /// Billions of operations a second; zero where it failed.
    #[must_use]
    pub fn gigaflops(&self) -> f64 {
        self.time.map_or(0.0, |t| self.operations as f64 / t.as_secs_f64().max(1e-9) / 1e9)
    }
}

/// The longest one shape may take, compiling included.
const MOST_A_SHAPE: Duration = Duration::from_secs(40);

impl WebGpuBackend {
    /// Times every variant at the shapes of a small encoder (384 and 1536 wide; 1, 16 and 128 rows) whose class holds
    /// `filter`, and the arithmetic's peak first.
    ///
    /// # Errors
    /// Where the device is lost. A variant that fails has no time.
    pub async fn kernel_rates(&self, filter: &str) -> Result<Vec<KernelRate>, EngineError> {
        let products = [1, 16, 128].into_iter().flat_map(|m| [(m, 384, 384), (m, 1536, 384), (m, 384, 1536)]);
        let variants: Vec<_> = GemmVariant::ALL.into_iter().filter(|&v| self.runs(v)).collect();
        let trials = products.map(|(m, n, k)| {
            let product = Product { permitted: Precision::F32, m, n, k };
            gemm::trial::trial(product, &variants)
        });
        let mut rates = Vec::new();
        for trial in std::iter::once(peak::trial()).chain(trials.filter(|t| t.class.contains(filter))) {
            rates.extend(self.rates_of(&trial).await?);
        }
        Ok(rates)
    }

    async fn rates_of(&self, trial: &Trial) -> Result<Vec<KernelRate>, EngineError> {
        let timings = contest(&self.gpu, trial, &Limit::until(Instant::now() + MOST_A_SHAPE)).await?;
        let rate = |t: tabpool_engine::tuning::Timing| KernelRate {
            class: trial.class.clone(),
            variant: t.variant,
            operations: trial.operations,
            time: t.time,
        };
        Ok(timings.into_iter().map(rate).collect())
    }
}
