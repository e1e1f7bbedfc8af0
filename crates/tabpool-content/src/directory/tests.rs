//! Trees that an importer makes, and trees that only an enemy would make.

use super::*;
use crate::dag_pb::Link;
use crate::{Block, ImportOptions, MemoryStore, dag_pb_cid, import_files, raw_cid};
use proptest::prelude::*;

const ROOMY: u64 = 64 << 20;

fn put(store: &MemoryStore, links: &[(&str, Cid, u64)], unixfs: &UnixFs) -> Cid {
    let links = links
        .iter()
        .map(|(name, cid, size)| Link { cid: *cid, name: (*name).to_owned(), total_size: Some(*size) })
        .collect();
    let block = Block::dag_pb(Node { links, data: unixfs.encode() }.encode().into());
    store.put_block(&block).expect("fits");
    *block.cid()
}

fn leaf(store: &MemoryStore, bytes: &'static [u8]) -> Cid {
    let block = Block::raw(Bytes::from_static(bytes));
    store.put_block(&block).expect("fits");
    *block.cid()
}

/// A directory with one file called `f`.
fn holding(store: &MemoryStore, file: Cid, size: u64) -> Cid {
    put(store, &[("f", file, size)], &UnixFs::directory())
}

fn open_error(store: &MemoryStore, root: &Cid) -> String {
    Directory::open(store, root).expect_err("a bad tree").to_string()
}

fn read_error(store: &MemoryStore, root: &Cid) -> DirectoryError {
    Directory::open(store, root).expect("opens").read("f", u64::MAX).expect_err("a bad file")
}

#[test]
fn ranges_read_only_the_leaves_they_need() {
    let store = MemoryStore::new(ROOMY);
    let options = ImportOptions::default().chunk_bytes(4);
    let text = b"aaaabbbbccccdd";
    let root = import_files(&[("d/f", text)], &store, &options, &mut |_| {}).expect("imports").root;
    store.remove(&raw_cid(b"aaaa")).expect("removes");

    let folder = Directory::open(&store, &root).expect("opens without leaves");
    let leaves = folder.leaves("d/f").expect("known without the leaves");
    assert_eq!(
        leaves.iter().map(|leaf| (leaf.offset, leaf.len)).collect::<Vec<_>>(),
        [(0, 4), (4, 4), (8, 4), (12, 2)]
    );
    assert_eq!(leaves[1].cid, raw_cid(b"bbbb"));
    for (offset, len) in [(4, 10), (5, 2), (7, 2), (7, 6), (13, 1), (14, 0), (6, 0)] {
        let bytes = folder.read_range("d/f", offset as u64, len as u64).expect("its leaves are here");
        assert_eq!(bytes, &text[offset..offset + len]);
    }
    assert!(matches!(folder.read_range("d/f", 3, 2), Err(DirectoryError::Missing { .. })));
    assert!(matches!(folder.read_range("d/f", 14, 1), Err(DirectoryError::OutOfRange { size: 14, .. })));
    assert!(matches!(folder.read_range("d/f", u64::MAX, 2), Err(DirectoryError::OutOfRange { .. })));
    assert!(matches!(folder.read("d/f", 13), Err(DirectoryError::TooLarge { size: 14, limit: 13, .. })));
    assert!(matches!(folder.read("f", 13), Err(DirectoryError::NotFound { .. })));
}

#[test]
fn bytes_inside_nodes_are_read_as_other_importers_write_them() {
    let store = MemoryStore::new(ROOMY);
    let small = UnixFs { data: b"small".to_vec(), file_size: Some(5), ..UnixFs::file(vec![]) };
    let small = put(&store, &[], &small);
    let old_leaf = UnixFs { kind: Kind::Raw, data: b"leaf".to_vec(), file_size: Some(4), block_sizes: vec![] };
    let old_leaf = put(&store, &[], &old_leaf);
    let mixed = UnixFs { data: b"own ".to_vec(), file_size: Some(12), ..UnixFs::file(vec![4, 4]) };
    let raw = leaf(&store, b" raw");
    let mixed = put(&store, &[("", old_leaf, 12), ("", raw, 4)], &mixed);
    let root = put(&store, &[("mixed", mixed, 60), ("small", small, 13)], &UnixFs::directory());

    let folder = Directory::open(&store, &root).expect("opens");
    assert_eq!(folder.read("small", 5).expect("reads"), "small");
    assert_eq!(folder.read("mixed", 12).expect("reads"), "own leaf raw");
    assert_eq!(folder.read_range("mixed", 2, 8).expect("reads"), "n leaf r");
    assert!(matches!(folder.leaves("mixed"), Err(DirectoryError::Unsupported { .. })));
}

#[test]
fn sizes_that_lie_are_found() {
    let store = MemoryStore::new(ROOMY);
    let four = leaf(&store, b"four");

    let lying_link = holding(&store, four, 5);
    assert!(matches!(read_error(&store, &lying_link), DirectoryError::SizeLie { claimed: 5, actual: 4, .. }));

    let file = put(&store, &[("", four, 4), ("", four, 4)], &UnixFs::file(vec![4, 1 << 40]));
    let root = holding(&store, file, 8);
    assert!(matches!(read_error(&store, &root), DirectoryError::SizeLie { actual: 4, .. }));

    let inner = put(&store, &[("", four, 4)], &UnixFs::file(vec![4]));
    let file = put(&store, &[("", inner, 4)], &UnixFs::file(vec![3]));
    let root = holding(&store, file, 8);
    assert!(matches!(read_error(&store, &root), DirectoryError::SizeLie { claimed: 3, actual: 4, .. }));

    let sum = UnixFs { file_size: Some(9), ..UnixFs::file(vec![4]) };
    let file = put(&store, &[("", four, 4)], &sum);
    assert!(open_error(&store, &holding(&store, file, 8)).contains("should hold 9 bytes of the file, but holds 4"));

    let overflow = UnixFs { file_size: Some(3), block_sizes: vec![u64::MAX, 4], ..UnixFs::file(vec![]) };
    let file = put(&store, &[("", four, 4), ("", four, 4)], &overflow);
    assert!(open_error(&store, &holding(&store, file, 8)).contains("more than 64 bits"));

    let count = put(&store, &[("", four, 4)], &UnixFs::file(vec![4, 4]));
    assert!(open_error(&store, &holding(&store, count, 8)).contains("1 links and sizes for 2"));
}

