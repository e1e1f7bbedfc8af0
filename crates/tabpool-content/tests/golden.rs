//! Our CIDs against those of `ipfs-unixfs-importer`, which shares no code with us.
//!
//! `golden/make-unixfs.mjs` made `golden/unixfs.json`; it says how to run it.

use serde::Deserialize;
use tabpool_content::{Directory, ImportOptions, MemoryStore, import_files};

#[derive(Deserialize)]
struct Golden {
    files: Vec<File>,
    trees: Vec<Tree>,
}

#[derive(Deserialize)]
struct File {
    length: usize,
    chunk_size: usize,
    cid: String,
}

#[derive(Deserialize)]
struct Tree {
    files: Vec<TreeFile>,
    cid: String,
}

#[derive(Deserialize)]
struct TreeFile {
    path: String,
    length: usize,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/unixfs.json")).expect("the committed file is whole")
}

/// The same bytes as `sample` in the script.
fn sample(length: usize, seed: u64) -> Vec<u8> {
    (0..length as u64).map(|i| ((i * i + 7 * i + seed) % 251) as u8).collect()
}

#[test]
fn files_have_the_cids_of_the_reference() {
    let golden = golden();
    assert!(golden.files.len() >= 12);
    for file in golden.files {
        let store = MemoryStore::new(64 << 20);
        let options = ImportOptions::default().chunk_bytes(file.chunk_size);
        let bytes = sample(file.length, 0);
        let imported = import_files(&[("f", &bytes)], &store, &options, &mut |_| {}).expect("imports");
        let folder = Directory::open(&store, &imported.root).expect("opens");
        let entry = &folder.list()[0];
        assert_eq!(entry.cid.to_string(), file.cid, "{} bytes in chunks of {}", file.length, file.chunk_size);
        assert_eq!(entry.size, file.length as u64);
        assert_eq!(folder.read("f", u64::MAX).expect("reads"), bytes);
    }
}

#[test]
fn directories_have_the_cids_of_the_reference() {
    let golden = golden();
    assert!(golden.trees.iter().any(|tree| tree.files.iter().any(|file| file.path.contains('/'))));
    for tree in golden.trees {
        let store = MemoryStore::new(64 << 20);
        let files: Vec<_> = tree
            .files
            .iter()
            .enumerate()
            .map(|(seed, file)| (file.path.as_str(), sample(file.length, seed as u64)))
            .collect();
        let slices: Vec<_> = files.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
        let imported = import_files(&slices, &store, &ImportOptions::default(), &mut |_| {}).expect("imports");
        assert_eq!(
            imported.root.to_string(),
            tree.cid,
            "{:?}",
            slices.iter().map(|(path, _)| path).collect::<Vec<_>>()
        );
    }
}
