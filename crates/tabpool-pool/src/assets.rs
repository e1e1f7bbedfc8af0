//! The files a tab loads, embedded when this crate was built.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// A file of the browser runtime.
pub(crate) struct Asset {
    pub(crate) bytes: &'static [u8],
    pub(crate) media: &'static str,
    /// Changes with the content: by it a browser finds that what it kept, compiled code included, is still good.
    pub(crate) tag: &'static str,
}

/// The tag of each file, in the order of the files. It need not withstand anybody: content and tag come from the same host.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |bytes: &[u8]| {
        let mut hash = DefaultHasher::new();
        bytes.hash(&mut hash);
        format!("\"{:016x}\"", hash.finish())
    };
    FILES.iter().map(|(_, bytes)| tag(bytes)).collect()
});

/// A file by the path of a request.
pub(crate) fn find(path: &str) -> Option<Asset> {
    let name = if path.is_empty() || path == "/" { "index.html" } else { path.trim_start_matches('/') };
    let ((_, bytes), tag) = FILES.iter().zip(TAGS.iter()).find(|((file, _), _)| *file == name)?;
    let media = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("svg") => "image/svg+xml",
        Some("json" | "webmanifest") => "application/json",
        _ => "application/octet-stream",
    };
    Some(Asset { bytes, media, tag })
}

/// Whether the runtime was built before this crate was.
pub(crate) fn present() -> bool {
    find("/").is_some()
}
