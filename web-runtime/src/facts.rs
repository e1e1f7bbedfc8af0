//! What this browser, this machine and this adapter are, found out once at the start.

use std::pin::pin;

use futures::future::{Either, select};
use js_sys::{Array, Object, Reflect};
use tabpool_protocol::{AdapterInfo, ApiKind, ApiReport, Capabilities, DeviceClass};
use wasm_bindgen::prelude::{JsCast, JsValue};

use crate::identity::{Claims, Identity, identify};
use crate::kernels::{KernelChoice, can_share_memory, count_of_threads, has_relaxed_simd, instructions};
use crate::lane;
use crate::navigator::{Adapter, Navigator, Scope, UserAgentData, property, scope, text, thrown};
use crate::timers::{sleep, within};

/// How long the browser has to answer. A GPU process that starts on a loaded machine takes seconds.
const ADAPTER_TIMEOUT_MS: u32 = 20_000;
const AGENT_TIMEOUT_MS: u32 = 2_000;

/// Why an API that the page may not use is not offered.
const LEFT_OUT: &str = "left out by the page's address";

/// The limits that decide which programs fit an adapter.
const LIMITS: &[&str] = &[
    "maxBufferSize",
    "maxStorageBufferBindingSize",
    "maxStorageBuffersPerShaderStage",
    "maxComputeInvocationsPerWorkgroup",
    "maxComputeWorkgroupStorageSize",
    "maxComputeWorkgroupsPerDimension",
];

/// Asks the browser. `only` names the APIs that may be used; all where it is empty. `kernels` are those of the CPU.
pub(crate) async fn gather(only: &[ApiKind], kernels: KernelChoice) -> Capabilities {
    let scope = scope();
    let navigator = scope.navigator();
    let cores = navigator.hardware_concurrency().unwrap_or(1);
    // A device is asked for only where it may be used: that takes from milliseconds to seconds.
    let wanted = |api| only.is_empty() || only.contains(&api);
    let gpu =
        async { if wanted(ApiKind::WebGpu) { webgpu(&scope, &navigator).await } else { Err(LEFT_OUT.to_owned()) } };
    let ml = async { if wanted(ApiKind::WebNn) { webnn(&navigator, cores).await } else { Err(LEFT_OUT.to_owned()) } };
    let (identity, gpu, ml) = futures::join!(identity(&navigator), gpu, ml);
    let (relaxed, threads) = kernels.here();
    let cpu = AdapterInfo {
        vendor: "wasm".to_owned(),
        architecture: instructions(relaxed).to_owned(),
        device: count_of_threads(threads as usize),
        ..AdapterInfo::default()
    };
    let hardware = gpu.as_ref().is_ok_and(|adapter| !adapter.fallback);
    let mut apis = vec![
        ApiReport { api: ApiKind::WebGpu, adapter: gpu },
        ApiReport { api: ApiKind::WebNn, adapter: ml },
        ApiReport { api: ApiKind::Cpu, adapter: Ok(cpu) },
    ];
    if !hardware {
        // A GPU that is computed on the processor is slower than the processor, and the browser's own kernels for that
        // are faster than what WebAssembly's vectors allow.
        apis.rotate_left(1);
    }
    for report in &mut apis {
        if !wanted(report.api) {
            report.adapter = Err(LEFT_OUT.to_owned());
        }
    }
    let memory = navigator.device_memory().map(|gib| (gib * 1024.0) as u32);
    Capabilities {
        browser: identity.browser,
        version: identity.version,
        os: identity.os,
        device_class: if identity.mobile { DeviceClass::Mobile } else { DeviceClass::Desktop },
        apis,
        wasm_features: wasm_features(),
        cores,
        memory_mib: memory,
        isolated: scope.cross_origin_isolated().unwrap_or(false),
        ..Capabilities::default()
    }
}

/// What the kernels could use. This module itself is built with `simd128`.
fn wasm_features() -> Vec<String> {
    let features = [("simd128", true), ("relaxed-simd", has_relaxed_simd()), ("threads", can_share_memory())];
    features.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
}

async fn identity(navigator: &Navigator) -> Identity {
    let mut claims = Claims { user_agent: navigator.user_agent(), ..Claims::default() };
    if let Some(data) = navigator.user_agent_data() {
        claims.brands = brands(&data.brands());
        claims.mobile = Some(data.mobile());
        claims.platform = data.platform();
        particulars(&data, &mut claims).await;
    }
    identify(&claims)
}

