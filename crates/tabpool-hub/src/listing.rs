//! Which files a revision has, and which of them a model needs here.
//!
//! The list comes from outside: it is bounded, and no path in it is believed to stay inside a folder.

use serde::Deserialize;

use crate::digest::Expected;
use crate::error::HubError;
use crate::model::HubModel;

/// The largest list that is read.
pub(crate) const MAX_LISTING_BYTES: usize = 16 << 20;
const MAX_FILES: usize = 100_000;

/// A revision of a model: the commit it stands for, and the files to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision stood for when it was asked.
    pub commit: String,
    /// The files that a model needs here, in the order of their paths.
    pub files: Vec<RemoteFile>,
}

/// A file on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path inside the model's folder; never leads out of it.
    pub path: String,
    /// Its size in bytes, where the hub says it.
    pub size: Option<u64>,
    /// The sha256 of its bytes in hex, where the hub gives it: for files kept outside of git, the large ones.
    pub sha256: Option<String>,
    /// The git blob hash of its bytes in hex, where the hub gives one that is theirs: for files kept in git.
    pub git_blob: Option<String>,
}

impl RemoteFile {
    pub(crate) fn expected(&self) -> Expected {
        match (&self.sha256, &self.git_blob, self.size) {
            (Some(hash), _, _) => Expected::Sha256(hash.clone()),
            (None, Some(hash), Some(size)) => Expected::GitBlob { hash: hash.clone(), size },
            _ => Expected::Unknown,
        }
    }
}

/// What `GET /api/models/{repository}/revision/{revision}?blobs=true` answers, as far as it is used.
#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: Option<u64>,
}

/// Reads the hub's answer and picks the files.
pub(crate) fn read(model: &HubModel, url: &str, answer: &[u8]) -> Result<Listing, HubError> {
    let bad = |reason: String| HubError::BadAnswer { url: url.to_owned(), reason };
    let info: ModelInfo =
        serde_json::from_slice(answer).map_err(|error| bad(format!("it is not a model's description: {error}")))?;
    if !is_hash(&info.sha, 40) {
        return Err(bad(format!("{:?} is not a commit", info.sha)));
    }
    if info.siblings.len() > MAX_FILES {
        return Err(bad(format!("it lists {} files, more than {MAX_FILES}", info.siblings.len())));
    }
    let unsafe_path = |path: &str| HubError::UnsafePath { model: model.to_string(), path: path.to_owned() };
    if let Some(bad) = info.siblings.iter().find(|sibling| leads_out(&sibling.rfilename)) {
        return Err(unsafe_path(&bad.rfilename));
    }

    let paths: Vec<&str> = info.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let mut files = Vec::new();
    for sibling in &info.siblings {
        let path = sibling.rfilename.as_str();
        if !is_needed(path, &paths) {
            continue;
        }
        if !is_plain(path) {
            return Err(unsafe_path(path));
        }
        let sha256 = sibling.lfs.as_ref().map(|lfs| lfs.sha256.to_ascii_lowercase());
        if let Some(hash) = &sha256
            && !is_hash(hash, 64)
        {
            return Err(bad(format!("{hash:?} is not the sha256 of {path}")));
        }
        // For a file outside of git the blob is only the pointer to it.
        let git_blob = sibling.blob_id.clone().filter(|hash| sibling.lfs.is_none() && is_hash(hash, 40));
        let size = sibling.size.or(sibling.lfs.as_ref().and_then(|lfs| lfs.size));
        files.push(RemoteFile { path: path.to_owned(), size, sha256, git_blob });
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    if let Some(twice) = files.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(bad(format!("it lists {} twice", twice[0].path)));
    }
    if !files.iter().any(|file| file.path.ends_with(".safetensors")) {
        return Err(HubError::NoSafetensors { model: model.to_string(), found: other_weights(&paths) });
    }
    Ok(Listing { commit: info.sha, files })
}

/// Configuration, vocabulary and tokenizer at the top, the same and weights of numbered sub-modules
/// (`1_Pooling/config.json`, as sentence-transformers lays them), and one set of safetensors.
fn is_needed(path: &str, all: &[&str]) -> bool {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let numbered = folder.split_once('_').is_some_and(|(number, rest)| {
        !rest.contains('/') && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
    });
    if !(folder.is_empty() || numbered) || name.starts_with('.') {
        return false;
    }
    if let Some(stem) = name.strip_suffix(".safetensors") {
        // Some repositories keep the same weights several times: whole, in shards, in other precisions, under their
        // maker's own name. The name that the usual library loads comes first.
        let beside = |name: &str| {
            let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            all.contains(&path.as_str())
        };
        return if beside("model.safetensors") {
            stem == "model"
        } else if beside("model.safetensors.index.json") {
            stem.starts_with("model-")
        } else {
            true
        };
    }
    let index_of_other_weights = [".bin.index.json", ".h5.index.json", ".msgpack.index.json"];
    if index_of_other_weights.iter().any(|suffix| name.ends_with(suffix)) {
        return false;
    }
    let suffixes = [".json", ".txt", ".model", ".jinja"];
    suffixes.iter().any(|suffix| name.ends_with(suffix)) || name.starts_with("tokenizer")
}

