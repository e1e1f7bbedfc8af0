//! The library on real folders: the reference models of this repository.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Freed, Library, LibraryError, Stage, download_folder, folder_name, hub_name};
use tabpool_hub::HubModel;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

fn library() -> (tempfile::TempDir, Library) {
    let data = tempfile::tempdir().expect("a temporary folder");
    let library = Library::open(data.path()).expect("opens");
    (data, library)
}

#[test]
fn a_folder_is_added_listed_found_again_and_removed_with_its_blocks() {
    let (_data, library) = library();
    let mut last = None;
    let added = library
        .add_folder(&fixture("bert"), None, &mut |at| {
            assert_eq!(at.stage, Stage::Storing);
            last = Some((at.done, at.total));
        })
        .expect("a model");
    assert_eq!((added.name.as_str(), added.architecture.as_str()), ("bert", "bert"));
    assert!(added.bytes_new > 700_000 && added.replaced.is_none(), "{added:?}");
    assert_eq!(last, Some((added.bytes, added.bytes)), "progress ends at the whole");

    let again = library.add_folder(&fixture("bert"), Some("copy"), &mut |_| {}).expect("a model");
    assert_eq!((again.root, again.bytes_new), (added.root, 0), "equal bytes are stored once");
    let listed = library.list().expect("lists");
    assert_eq!(listed.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["bert", "copy"]);
    assert_eq!(listed[0].summary.as_ref().expect("whole").bytes, added.bytes);
    assert_eq!(library.resolve("copy", &mut |_| {}).expect("known").root, added.root);

    library.remove("bert").expect("known");
    assert_eq!(library.collect().expect("collects"), Freed::Blocks { blocks: 0, bytes: 0 }, "the copy needs them");
    library.remove("copy").expect("known");
    let Freed::Blocks { blocks, bytes } = library.collect().expect("collects") else { panic!("nobody uses it") };
    // Directory nodes add a little to the files.
    assert!(blocks > 3 && bytes >= added.bytes_new, "{blocks} blocks, {bytes} bytes");
}

#[test]
fn blocks_in_use_are_not_collected() {
    let (_data, library) = library();
    let in_use = library.in_use().expect("locks");
    let found = library.resolve(&fixture("distilbert").to_string_lossy(), &mut |_| {}).expect("a folder");
    assert_eq!(found.name, "distilbert");
    assert_eq!(library.collect().expect("asks"), Freed::InUse);
    library.open_model(&found.root).expect("still there");
    drop(in_use);
    assert!(matches!(library.collect().expect("collects"), Freed::Blocks { blocks, .. } if blocks > 0));
    assert!(library.open_model(&found.root).is_err(), "an import without a name is garbage in the end");
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let (_data, library) = library();
    let error = library.resolve("nothing", &mut |_| {}).expect_err("unknown");
    assert_eq!(error.to_string(), "there is no model \"nothing\"");
    assert!(error.hint().is_some_and(|hint| hint.contains("models add hf:")));
    library.add_folder(&fixture("bert"), Some("mine"), &mut |_| {}).expect("a model");
    let error = library.remove("nothing").expect_err("unknown");
    assert!(error.hint().is_some_and(|hint| hint.contains("known are mine")), "{error:?}");
    let error = library.resolve("hf:org/name", &mut |_| {}).expect_err("not added yet");
    assert_eq!(error.hint().as_deref(), Some("add it first: tabpool models add hf:org/name"));
}

#[test]
fn a_folder_without_a_model_gets_no_name() {
    let (_data, library) = library();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (config, expected) in [("{}", "model_type"), (r#"{"model_type":"teapot"}"#, "teapot")] {
        fs::write(folder.path().join("config.json"), config).expect("written");
        let error = library.add_folder(folder.path(), Some("teapot"), &mut |_| {}).expect_err("no model");
        assert!(matches!(error, LibraryError::Model { .. }), "{error:?}");
        assert!(super::chain(&error).contains(expected), "{}", super::chain(&error));
    }
    assert!(library.list().expect("lists").is_empty());
    let error = library.add_folder(&folder.path().join("absent"), None, &mut |_| {}).expect_err("no folder");
    assert!(matches!(error, LibraryError::Folder { .. }), "{error:?}");
}

#[test]
fn a_damaged_model_is_listed_with_its_fault() {
    let (_data, library) = library();
    let added = library.add_folder(&fixture("bert"), None, &mut |_| {}).expect("a model");
    fs::write(library.store().path_of(&added.root), b"something else").expect("damaged");
    let listed = library.list().expect("lists");
    let fault = listed[0].summary.as_ref().expect_err("damaged");
    assert!(fault.contains("corrupted on disk"), "{fault}");
}

#[test]
fn names_come_from_folders_caches_and_repositories() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let snapshot = data.path().join("models--org--some-model/snapshots/0123abcd");
    fs::create_dir_all(&snapshot).expect("made");
    assert_eq!(folder_name(&snapshot).expect("a name"), "some-model");
    assert_eq!(folder_name(&snapshot.join("../0123abcd/..")).expect("a name"), "snapshots");
    let hub = |text: &str| text.parse::<HubModel>().expect("a name");
    assert_eq!(hub_name(&hub("hf:org/name")), "name");
    assert_eq!(hub_name(&hub("hf:org/name@v1")), "name@v1");
    assert_eq!(download_folder(&hub("hf:org/name@refs/pr/1")), "org+name@refs+pr+1");
}
