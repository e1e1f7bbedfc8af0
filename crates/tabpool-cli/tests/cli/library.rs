//! `tabpool models`: in, listed, out, from folders and from a hub.

use std::fs;

use crate::hub::Hub;
use crate::program::{Program, fixture};

#[test]
fn a_folder_goes_in_is_listed_and_goes_out_again() {
    let program = Program::new();
    let added = program.run(&["models", "add", &fixture("bert"), "--json"]).ended_with(0);
    assert_eq!(added.error, "", "no noise when piped");
    let added = added.json();
    assert_eq!((&added["name"], &added["architecture"]), (&"bert".into(), &"bert".into()));
    program.run(&["models", "add", &fixture("distilbert"), "--name", "small one"]).ended_with(0);

    let listed = program.run(&["models", "ls", "--json"]).ended_with(0).json();
    let names: Vec<_> = listed.as_array().expect("a list").iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["bert", "small one"]);
    assert_eq!(listed[0]["root"], added["root"]);
    let table = program.run(&["models", "ls"]).ended_with(0).output;
    assert!(table.starts_with("NAME") && table.contains("small one") && !table.contains('\u{1b}'), "{table}");

    let removed = program.run(&["models", "rm", "bert", "--json"]).ended_with(0).json();
    assert!(removed["freed"]["bytes"].as_u64().is_some_and(|bytes| bytes > 700_000), "{removed}");
    let said = program.run(&["models", "rm", "small one"]).ended_with(0).output;
    assert!(said.contains("removed small one\nfreed ") && said.contains("blocks"), "{said}");
    assert_eq!(program.run(&["models", "ls"]).ended_with(0).output, "", "an empty list is empty when piped");
}

#[test]
fn what_is_not_there_or_no_model_is_refused() {
    let program = Program::new();
    program.run(&["models", "rm", "nothing"]).refused_with("there is no model \"nothing\"", "models add");
    program.run(&["models", "add", "/no/such/folder"]).refused_with("/no/such/folder", "hf:org/name");
    program.run(&["models", "add", "hf:org/name/more"]).refused_with("more than one slash", "");
    let folder = program.path("teapot");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("config.json"), r#"{"model_type":"teapot"}"#).expect("written");
    let said = program.run(&["models", "add", &folder.to_string_lossy()]).ended_with(1);
    assert!(said.error.contains("is not a model that can be run") && said.error.contains("teapot"), "{}", said.error);
    fs::write(folder.join("model.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\xff{}").expect("written");
    program.run(&["models", "add", &folder.to_string_lossy()]).refused_with("model.safetensors", "again");
    assert_eq!(program.run(&["models", "ls", "--json"]).ended_with(0).json(), serde_json::json!([]));
}

#[test]
fn a_damaged_block_is_named_and_healed_by_adding_the_model_again() {
    let program = Program::new();
    let added = program.run(&["models", "add", &fixture("bert"), "--json"]).ended_with(0).json();
    let root = added["root"].as_str().expect("a CID").to_owned();
    let shards = fs::read_dir(program.data().join("blocks")).expect("blocks");
    let path = shards.map(|shard| shard.expect("readable").path().join(&root)).find(|path| path.is_file());
    fs::write(path.expect("the root is a file"), b"something else").expect("damaged");

    let listed = program.run(&["models", "ls"]).ended_with(0).output;
    assert!(listed.contains("damaged") && listed.contains("corrupted on disk"), "{listed}");
    let input = format!("{}/golden.safetensors", fixture("bert"));
    let run = ["run", "bert", "-i", &input, "--compare", &input, "--on", "native:cpu"];
    let said = program.run(&run).ended_with(1);
    assert!(said.error.contains("corrupted on disk"), "{}", said.error);
    program.run(&["models", "add", &fixture("bert")]).ended_with(0);
    program.run(&run).ended_with(0);
}

#[test]
fn a_model_comes_from_a_hub_and_goes_on_where_it_was_cut_off() {
    let folder = fixture("bert");
    let hub = Hub::start(folder.as_ref(), Some(200_000));
    let program = Program::new().with("HF_ENDPOINT", format!("http://{}", hub.address));
    let added = program.run(&["models", "add", "hf:org/name", "--json"]).ended_with(0).json();
    assert_eq!(added["name"], "name");
    let from: Vec<usize> =
        hub.asked().iter().filter(|(path, _)| path.ends_with("/model.safetensors")).map(|(_, from)| *from).collect();
    assert!(matches!(from[..], [0, from] if from > 0 && from <= 200_000), "{from:?}");
    assert!(fs::read_dir(program.data().join("downloads")).expect("there").next().is_none(), "only blocks are kept");

    // The same bytes as the folder itself, so everything is known already; only files a hub is not asked for differ.
    let local = program.run(&["models", "add", &folder, "--name", "local", "--json"]).ended_with(0).json();
    assert!(local["bytes_new"].as_u64().is_some_and(|bytes| bytes < 100_000), "{local}");
    let said = program.run(&["models", "add", "hf:org/other"]).ended_with(1);
    assert!(said.error.contains("hint: check the model's name"), "{}", said.error);
}
