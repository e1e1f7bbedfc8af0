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
fn conforms_with_register_tiles_of_8_by_8() {
    forced(GemmVariant::Register8x8);
}

#[test]
fn conforms_with_register_tiles_of_8_by_4() {
    forced(GemmVariant::Register8x4);
}

#[test]
fn conforms_with_tiles_in_workgroup_memory() {
    forced(GemmVariant::Tiled64);
}

#[test]
fn conforms_row_by_row() {
    forced(GemmVariant::Row);
}

fn forced(gemm: GemmVariant) {
    let options = Options { gemm: Some(gemm), ..Options::default() };
    adapter::with(gemm.name(), options, async |backend| {
        let results = conformance::run_matching(backend, "linear").await;
        let encoders = conformance::run_matching(backend, "encoder").await;
        let all: Vec<_> = results.into_iter().chain(encoders).collect();
        let failed: Vec<String> = all.iter().filter(|r| !r.passed()).map(ToString::to_string).collect();
        assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), all.len(), failed.join("\n"));
        assert!(all.len() > 5, "only {} cases ran", all.len());
    });
}
