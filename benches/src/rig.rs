//! What the benchmarks in browsers stand on: a pool with tabs that joined it, peers' pages in browsers of their own, the server
//! those are served by, and figures as they are shown.

pub(crate) mod host;
pub(crate) mod machine;
pub(crate) mod page;
pub(crate) mod server;
pub(crate) mod weights;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Fault;

/// The file of one of onnxruntime-web's builds.
pub(crate) fn library(build: &str) -> Result<&'static str, Fault> {
    Ok(match build {
        "wasm" => "ort.wasm.bundle.min.mjs",
        "webgpu" => "ort.webgpu.bundle.min.mjs",
        "jspi" => "ort.jspi.bundle.min.mjs",
        "all" => "ort.all.bundle.min.mjs",
        other => return Err(format!("onnxruntime-web has no build {other:?}, but wasm, webgpu, jspi and all").into()),
    })
}

/// Writes tables between their marks in the README of the benchmarks, in the repository at `root`; gives its path.
pub(crate) fn keep_in_readme(root: &Path, [begin, end]: [&str; 2], tables: &str) -> Result<PathBuf, Fault> {
    let path = root.join("benches/README.md");
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (before, rest) = text.split_once(begin).ok_or("benches/README.md has no place for the tables")?;
    let (_, after) = rest.split_once(end).ok_or("the place for the tables in benches/README.md has no end")?;
    fs::write(&path, format!("{before}{begin}\n{tables}{end}{after}"))?;
    Ok(path)
}

/// Runnable tasks in the last minute, by the system's count: others' work is in every figure.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value below which a share of the values lies, in per cent; not a number where there are none.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) * percent.min(100) / 100).copied().unwrap_or(f64::NAN)
}

/// Milliseconds with three digits that say something.
pub(crate) fn figure(ms: f64) -> String {
    match ms {
        ms if ms.is_nan() => "–".to_owned(),
        ms if ms >= 100.0 => format!("{ms:.0}"),
        ms if ms >= 10.0 => format!("{ms:.1}"),
        ms => format!("{ms:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn quartiles_are_values_that_were_measured() {
        let values = [4.0, 1.0, 3.0, 2.0, 5.0];
        assert_eq!([25, 50, 75].map(|p| percentile(&values, p)), [2.0, 3.0, 4.0]);
        assert!(percentile(&[], 50).is_nan());
    }
}
