//! Opens the machine's adapter for a test, or says by name which test is left out where there is none.

use tabpool_webgpu::{Options, WebGpuBackend};

/// Runs a test on an adapter. Without one the test is left out, unless `TABPOOL_REQUIRE_GPU=1`.
pub(crate) fn with(name: &str, options: Options, test: impl AsyncFnOnce(&WebGpuBackend)) {
    pollster::block_on(async {
        match WebGpuBackend::new(options).await {
            Ok(backend) => test(&backend).await,
            Err(e) if std::env::var("TABPOOL_REQUIRE_GPU").is_ok_and(|v| v == "1") => {
                panic!("{name}: TABPOOL_REQUIRE_GPU is set and there is no adapter: {e}")
            }
            Err(e) => eprintln!("left out: {name}: {e}"),
        }
    });
}