/// What Chromium tells only when asked. Where it refuses, the short versions stay.
async fn particulars(data: &UserAgentData, claims: &mut Claims) {
    let hints = ["fullVersionList", "platformVersion", "architecture", "bitness"];
    let hints: Array = hints.iter().map(|&hint| JsValue::from_str(hint)).collect();
    let Ok(values) = within(AGENT_TIMEOUT_MS, data.high_entropy_values(&hints)).await else { return };
    if let Ok(full) = property(&values, "fullVersionList").dyn_into::<Array>()
        && full.length() > 0
    {
        claims.brands = brands(&full);
    }
    let value = |key| text(&values, key).unwrap_or_default();
    claims.platform_version = value("platformVersion");
    claims.architecture = (value("architecture"), value("bitness"));
}

fn brands(list: &Array) -> Vec<(String, String)> {
    list.iter().filter_map(|entry| Some((text(&entry, "brand")?, text(&entry, "version")?))).collect()
}

/// What WebNN says of itself, with a context opened to see that it does.
async fn webnn(navigator: &Navigator, cores: u32) -> Result<AdapterInfo, String> {
    if navigator.ml().is_none() {
        return Err("the browser has no WebNN".to_owned());
    }
    let opened = pin!(tabpool_webnn::probe());
    let claims = match select(opened, pin!(sleep(ADAPTER_TIMEOUT_MS))).await {
        Either::Left((claims, _)) => claims?,
        Either::Right(_) => return Err(format!("WebNN gave no answer within {} s", ADAPTER_TIMEOUT_MS / 1000)),
    };
    let (place, lanes) = match claims.accelerated {
        Some(true) => ("on an accelerator", 1),
        Some(false) => ("on the processor", lane::lanes(cores)),
        // Browsers that do not tell are those that compute on the processor unless asked otherwise.
        None => ("on a device the browser does not name", lane::lanes(cores)),
    };
    let plural = if lanes == 1 { "" } else { "s" };
    Ok(AdapterInfo {
        description: format!("{} operators in up to {lanes} lane{plural}, {place}", claims.operators),
        limits: claims.tensor_bytes.map(|bytes| ("maxTensorByteLength".to_owned(), bytes)).into_iter().collect(),
        ..AdapterInfo::default()
    })
}

async fn webgpu(scope: &Scope, navigator: &Navigator) -> Result<AdapterInfo, String> {
    let Some(gpu) = navigator.gpu() else {
        return Err(if scope.is_secure_context() == Some(false) {
            "browsers offer WebGPU over https or on localhost only, this page came over plain http".to_owned()
        } else {
            "the browser has no WebGPU in workers".to_owned()
        });
    };
    let options = Object::new();
    // Setting a property of a fresh object cannot fail.
    let _ = Reflect::set(&options, &"powerPreference".into(), &"high-performance".into());
    let adapter = within(ADAPTER_TIMEOUT_MS, gpu.request_adapter(&options)).await.map_err(|e| thrown(&e))?;
    if adapter.is_null() || adapter.is_undefined() {
        return Err("the browser has WebGPU but found no adapter".to_owned());
    }
    let adapter: Adapter = adapter.unchecked_into();
    let (info, limits) = (adapter.info(), adapter.limits());
    let said = |key| text(&info, key).unwrap_or_default();
    // The flag moved from the adapter to its info.
    let fallback = property(&info, "isFallbackAdapter").as_bool().or(adapter.is_fallback_adapter());
    let names_itself = ["vendor", "architecture", "device", "description"].iter().any(|&key| !said(key).is_empty());
    Ok(AdapterInfo {
        vendor: said("vendor"),
        architecture: said("architecture"),
        device: said("device"),
        description: if names_itself { said("description") } else { "an adapter that does not name itself".to_owned() },
        fallback: fallback.unwrap_or(false),
        features: names(&adapter.features()),
        language_features: names(&gpu.wgsl_language_features()),
        limits: LIMITS
            .iter()
            .filter_map(|&key| Some((key.to_owned(), property(&limits, key).as_f64()? as u64)))
            .collect(),
    })
}

/// The members of a set of names, sorted.
fn names(set: &JsValue) -> Vec<String> {
    if !set.is_object() {
        return Vec::new();
    }
    let mut names: Vec<String> = Array::from(set).iter().filter_map(|name| name.as_string()).collect();
    names.sort();
    names
}
