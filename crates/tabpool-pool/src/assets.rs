//! The files a tab loads, embedded when this crate was built.

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// A file of the browser runtime with its media type.
pub(crate) fn find(path: &str) -> Option<(&'static [u8], &'static str)> {
    let name = if path.is_empty() || path == "/" { "index.html" } else { path.trim_start_matches('/') };
    let (_, bytes) = FILES.iter().find(|(file, _)| *file == name)?;
    let media = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("svg") => "image/svg+xml",
        Some("json" | "webmanifest") => "application/json",
        _ => "application/octet-stream",
    };
    Some((bytes, media))
}

/// Whether the runtime was built before this crate was.
pub(crate) fn present() -> bool {
    find("/").is_some()
}
