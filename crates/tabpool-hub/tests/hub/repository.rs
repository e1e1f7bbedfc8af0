//! What an honest hub has, and what it answers.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::server::{Answer, Request};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A repository with a small file in git and a large one outside of it.
#[derive(Clone)]
pub(crate) struct Repository {
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
}

impl Repository {
    pub(crate) fn new(weights: usize) -> Self {
        let weights = (0..weights).map(|i| (i * i % 251) as u8).collect();
        Self { files: vec![("1_Pooling/config.json", b"{\"mean\":true}".to_vec()), ("model.safetensors", weights)] }
    }

    pub(crate) fn weights(&self) -> &[u8] {
        &self.files[1].1
    }

    pub(crate) fn listing(&self) -> Answer {
        let siblings: Vec<_> = self
            .files
            .iter()
            .map(|(path, bytes)| {
                let blob = hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize());
                let lfs = path.ends_with(".safetensors").then(|| {
                    serde_json::json!({ "sha256": hex(&Sha256::digest(bytes)), "size": bytes.len(), "pointerSize": 133 })
                });
                serde_json::json!({ "rfilename": path, "size": bytes.len(), "blobId": blob, "lfs": lfs })
            })
            .collect();
        let answer = serde_json::json!({ "id": "org/name", "sha": COMMIT, "siblings": siblings });
        Answer::new(200, answer.to_string())
    }

    /// What an honest hub answers.
    pub(crate) fn answer(&self, request: &Request) -> Answer {
        if request.target == "/api/models/org/name/revision/main?blobs=true" {
            return self.listing();
        }
        let path = request.target.strip_prefix(&format!("/org/name/resolve/{COMMIT}/"));
        match self.files.iter().find(|(known, _)| Some(*known) == path) {
            Some((_, bytes)) => Answer::file(request, bytes),
            None => Answer::new(404, r#"{"error":"Entry not found"}"#),
        }
    }
}
