//! The engine's conformance suite on whatever adapter this machine has, once for each GEMM variant and once with the
//! backend's own choice.

use crate::adapter;

use tabpool_engine::conformance;
use tabpool_webgpu::{GemmVariant, Options, WebGpuBackend};

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

#[test]
fn conforms_with_every_gemm_variant() {
    for variant in GemmVariant::ALL {
        forced(variant);
    }
}

fn forced(gemm: GemmVariant) {
    let options = Options { gemm: Some(gemm), ..Options::default() };
    adapter::with(gemm.name(), options, async |backend| {
        let results = conformance::run_matching(backend, "linear").await;
        let failed: Vec<String> = results.iter().filter(|r| !r.passed()).map(ToString::to_string).collect();
        assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), results.len(), failed.join("\n"));
        assert!(results.len() > 5, "only {} cases ran", results.len());
    });
}