#[test]
fn small_trees_that_unfold_into_endless_ones_end_in_bounded_time() {
    let store = MemoryStore::new(ROOMY);
    // Each level links the one below twice: 2^30 visits if nobody counted, at a depth that is allowed.
    let mut file = leaf(&store, b"x");
    let mut size = 1;
    for _ in 0..30 {
        file = put(&store, &[("", file, 1), ("", file, 1)], &UnixFs::file(vec![size, size]));
        size *= 2;
    }
    let error = read_error(&store, &holding(&store, file, 1));
    assert!(matches!(error, DirectoryError::Limit { what: "nodes", .. }), "{error}");

    let mut file = leaf(&store, b"x");
    for _ in 0..=MAX_DEPTH + 1 {
        file = put(&store, &[("", file, 1)], &UnixFs::file(vec![1]));
    }
    let error = read_error(&store, &holding(&store, file, 1));
    assert!(matches!(error, DirectoryError::Limit { what: "levels of nodes", .. }), "{error}");

    let none = put(&store, &[], &UnixFs::file(vec![]));
    let one = leaf(&store, b"x");
    let file = put(&store, &[("", none, 1), ("", one, 1)], &UnixFs::file(vec![0, 1]));
    let error = read_error(&store, &holding(&store, file, 1)).to_string();
    assert!(error.contains("holds no bytes"), "{error}");

    let mut folder = put(&store, &[], &UnixFs::directory());
    for _ in 0..20 {
        folder = put(&store, &[("a", folder, 1), ("b", folder, 1)], &UnixFs::directory());
    }
    assert!(open_error(&store, &folder).contains("more than 100000 files and folders"));

    let mut folder = put(&store, &[], &UnixFs::directory());
    for _ in 0..=MAX_DEPTH + 1 {
        folder = put(&store, &[("a", folder, 1)], &UnixFs::directory());
    }
    assert!(open_error(&store, &folder).contains("folders above it"));
}

#[test]
fn names_that_lead_elsewhere_or_occur_twice_are_refused() {
    let store = MemoryStore::new(ROOMY);
    let file = leaf(&store, b"x");
    for name in ["", ".", "..", "a/b", "../a", "a\\b", "a\0"] {
        let root = put(&store, &[(name, file, 1)], &UnixFs::directory());
        assert!(open_error(&store, &root).contains("cannot be a file's name"), "{name:?}");
    }
    let root = put(&store, &[("a", file, 1), ("a", file, 1)], &UnixFs::directory());
    assert!(open_error(&store, &root).contains("it lists \"a\" twice"));
}

#[test]
fn what_is_not_a_directory_of_files_is_refused_by_name() {
    let store = MemoryStore::new(ROOMY);
    let file = put(&store, &[], &UnixFs::file(vec![]));
    assert!(open_error(&store, &file).contains("is a file, which is not supported"));
    assert!(open_error(&store, &leaf(&store, b"x")).contains("where a dag-pb node belongs"));
    assert!(open_error(&store, &dag_pb_cid(b"elsewhere")).contains("is not in the store"));
    for kind in [Kind::ShardedDirectory, Kind::Symlink, Kind::Metadata] {
        let odd = put(&store, &[], &UnixFs { kind, ..UnixFs::directory() });
        let error = open_error(&store, &holding(&store, odd, 1));
        assert!(error.contains(&format!("\"f\" is {}", kind.name())), "{error}");
    }
    let folder = put(&store, &[], &UnixFs::directory());
    let file = put(&store, &[("", folder, 1)], &UnixFs::file(vec![1]));
    let error = read_error(&store, &holding(&store, file, 1)).to_string();
    assert!(error.contains("a directory inside a file"), "{error}");
}

proptest! {
    #[test]
    fn junk_nodes_never_panic(junk: Vec<u8>, data: Vec<u8>, sizes in prop::collection::vec(any::<u64>(), 0..4)) {
        let store = MemoryStore::new(ROOMY);
        let junk = Block::dag_pb(junk.into());
        store.put_block(&junk).expect("fits");
        let odd = Node { links: vec![], data }.encode();
        let odd = Block::dag_pb(odd.into());
        store.put_block(&odd).expect("fits");
        let file = UnixFs { file_size: None, block_sizes: sizes.clone(), ..UnixFs::file(vec![]) };
        let links: Vec<_> = sizes.iter().map(|size| ("", *odd.cid(), *size)).collect();
        let file = put(&store, &links, &file);
        for cid in [*junk.cid(), *odd.cid(), file] {
            let _ = Directory::open(&store, &cid);
            if let Ok(folder) = Directory::open(&store, &holding(&store, cid, 3)) {
                let _ = folder.read("f", 1 << 20);
                let _ = folder.leaves("f");
                let _ = folder.read_range("f", 1, 2);
            }
        }
    }
}
