//! The engine's conformance suite on whatever adapter this machine has, once with the backend's own choice of kernels and as much
//! of it as concerns them for each variant of a kernel.

use crate::adapter;

use tabpool_engine::conformance;
use tabpool_tensor::Precision;
use tabpool_webgpu::{AttentionVariant, GemmVariant, Options, RowVariant, WebGpuBackend};

async fn conforms(backend: &WebGpuBackend) {
    let results = conformance::run(backend).await;
    let failed: Vec<String> = results.iter().filter(|r| !r.passed()).map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), results.len(), failed.join("\n"));
    assert!(results.len() > 50, "only {} cases ran", results.len());
}

#[test]
fn conforms_with_its_own_choice_of_kernels() {
    adapter::with("conformance", Options::default(), conforms);
}

// Most of these tests' time is that of compilers with one thread, so the variants are shared by two.

#[test]
fn conforms_with_every_gemm_variant_of_32_bits_in_registers() {
    forced_each(in_registers);
}

#[test]
fn conforms_with_every_other_gemm_variant() {
    forced_each(|gemm| !in_registers(gemm));
}

fn in_registers(gemm: GemmVariant) -> bool {
    gemm.name().starts_with("register_")
}

fn forced_each(mut chosen: impl FnMut(GemmVariant) -> bool) {
    let mut here = Vec::new();
    adapter::with("the variants of this device", Options::default(), async |backend| {
        let (can, lacking): (Vec<_>, Vec<_>) = GemmVariant::ALL.into_iter().partition(|&v| backend.runs(v));
        here.extend(can);
        let lacking = lacking.into_iter().map(GemmVariant::name);
        eprintln!("left out for want of f16 or subgroups: {:?}", lacking.collect::<Vec<_>>());
    });
    here.retain(|&variant| chosen(variant));
    for variant in here {
        forced(variant);
    }
}

#[test]
fn conforms_with_its_own_choice_at_every_precision() {
    adapter::with("precisions", Options::default(), async |backend| {
        for precision in Precision::ALL {
            let results = conformance::run_permitting(backend, precision, "").await;
            let failed: Vec<String> = results.iter().filter(|r| !r.passed()).map(ToString::to_string).collect();
            assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), results.len(), failed.join("\n"));
            assert!(results.len() > 15, "only {} cases ran", results.len());
        }
    });
}

#[test]
fn conforms_with_every_attention_variant() {
    for variant in AttentionVariant::ALL {
        let options = Options { attention: Some(variant), ..Options::default() };
        matching(variant.name(), options, &["attention", "decoder"]);
    }
}

#[test]
fn conforms_with_every_row_variant() {
    for variant in RowVariant::ALL {
        let options = Options { rows: Some(variant), ..Options::default() };
        matching(variant.name(), options, &["softmax", "norm", "decoder"]);
    }
}

fn matching(name: &str, options: Options, filters: &[&str]) {
    adapter::with(name, options, async |backend| {
        let mut results = Vec::new();
        for filter in filters {
            results.extend(conformance::run_matching(backend, filter).await);
        }
        let failed: Vec<String> = results.iter().filter(|r| !r.passed()).map(ToString::to_string).collect();
        assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), results.len(), failed.join("\n"));
        assert!(results.len() > 50, "only {} cases ran", results.len());
    });
}

fn forced(gemm: GemmVariant) {
    let options = Options { gemm: Some(gemm), ..Options::default() };
    adapter::with(gemm.name(), options, async |backend| {
        let results = match gemm.precision() {
            Precision::F32 => {
                // Few convolutions show whether results lie as channels do, in fours and apart.
                let mut results = Vec::new();
                for words in ["linear", "conv2d in fours", "conv2d [2, 33"] {
                    results.extend(conformance::run_matching(backend, words).await);
                }
                results
            }
            less => conformance::run_permitting(backend, less, "").await,
        };
        let worst = results.iter().map(|r| r.worst_error / r.tolerance).fold(0.0, f64::max);
        eprintln!("{}: {} cases, worst error {worst:.3} of the tolerance", gemm.name(), results.len());
        let failed: Vec<String> = results.iter().filter(|r| !r.passed()).map(ToString::to_string).collect();
        assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), results.len(), failed.join("\n"));
        assert!(results.len() > 5, "only {} cases ran", results.len());
    });
}