/// The kinds of weights a model has that are not used here, for the message that says so.
fn other_weights(paths: &[&str]) -> String {
    let kinds = [
        (".bin", "PyTorch"),
        (".pt", "PyTorch"),
        (".pth", "PyTorch"),
        (".onnx", "ONNX"),
        (".gguf", "GGUF"),
        (".h5", "TensorFlow"),
        (".msgpack", "Flax"),
        (".tflite", "TensorFlow Lite"),
    ];
    let mut found: Vec<&str> = kinds
        .iter()
        .filter(|(suffix, _)| paths.iter().any(|path| path.ends_with(suffix)))
        .map(|(_, kind)| *kind)
        .collect();
    found.dedup();
    if found.is_empty() { "no weights at all".to_owned() } else { format!("{} weights", found.join(", ")) }
}

/// Whether a path would be written outside of its folder.
fn leads_out(path: &str) -> bool {
    path.starts_with(['/', '\\']) || path.split(['/', '\\']).any(|part| part == "..") || path.contains('\0')
}

/// Whether a path means the same on every system: no drives, no backslashes, nothing empty or hidden.
fn is_plain(path: &str) -> bool {
    path.len() <= 400
        && path.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with(['.', ' ']))
        && !path.chars().any(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|'))
}

fn is_hash(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn list(paths: &[&str]) -> Result<Listing, HubError> {
        let siblings: Vec<_> = paths.iter().map(|path| serde_json::json!({ "rfilename": path })).collect();
        let answer = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        read(&HubModel::parse("hf:org/name").expect("a name"), "http://hub", answer.as_bytes())
    }

    fn picked(paths: &[&str]) -> Vec<String> {
        list(paths).expect("lists").files.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn a_sentence_transformer_loses_only_what_is_not_used_here() {
        let needed = [
            "1_Pooling/config.json",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ];
        let other = [
            ".gitattributes",
            "README.md",
            "onnx/model.onnx",
            "onnx/config.json",
            "openvino/openvino_model.xml",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "rust_model.ot",
            "tf_model.h5",
            "original/model.safetensors",
            "train_script.py",
            "1_Pooling/deeper/config.json",
        ];
        assert_eq!(picked(&[&needed[..], &other[..]].concat()), needed);
    }

    #[test]
    fn weights_are_fetched_once() {
        assert_eq!(picked(&["model.safetensors", "model.fp16.safetensors", "x.safetensors"]), ["model.safetensors"]);
        let sharded =
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"];
        assert_eq!(picked(&[&sharded[..], &["consolidated.safetensors"]].concat()), sharded);
        assert_eq!(
            picked(&["odd.safetensors", "2_Dense/model.safetensors"]),
            ["2_Dense/model.safetensors", "odd.safetensors"]
        );
    }

    #[test]
    fn a_model_without_safetensors_says_what_it_has_instead() {
        let error = list(&["config.json", "pytorch_model.bin", "onnx/model.onnx"]).expect_err("no weights");
        assert_eq!(error.to_string(), "hf:org/name@main has no safetensors files (it has PyTorch, ONNX weights)");
        assert!(list(&["config.json"]).expect_err("no weights").to_string().contains("no weights at all"));
    }

    #[test]
    fn paths_that_lead_out_stop_everything() {
        for path in
            ["../config.json", "a/../../x.safetensors", "/etc/passwd", "..\\x.json", "\\x", "x\0.bin", "1_a/..", ".."]
        {
            let error = list(&["model.safetensors", path]).expect_err("unsafe");
            assert!(matches!(error, HubError::UnsafePath { .. }), "{path:?}: {error}");
        }
        for path in ["c:x.json", "a\\b.json", "x\n.json", "1_a/x|y.json"] {
            let error = list(&["model.safetensors", path]).expect_err("not a file name everywhere");
            assert!(matches!(error, HubError::UnsafePath { .. }), "{path:?}: {error}");
        }
    }

    #[test]
    fn hashes_are_taken_from_where_they_are_the_files_own() {
        let sha256 = "AB".repeat(32);
        let answer = serde_json::json!({ "sha": COMMIT, "siblings": [
            { "rfilename": "config.json", "size": 5, "blobId": COMMIT },
            { "rfilename": "model.safetensors", "size": 7, "blobId": COMMIT, "lfs": { "sha256": sha256, "size": 7 } },
        ]});
        let model = HubModel::parse("hf:org/name").expect("a name");
        let listing = read(&model, "u", answer.to_string().as_bytes()).expect("lists");
        assert_eq!(listing.commit, COMMIT);
        assert_eq!(listing.files[0].expected(), Expected::GitBlob { hash: COMMIT.into(), size: 5 });
        assert_eq!(listing.files[1].expected(), Expected::Sha256("ab".repeat(32)));
        assert_eq!(listing.files[1].git_blob, None);
    }

    #[test]
    fn answers_that_make_no_sense_are_refused() {
        let model = HubModel::parse("hf:org/name").expect("a name");
        for answer in ["", "[]", "{}", "<html>", r#"{"sha":"main","siblings":[]}"#] {
            assert!(matches!(read(&model, "u", answer.as_bytes()), Err(HubError::BadAnswer { .. })), "{answer}");
        }
        assert!(matches!(list(&["a.safetensors", "a.safetensors"]), Err(HubError::BadAnswer { .. })));
    }

    proptest! {
        #[test]
        fn whatever_is_listed_stays_inside_the_folder(paths in prop::collection::vec("[a-c./\\\\:_1]{1,8}(\\.json)?", 1..5)) {
            let mut paths: Vec<_> = paths.iter().map(String::as_str).collect();
            paths.push("model.safetensors");
            if let Ok(listing) = list(&paths) {
                for file in listing.files {
                    let path = std::path::Path::new(&file.path);
                    prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                }
            }
        }
    }
}
