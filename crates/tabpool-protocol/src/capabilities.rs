//! What a worker says of itself when it joins.

use serde::{Deserialize, Serialize};

/// A way to compute, as a number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ApiKind {
    /// WebGPU, or its native counterparts.
    WebGpu,
    /// WebNN.
    WebNn,
    /// The processor.
    Cpu,
}

impl ApiKind {
    /// The name people and databases see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ApiKind::WebGpu => "webgpu",
            ApiKind::WebNn => "webnn",
            ApiKind::Cpu => "cpu",
        }
    }
}

impl std::fmt::Display for ApiKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for ApiKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "webgpu" => Ok(ApiKind::WebGpu),
            "webnn" => Ok(ApiKind::WebNn),
            "cpu" => Ok(ApiKind::Cpu),
            other => Err(format!("unknown API {other:?}: webgpu, webnn and cpu are known")),
        }
    }
}

/// What kind of machine a worker runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DeviceClass {
    /// A desktop or laptop browser.
    #[default]
    Desktop,
    /// A phone or tablet browser.
    Mobile,
    /// The native worker.
    Native,
}

/// A device as its API describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterInfo {
    /// The vendor, as in `google`.
    pub vendor: String,
    /// The architecture, as in `swiftshader`.
    pub architecture: String,
    /// The device's own name.
    pub device: String,
    /// Free text from the driver.
    pub description: String,
    /// Whether it is a software device.
    pub fallback: bool,
    /// Optional features it offers, by their WebGPU names.
    pub features: Vec<String>,
    /// The WGSL language features it offers.
    pub language_features: Vec<String>,
    /// Limits that matter for placement, by their WebGPU names.
    pub limits: Vec<(String, u64)>,
}

impl AdapterInfo {
    /// A short name for people and for the database, as in `google swiftshader`.
    #[must_use]
    pub fn label(&self) -> String {
        let mut parts: Vec<&str> = Vec::new();
        for part in [&self.vendor, &self.architecture, &self.device] {
            if !part.is_empty() && !parts.contains(&part.as_str()) {
                parts.push(part);
            }
        }
        if parts.is_empty() { self.description.clone() } else { parts.join(" ") }
    }
}

/// Whether and how a worker can compute through one API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiReport {
    /// The API.
    pub api: ApiKind,
    /// The device behind it, or why there is none.
    pub adapter: Result<AdapterInfo, String>,
}

/// What a worker says of itself when it joins. Everything here is a claim: the host uses it for placement and reports,
/// never for trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `chromium`, `chrome`, `edge`, `firefox`, `safari`, `native` or another name.
    pub browser: String,
    /// The browser's version.
    pub version: String,
    /// The operating system, as in `Linux x86_64`.
    pub os: String,
    /// What kind of machine this is.
    pub device_class: DeviceClass,
    /// What it can compute with, in the order it prefers, and what it cannot with the reason.
    pub apis: Vec<ApiReport>,
    /// WebAssembly features beyond the baseline, as in `simd128`.
    pub wasm_features: Vec<String>,
    /// Logical processors it may use.
    pub cores: u32,
    /// Memory in MiB, where it is told.
    pub memory_mib: Option<u32>,
    /// Battery charge in percent and whether it charges, where it is told.
    pub battery: Option<(u8, bool)>,
    /// Whether the page is cross-origin isolated.
    pub isolated: bool,
    /// Blocks and bytes of weights in its own cache.
    pub cached: (u32, u64),
}

impl Capabilities {
    /// The APIs that work, in the worker's order.
    pub fn working(&self) -> impl Iterator<Item = (ApiKind, &AdapterInfo)> {
        self.apis.iter().filter_map(|r| Some((r.api, r.adapter.as_ref().ok()?)))
    }
}
