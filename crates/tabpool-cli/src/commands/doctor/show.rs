//! What the doctor found, for a person.

use std::path::Path;
use std::time::Duration;

use super::{Findings, MachineFound, WorkerFound};
use crate::quantity::{bytes, duration};
use crate::terminal::{Terminal, shortened};

/// The optional features that kernels make use of; browsers list dozens that matter to pictures only.
const FEATURES: [&str; 3] = ["shader-f16", "subgroups", "timestamp-query"];

pub(super) fn text(findings: &Findings, terminal: &Terminal) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    let good = terminal.styled("✓", "32");
    let bad = terminal.styled("✗", "1;31");
    let sign = |severity: &str| match severity {
        "error" => terminal.styled("✗", "1;31"),
        "warning" => terminal.styled("!", "1;33"),
        _ => terminal.styled("·", "2"),
    };
    line(terminal.bold("Browsers"));
    if findings.browsers.is_empty() {
        line(format!("  {bad} none found; install Chromium, Chrome, Edge or Firefox, or run natively"));
    }
    for browser in &findings.browsers {
        let fatal = browser.findings.iter().any(|advice| advice.severity == "error");
        let mark = if fatal { &bad } else { &good };
        line(format!("  {mark} {} {}  {}", browser.kind, browser.version, terminal.dim(&browser.path)));
        for advice in &browser.findings {
            line(format!("      {} {}", sign(advice.severity), advice.what));
            if let Some(remedy) = &advice.remedy {
                line(format!("        → {remedy}"));
            }
        }
    }
    for one in &findings.unusable {
        line(format!("  {bad} {} at {}: {}", one.kind, one.path, shortened(&one.reason, 200)));
    }
    match (&findings.workers, &findings.failure) {
        (None, None) => {}
        (workers, failure) => {
            line(String::new());
            line(terminal.bold("What they compute with"));
            if let Some(failure) = failure {
                line(format!("  {bad} {failure}"));
            }
            for worker in workers.iter().flatten() {
                worker_lines(worker, terminal, [&good, &bad], &mut line);
            }
        }
    }
    line(String::new());
    machine_lines(&findings.machine, terminal, [&good, &bad], &mut line);
    out
}

fn worker_lines(worker: &WorkerFound, terminal: &Terminal, [good, bad]: [&str; 2], line: &mut impl FnMut(String)) {
    let version = if worker.version.is_empty() { String::new() } else { format!(" {}", worker.version) };
    if let Some(failure) = &worker.failure {
        line(format!("  {bad} {}{version}: {failure}", worker.kind));
        return;
    }
    let started = worker.started_in_ms.map_or_else(String::new, |ms| {
        terminal.dim(&format!("  started in {}", duration(Duration::from_secs_f64(ms.max(0.0) / 1e3))))
    });
    line(format!("  {}{version}{started}", worker.kind));
    for api in &worker.apis {
        match (&api.adapter, &api.missing) {
            (Some(adapter), _) => {
                let software = if api.fallback { ", in software" } else { "" };
                line(format!("    {good} {:6}  {}{software}", api.api, shortened(adapter, 100)));
                let limits = limits(&api.limits);
                let features = api.features.iter().filter(|feature| FEATURES.contains(&feature.as_str()));
                let features = features.map(String::as_str).collect::<Vec<_>>().join(", ");
                let detail = [limits, features].into_iter().filter(|text| !text.is_empty());
                let detail = detail.collect::<Vec<_>>().join("; ");
                if !detail.is_empty() {
                    let room = terminal.width.saturating_sub(14);
                    line(format!("              {}", terminal.dim(&shortened(&detail, room))));
                }
            }
            (None, missing) => {
                let reason = missing.as_deref().unwrap_or_default();
                line(format!("    {} {:6}  {}", terminal.dim("–"), api.api, terminal.dim(&shortened(reason, 160))));
            }
        }
    }
}

/// The limits that decide which models fit, in words.
fn limits(limits: &[(String, u64)]) -> String {
    let of = |name: &str| limits.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    let parts = [
        of("maxStorageBufferBindingSize").map(|size| format!("bindings to {}", bytes(size))),
        of("maxBufferSize").map(|size| format!("buffers to {}", bytes(size))),
        of("maxComputeInvocationsPerWorkgroup").map(|number| format!("{number} invocations")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn machine_lines(machine: &MachineFound, terminal: &Terminal, [good, bad]: [&str; 2], line: &mut impl FnMut(String)) {
    line(terminal.bold("Machine"));
    let features = machine.cpu_features.join(" ");
    line(format!("  {good} {}, {} cores  {}", machine.os, machine.cores, terminal.dim(&features)));
    if machine.gpus.is_empty() {
        line(format!("  {} no GPU", terminal.dim("·")));
    }
    for gpu in &machine.gpus {
        line(format!("  {good} GPU {gpu}"));
    }
    if !machine.vulkan_drivers.is_empty() || machine.vulkan_loader {
        let loader = if machine.vulkan_loader { "" } else { ", but no loader (libvulkan.so.1)" };
        let name = |path: &String| Path::new(path).file_stem().map(|name| name.to_string_lossy().into_owned());
        let drivers = machine.vulkan_drivers.iter().filter_map(name).collect::<Vec<_>>().join(", ");
        let drivers = if drivers.is_empty() { "no drivers".to_owned() } else { drivers };
        let mark = if machine.vulkan_loader { good } else { bad };
        let room = terminal.width.saturating_sub(14);
        line(format!("  {mark} Vulkan: {}", shortened(&format!("{drivers}{loader}"), room)));
    }
    match (&machine.duckdb, &machine.duckdb_failure) {
        (Some(version), _) => line(format!("  {good} DuckDB {version}")),
        (None, failure) => line(format!("  {bad} DuckDB: {}", failure.as_deref().unwrap_or("absent"))),
    }
    let free = machine.free_bytes.map_or_else(String::new, |free| format!(", {} free", bytes(free)));
    line(format!("  {good} data in {}{free}", machine.data_dir));
}
