//! Fixture folders in a memory store.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tabpool_content::{Cid, Directory, ImportOptions, MemoryStore, import_files, import_folder};

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A path among the fixtures.
pub(crate) fn fixture(path: &str) -> PathBuf {
    repository().join("tests/fixtures").join(path)
}

/// A fixture's JSON file.
pub(crate) fn json(path: &str) -> Value {
    let text = std::fs::read_to_string(fixture(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A list of numbers.
pub(crate) fn numbers(value: &Value) -> Vec<u32> {
    let number = |v: &Value| u32::try_from(v.as_u64().expect("a number")).expect("an id");
    value.as_array().expect("a list").iter().map(number).collect()
}

/// A folder in a memory store.
pub(crate) struct Folder {
    pub(crate) store: MemoryStore,
    pub(crate) root: Cid,
}

impl Folder {
    pub(crate) fn read(path: &Path) -> Self {
        let store = MemoryStore::new(1 << 30);
        let imported = import_folder(path, &store, &ImportOptions::default(), &mut |_| {})
            .unwrap_or_else(|e| panic!("{} is imported: {e}", path.display()));
        Self { store, root: imported.root }
    }

    pub(crate) fn of(files: &[(&str, &[u8])]) -> Self {
        let store = MemoryStore::new(1 << 30);
        let imported = import_files(files, &store, &ImportOptions::default(), &mut |_| {}).expect("files are imported");
        Self { store, root: imported.root }
    }

    /// The files of a model fixture, some of them replaced or added.
    pub(crate) fn with(model: &str, changes: &[(&str, &[u8])]) -> Self {
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for entry in std::fs::read_dir(fixture(model)).expect("a fixture") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_str().expect("Unicode").to_owned();
            if !changes.iter().any(|(changed, _)| *changed == name) {
                files.push((name, std::fs::read(&path).expect("a file")));
            }
        }
        // Empty bytes stand for a file that is to be absent.
        files.extend(changes.iter().filter(|(_, b)| !b.is_empty()).map(|(n, b)| ((*n).to_owned(), b.to_vec())));
        Self::of(&files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect::<Vec<_>>())
    }

    pub(crate) fn open(&self) -> Directory<'_> {
        Directory::open(&self.store, &self.root).expect("a directory")
    }
}
