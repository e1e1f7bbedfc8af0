//! `tabpool run` on the native worker, against what PyTorch computed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::program::{Program, fixture};

/// Writes a file with one tensor of small integers.
fn tensors(program: &Program, name: &str, tensor: &str, dtype: Dtype, shape: &[usize]) -> String {
    let path = program.path(name);
    let bytes = vec![0u8; shape.iter().product::<usize>() * dtype.bitsize() / 8];
    let view = TensorView::new(dtype, shape.to_vec(), &bytes).expect("fits");
    fs::write(&path, safetensors::serialize([(tensor, view)], None).expect("serialises")).expect("written");
    path.to_string_lossy().into_owned()
}

#[test]
fn a_models_outputs_are_those_of_the_reference_and_are_written_under_its_names() {
    let program = Program::new();
    let golden = fixture("bert/golden.safetensors");
    let out = program.path("out.safetensors").to_string_lossy().into_owned();
    let model = fixture("bert");
    let arguments = ["run", &model, "-i", &golden, "-o", &out, "--compare", &golden, "--on", "native:cpu", "--json"];
    let said = program.run(&arguments).ended_with(0);
    assert_eq!(said.error, "", "no noise when piped");
    let json = said.json();
    assert_eq!(
        (&json["api"], &json["worker"]["kind"], &json["within_tolerance"]),
        (&"cpu".into(), &"native".into(), &true.into())
    );
    let outputs = json["outputs"].as_array().expect("a list");
    assert_eq!(outputs.len(), 2);
    for output in outputs {
        let worst = output["comparison"]["worst"].as_f64().expect("a number");
        assert!(worst < 1e-4 && output["comparison"]["values"].as_u64() > Some(0), "{output}");
    }
    assert!(outputs[0]["comparison"]["masked"].as_u64() > Some(0), "the fixture has padding: {json}");
    let written = fs::read(&out).expect("written");
    let written = SafeTensors::deserialize(&written).expect("safetensors");
    assert_eq!(written.tensor("last_hidden_state").expect("there").shape(), [3, 35, 64]);

    // A tolerance that no arithmetic keeps: the same numbers, judged otherwise.
    let strict = ["run", &model, "-i", &golden, "--compare", &golden, "--tolerance", "0", "--on", "native:cpu"];
    let said = program.run(&strict).ended_with(1);
    assert!(said.output.contains("BEYOND tolerance") && said.error.is_empty(), "{said:?}");
    let chosen = ["run", &model, "-i", &golden, "-o", &out, "--outputs", "pooler_output", "--on", "native:cpu"];
    let said = program.run(&chosen).ended_with(0);
    assert!(said.output.contains("pooler_output") && !said.output.contains("last_hidden_state"), "{}", said.output);
}

/// The folders of the fixtures that hold a model, those in folders of their kind too.
fn models() -> Vec<String> {
    let root = fixture("");
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(&root)];
    while let Some(folder) = folders.pop() {
        if folder.join("config.json").is_file() {
            found.push(folder.strip_prefix(&root).expect("below it").to_string_lossy().into_owned());
        } else {
            let entries = fs::read_dir(&folder).expect("lists").map(|entry| entry.expect("an entry").path());
            folders.extend(entries.filter(|path| path.is_dir()));
        }
    }
    found.sort();
    found
}

/// The cases of a reference file, `None` for one without a name, and all that comes out.
fn cases(golden: &str) -> BTreeMap<Option<String>, BTreeSet<String>> {
    let bytes = fs::read(golden).expect("a fixture");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut cases: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for name in file.names() {
        if let Some((case, output)) = name.split_once("output.") {
            let case = (!case.is_empty()).then(|| case.trim_end_matches('.').to_owned());
            cases.entry(case).or_default().insert(output.to_owned());
        }
    }
    cases
}

#[test]
fn every_entry_point_of_every_fixture_agrees_with_its_reference() {
    let program = Program::new();
    let library = tabpool::Library::open(program.data()).expect("opens");
    let names = models();
    assert!(names.len() >= 37, "{names:?}");
    for name in names {
        let (model, golden) = (fixture(&name), fixture(&format!("{name}/golden.safetensors")));
        let root = library.resolve(&model, &mut |_| {}).expect("a model").root;
        let opened = library.open_model(&root).expect("opens");
        for (case, mut left) in cases(&golden) {
            for (position, entry) in opened.entries().enumerate() {
                let mut arguments =
                    vec!["run", &model, "-i", &golden, "--compare", &golden, "--on", "native:cpu", "--json"];
                if let Some(case) = &case {
                    arguments.extend(["--case", case]);
                }
                if position > 0 {
                    arguments.extend(["--entry", entry.name()]);
                }
                let json = program.run(&arguments).ended_with(0).json();
                let what = (&json["within_tolerance"], &json["entry"]);
                assert_eq!(what, (&true.into(), &entry.name().into()), "{arguments:?}: {json}");
                for output in json["outputs"].as_array().expect("a list") {
                    if output["comparison"]["values"].as_u64() > Some(0) {
                        left.remove(output["name"].as_str().expect("a name"));
                    }
                }
            }
            assert!(left.is_empty(), "{name}: nothing was compared with {left:?}");
        }
    }
}

