//! Folders in and out: round trips, tensor cuts, what is shared, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tabpool_content::{
    BlockStore, Directory, DiskStore, ImportError, ImportOptions, Imported, MemoryStore, RefStore, collect_garbage,
    import_files, import_folder, raw_cid,
};

const MIB: usize = 1 << 20;
/// The most that tensors are cut into.
const PIECE: usize = 896 << 10;

fn import(folder: &Path, store: &dyn BlockStore) -> Result<Imported, ImportError> {
    import_folder(folder, store, &ImportOptions::default(), &mut |_| {})
}

fn write(folder: &Path, path: &str, bytes: &[u8]) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().expect("inside the folder")).expect("made");
    fs::write(path, bytes).expect("written");
}

/// Bytes in which no two places look alike, so that equal leaves mean equal tensors.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A safetensors file of byte tensors, in the order given.
fn safetensors(tensors: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let (len, end) = (bytes.len(), data.len());
        entries.push(format!(r#""{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{begin},{end}]}}"#));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    file
}

#[test]
fn a_safetensors_file_is_cut_at_its_tensors_and_reads_back_whole() {
    let (small, exact, large) = (noise(100, 1), noise(PIECE, 2), noise(2 * PIECE + 5, 3));
    let file = safetensors(&[("small", &small), ("none", &[]), ("exact", &exact), ("large", &large)]);
    let store = MemoryStore::new(64 << 20);
    let imported =
        import_files(&[("m.safetensors", &file)], &store, &ImportOptions::default(), &mut |_| {}).expect("imports");

    let folder = Directory::open(&store, &imported.root).expect("opens");
    assert_eq!(folder.read("m.safetensors", 1 << 30).expect("reads"), file);
    let leaves = folder.leaves("m.safetensors").expect("leaves");
    let head = (file.len() - small.len() - exact.len() - large.len()) as u64;
    let lens: Vec<_> = leaves.iter().map(|leaf| leaf.len).collect();
    let piece = PIECE as u64;
    assert_eq!(lens, [head, 100, piece, piece, piece, 5]);
    assert_eq!(leaves[1].cid, raw_cid(&small));
    assert_eq!(leaves[3].cid, raw_cid(&large[..PIECE]));
    assert_eq!(leaves[5].offset + 5, file.len() as u64);
}

#[test]
fn equal_tensors_of_different_files_are_stored_once() {
    let (shared, one, other) = (noise(3 * MIB / 2, 1), noise(5000, 2), noise(7001, 3));
    let first = safetensors(&[("own", &one), ("shared", &shared)]);
    let second = safetensors(&[("another.name", &other), ("shared.too", &shared)]);
    let store = MemoryStore::new(64 << 20);
    let options = ImportOptions::default();
    import_files(&[("a.safetensors", &first)], &store, &options, &mut |_| {}).expect("imports");
    let again = import_files(&[("b.safetensors", &second)], &store, &options, &mut |_| {}).expect("imports");
    // The two leaves of the shared tensor are known; header, own tensor, file node and directory are new.
    assert_eq!((again.blocks_known, again.blocks_new), (2, 4));
    assert!(again.bytes_new < 10_000, "{}", again.bytes_new);
}

#[test]
fn a_safetensors_file_that_lies_is_refused_by_path_and_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = MemoryStore::new(64 << 20);
    let whole = safetensors(&[("a", &noise(5000, 1))]);
    write(folder.path(), "config.json", b"{}");
    for (bytes, expected) in [
        (&whole[..whole.len() - 1], "cut off"),
        (&whole[..20], "only 12 follow"),
        (b"{}", "fewer than the 8"),
        (&u64::MAX.to_le_bytes(), "the format allows"),
    ] {
        write(folder.path(), "sub/model.safetensors", bytes);
        let error = import(folder.path(), &store).expect_err("a bad file");
        let ImportError::Safetensors { path, reason } = &error else { panic!("{error}") };
        assert_eq!(path, "sub/model.safetensors");
        assert!(reason.contains(expected), "{reason}");
        assert!(error.hint().is_some());
    }
    write(folder.path(), "sub/model.safetensors", &whole);
    import(folder.path(), &store).expect("the whole file is fine");
}

#[test]
fn a_folder_on_disk_goes_through_a_disk_store_and_a_name() {
    let home = tempfile::tempdir().expect("a folder");
    let model = home.path().join("model");
    let weights = safetensors(&[("w", &noise(3 * MIB, 1)), ("b", &noise(999, 2))]);
    write(&model, "model.safetensors", &weights);
    write(&model, "config.json", b"{}");
    write(&model, "1_Pooling/config.json", b"{\"mean\":true}");
    write(&model, ".cache/huggingface/lock", b"not the model's");
    write(&model, ".gitattributes", b"not the model's");

    let store = DiskStore::open(home.path().join("data/blocks")).expect("opens");
    let mut seen = Vec::new();
    let mut last = (0, 0);
    let imported = import_folder(&model, &store, &ImportOptions::default(), &mut |progress| {
        assert!(progress.done >= last.0 && progress.file_done <= progress.file_bytes);
        last = (progress.done, progress.total);
        seen.push(progress.file.to_owned());
    })
    .expect("imports");
    assert_eq!(last, (imported.bytes, imported.bytes));
    assert_eq!(seen, ["1_Pooling/config.json", "config.json", "model.safetensors"]);
    assert_eq!(imported.files, 3);

    let refs = RefStore::open(home.path().join("data/refs")).expect("opens");
    refs.set("org/model@main", &imported.root, &store).expect("named");
    let again = import(&model, &store).expect("imports again");
    assert_eq!((again.root, again.blocks_new, again.bytes_new), (imported.root, 0, 0));

    // A new process finds everything by the name.
    let store = DiskStore::open(home.path().join("data/blocks")).expect("opens");
    let root = refs.get("org/model@main").expect("reads").expect("is there");
    let folder = Directory::open(&store, &root).expect("opens");
    assert_eq!(folder.read("model.safetensors", 1 << 30).expect("reads"), weights);
    assert_eq!(folder.list().len(), 3);

    // One flipped bit in one leaf is found, named, and healed by adding the folder again.
    let leaf = folder.leaves("model.safetensors").expect("leaves")[2].cid;
    let mut bytes = fs::read(store.path_of(&leaf)).expect("reads");
    bytes[77] ^= 4;
    fs::write(store.path_of(&leaf), bytes).expect("damaged");
    let error = folder.read("model.safetensors", 1 << 30).expect_err("damaged");
    let cause = std::error::Error::source(&error).expect("the store's word").to_string();
    assert!(cause.contains(&leaf.to_string()) && cause.contains("corrupted"), "{cause}");
    assert_eq!(import(&model, &store).expect("heals").blocks_new, 1);
    assert_eq!(folder.read("model.safetensors", 1 << 30).expect("reads"), weights);

    assert_eq!(collect_garbage(&store, &[root]).expect("collects").removed, 0);
    assert!(refs.remove("org/model@main").expect("removes"));
    let collected = collect_garbage(&store, &[]).expect("collects");
    assert!(collected.removed > 5 && store.list().expect("lists").is_empty());
}

#[test]
fn paths_that_repeat_or_climb_and_folders_past_the_limits_are_refused() {
    let store = MemoryStore::new(MIB as u64);
    let options = ImportOptions::default().max_depth(2).max_files(3);
    let import = |files: &[(&str, &[u8])]| import_files(files, &store, &options, &mut |_| {}).expect_err("refused");
    for path in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\0"] {
        assert!(matches!(import(&[(path, b"x")]), ImportError::BadPath { .. }), "{path:?}");
    }
    assert!(matches!(import(&[("a", b"x"), ("a", b"y")]), ImportError::Duplicate { .. }));
    assert!(matches!(import(&[("a", b"x"), ("a/b", b"y")]), ImportError::Duplicate { .. }));
    assert!(matches!(import(&[("a/b", b"x"), ("a", b"y")]), ImportError::Duplicate { .. }));
    assert!(matches!(import(&[("a/b/c/d", b"x")]), ImportError::TooDeep { limit: 2, .. }));
    let four = [("a", &b"x"[..]), ("b", b"x"), ("c", b"x"), ("d", b"x")];
    assert!(matches!(import(&four), ImportError::TooManyFiles { limit: 3 }));
    let large = vec![0; 2 * MIB];
    assert!(matches!(import(&[("a", &noise(2 * MIB, 1)), ("b", &large)]), ImportError::Store { .. }));
}