#[test]
fn parts_of_a_model_are_run_where_the_inputs_are_theirs_alone_or_by_name() {
    let program = Program::new();
    let clip = fixture("clip");
    let out = program.path("out.safetensors").to_string_lossy().into_owned();
    let run = |input: &str, more: &[&str]| {
        let arguments = [&["run", &clip, "-i", input, "-o", &out, "--on", "native:cpu", "--json"], more].concat();
        program.run(&arguments)
    };
    let ids = tensors(&program, "ids", "input_ids", Dtype::I64, &[2, 5]);
    let json = run(&ids, &[]).ended_with(0).json();
    assert_eq!((&json["entry"], &json["outputs"][0]["name"]), (&"text".into(), &"text_embeds".into()));
    // Three patches by five where the model was made for sixteen.
    let picture = tensors(&program, "picture", "pixel_values", Dtype::F32, &[1, 3, 24, 40]);
    let json = run(&picture, &[]).ended_with(0).json();
    let hidden = json["outputs"].as_array().expect("a list").iter().find(|o| o["name"] == "vision_last_hidden_state");
    assert_eq!(json["entry"], "vision");
    assert_eq!(hidden.expect("an output")["shape"][1], 16);
    let said = program.run(&["run", &clip, "-i", &ids, "-o", &out, "--on", "native:cpu"]).ended_with(0);
    assert!(said.output.starts_with("clip (text) on native"), "{}", said.output);

    let golden = fixture("clip/golden.safetensors");
    run(&golden, &["--entry", "tail"]).refused_with("no entry point \"tail\"; it has model, text, vision", "");
    run(&picture, &["--entry", "text"]).refused_with("input \"input_ids\" is missing", "");
    run(&golden, &["--entry", "text", "--outputs", "image_embeds"]).refused_with("no output \"image_embeds\"", "");
    let unknown = tensors(&program, "unknown", "sound", Dtype::F32, &[1, 4]);
    run(&unknown, &[]).refused_with("the model has no input \"sound\"", "text, vision; choose one with --entry");
    run(&unknown, &["--entry", "text"]).refused_with("the model has no input \"sound\"; it takes input_ids", "");
    let small = tensors(&program, "small", "pixel_values", Dtype::F32, &[1, 3, 4, 40]);
    run(&small, &[]).refused_with("small does not fit clip: pictures of [4, 40] were asked for", "");
}

#[test]
fn wrong_inputs_are_refused_before_anything_starts() {
    let program = Program::new();
    let model = fixture("bert");
    let out = program.path("out.safetensors").to_string_lossy().into_owned();
    let golden = fixture("bert/golden.safetensors");
    let refused = |input: &str, more: &[&str], error: &str, hint: &str| {
        let arguments = [&["run", &model, "--input", input, "--output", &out, "--on", "native:cpu"], more].concat();
        program.run(&arguments).refused_with(error, hint);
    };
    let wrong_dtype = tensors(&program, "dtype", "input_ids", Dtype::F32, &[1, 4]);
    refused(&wrong_dtype, &[], "input \"input_ids\": f32 given, i64 or i32 wanted", "");
    let wrong_shape = tensors(&program, "shape", "input.input_ids", Dtype::I64, &[4]);
    refused(&wrong_shape, &[], "input \"input_ids\": shape [4]", "");
    let unknown = tensors(&program, "name", "pixel_values", Dtype::I64, &[1, 4]);
    refused(&unknown, &[], "the model has no input \"pixel_values\"", "");
    let outputs_only = tensors(&program, "outputs", "output.x", Dtype::F32, &[1]);
    refused(&outputs_only, &[], "holds no input tensors", "input_ids");
    let too_long = tensors(&program, "long", "input_ids", Dtype::I64, &[1, 100_000]);
    refused(&too_long, &[], "100000 tokens is too long", "");
    let odd = tensors(&program, "odd", "input_ids", Dtype::F8_E4M3, &[1, 4]);
    refused(&odd, &[], "not one that models take", "");
    refused("/no/such/file", &[], "cannot open /no/such/file", "");
    refused(&golden, &["--outputs", "logits"], "no output \"logits\"", "");
    refused(&golden, &["--case", "x"], "has no cases", "");
    refused(&golden, &["--compare", &wrong_dtype], "\"input_ids\", which is no output", "--outputs");
    refused(&fixture("minilm/golden.safetensors"), &[], "several cases", "--case");
    let truncated = program.path("truncated");
    let bytes = fs::read(&golden).expect("a fixture");
    fs::write(&truncated, &bytes[..bytes.len() / 2]).expect("written");
    refused(&truncated.to_string_lossy(), &[], "is not a valid safetensors file", "save_file");
    assert!(!program.path("out.safetensors").exists() && !program.data().join("metrics.duckdb").exists());
}

#[test]
fn what_runs_is_measured_and_reported() {
    let program = Program::new();
    let golden = fixture("bert/golden.safetensors");
    let arguments = ["run", &fixture("bert"), "-i", &golden, "--compare", &golden, "--on", "native:cpu"];
    program.run(&arguments).ended_with(0);
    let report = program.run(&["report", "--format", "json", "--since", "1h", "--model", "bert"]).ended_with(0).json();
    assert_eq!((&report["totals"]["requests"], &report["latency"][0]["browser"]), (&1.into(), &"native".into()));
    let nothing = program.run(&["report", "--format", "json", "--model", "other"]).ended_with(0).json();
    assert_eq!(nothing["totals"]["requests"], 0);
    assert!(program.run(&["report"]).ended_with(0).output.contains("bert"));
}