#[test]
fn a_file_that_changes_during_the_import_is_refused() {
    for new in [&b"short"[..], b"much longer than before"] {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "a.json", b"{}");
        write(folder.path(), "b.json", b"as before");
        let store = MemoryStore::new(1000);
        let error = import_folder(folder.path(), &store, &ImportOptions::default(), &mut |progress| {
            if progress.file == "a.json" {
                write(folder.path(), "b.json", new);
            }
        })
        .expect_err("changed");
        assert!(matches!(&error, ImportError::Changed { path, expected: 9 } if path == "b.json"), "{error}");
    }
}

#[test]
fn a_directory_too_long_for_one_block_is_refused_rather_than_given_other_cids() {
    let store = MemoryStore::new(64 << 20);
    let names: Vec<_> = (0..3000).map(|number| format!("{number:0>60}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let error = import_files(&files, &store, &ImportOptions::default(), &mut |_| {}).expect_err("too long");
    assert!(matches!(error, ImportError::DirectoryTooLarge { .. }), "{error}");
}

#[cfg(unix)]
mod links {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_hugging_face_cache_is_followed_to_its_blobs() {
        let home = tempfile::tempdir().expect("a folder");
        let cache = home.path().join("models--org--name");
        write(&cache, "blobs/abc", b"{}");
        let snapshot = cache.join("snapshots/0123");
        fs::create_dir_all(&snapshot).expect("made");
        symlink("../../blobs/abc", snapshot.join("config.json")).expect("linked");
        let store = MemoryStore::new(1000);
        let imported = import(&snapshot, &store).expect("imports");
        let folder = Directory::open(&store, &imported.root).expect("opens");
        assert_eq!(folder.read("config.json", 10).expect("reads"), "{}");

        // Only blobs: a neighbouring model is as far away as any other file.
        write(&cache, "refs/main", b"0123");
        symlink("../../refs/main", snapshot.join("main")).expect("linked");
        assert!(matches!(import(&snapshot, &store), Err(ImportError::OutsideFolder { .. })));
    }

    #[test]
    fn links_inside_are_followed_and_links_out_are_refused() {
        let home = tempfile::tempdir().expect("a folder");
        let model = home.path().join("model");
        write(&model, "real/config.json", b"{}");
        symlink("real", model.join("alias")).expect("linked");
        let store = MemoryStore::new(1000);
        let imported = import(&model, &store).expect("imports");
        assert_eq!(imported.files, 2);

        write(home.path(), "secret", b"key");
        symlink("../secret", model.join("notes.txt")).expect("linked");
        let error = import(&model, &store).expect_err("leads out");
        assert!(matches!(&error, ImportError::OutsideFolder { path, .. } if path.ends_with("notes.txt")), "{error}");
        fs::remove_file(model.join("notes.txt")).expect("removed");

        symlink("../..", model.join("real/up")).expect("linked");
        assert!(matches!(import(&model, &store), Err(ImportError::OutsideFolder { .. })));
        fs::remove_file(model.join("real/up")).expect("removed");
        symlink("..", model.join("real/up")).expect("linked");
        assert!(matches!(import(&model, &store), Err(ImportError::Loop { .. })));
        fs::remove_file(model.join("real/up")).expect("removed");

        symlink("nowhere", model.join("dangling")).expect("linked");
        assert!(matches!(import(&model, &store), Err(ImportError::Io { action: "follow", .. })));
    }

    #[test]
    fn folders_that_link_each_other_end_in_bounded_time() {
        let home = tempfile::tempdir().expect("a folder");
        for folder in 0..12 {
            fs::create_dir(home.path().join(folder.to_string())).expect("made");
            for other in (0..12).filter(|other| *other != folder) {
                let link = home.path().join(format!("{folder}/{other}"));
                symlink(format!("../{other}"), link).expect("linked");
            }
        }
        let store = MemoryStore::new(1000);
        let error = import(home.path(), &store).expect_err("it never ends");
        assert!(matches!(error, ImportError::TooManyFiles { .. } | ImportError::Loop { .. }), "{error}");
    }

    #[test]
    fn a_socket_is_not_a_file() {
        let home = tempfile::tempdir().expect("a folder");
        let _socket = std::os::unix::net::UnixListener::bind(home.path().join("socket")).expect("bound");
        let store = MemoryStore::new(1000);
        assert!(matches!(import(home.path(), &store), Err(ImportError::NotAFile { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_trees_survive_the_round_trip(
        files in prop::collection::btree_map("[a-c]{1,2}(/[d-f]{1,2}){0,2}\\.(json|bin)", (0usize..9000, any::<u64>()), 0..12),
        chunk in 1usize..3000,
    ) {
        let files: BTreeMap<_, _> = files.into_iter().map(|(path, (len, seed))| (path, noise(len, seed))).collect();
        let slices: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        let store = MemoryStore::new(64 << 20);
        let options = ImportOptions::default().chunk_bytes(chunk);
        let imported = import_files(&slices, &store, &options, &mut |_| {}).expect("imports");

        let folder = Directory::open(&store, &imported.root).expect("opens");
        let listed: Vec<_> = folder.list().into_iter().map(|entry| (entry.path, entry.size)).collect();
        let expected: Vec<_> = files.iter().map(|(path, bytes)| (path.clone(), bytes.len() as u64)).collect();
        prop_assert_eq!(listed, expected);
        for (path, bytes) in &files {
            prop_assert_eq!(&folder.read(path, u64::MAX).expect("reads"), bytes);
            let (from, to) = (bytes.len() / 3, bytes.len() * 2 / 3);
            let range = folder.read_range(path, from as u64, (to - from) as u64).expect("reads");
            prop_assert_eq!(&range[..], &bytes[from..to]);
        }
        prop_assert_eq!(store.list().expect("lists").len() as u64, imported.blocks_new);
    }

    #[test]
    fn tensor_cuts_never_change_the_bytes(lens in prop::collection::vec(0usize..5000, 0..20), chunk in 1usize..2000) {
        let tensors: Vec<_> =
            lens.iter().enumerate().map(|(i, len)| (format!("t{i}"), noise(*len, i as u64 + 1))).collect();
        let named: Vec<_> = tensors.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let file = safetensors(&named);
        let store = MemoryStore::new(64 << 20);
        let options = ImportOptions::default().chunk_bytes(chunk);
        let imported = import_files(&[("x.safetensors", &file)], &store, &options, &mut |_| {}).expect("imports");
        let folder = Directory::open(&store, &imported.root).expect("opens");
        prop_assert_eq!(folder.read("x.safetensors", u64::MAX).expect("reads"), &file);
        // Every tensor begins a leaf.
        let starts: std::collections::HashSet<_> =
            folder.leaves("x.safetensors").expect("leaves").iter().map(|leaf| leaf.offset).collect();
        let mut at = file.len() - lens.iter().sum::<usize>();
        for len in lens {
            prop_assert!(len == 0 || starts.contains(&(at as u64)));
            at += len;
        }
    }
}
