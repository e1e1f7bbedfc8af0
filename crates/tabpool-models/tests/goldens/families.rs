//! Every family's entry points against its goldens: through a bucket with padding, and as built, before any pass.

use std::collections::HashMap;

use tabpool_content::{Directory, ImportOptions, MemoryStore, import_folder};
use tabpool_models::{Bucket, Dim, EntryPoint, Model};
use tabpool_tensor::Tensor;

use crate::fixture::{Fixture, folder, processor, share_of_tolerance, tensors, with_prefix};

/// Fixture, entry point, and the prefixes of its golden's cases.
const CASES: &[(&str, &str, &[&str])] = &[
    ("vit", "model", &[""]),
    ("vit_classifier", "model", &[""]),
    ("clip", "model", &[""]),
    ("clip", "text", &[""]),
    ("clip", "vision", &[""]),
    ("gpt2", "model", &[""]),
    ("llama", "model", &["case0.", "case1."]),
    ("qwen2", "model", &[""]),
    ("t5", "model", &[""]),
    ("t5", "encoder", &[""]),
    ("whisper", "model", &[""]),
    ("whisper", "encoder", &[""]),
    ("wav2vec2", "model", &[""]),
    ("clap", "model", &[""]),
    ("clap", "text", &[""]),
    ("clap", "audio", &[""]),
    ("heads/bert_sequence", "model", &[""]),
    ("heads/bert_token", "model", &[""]),
    ("heads/bert_answer", "model", &[""]),
    ("heads/bert_words", "model", &[""]),
    ("heads/roberta_sequence", "model", &[""]),
    ("heads/roberta_words", "model", &[""]),
    ("heads/distilbert_sequence", "model", &[""]),
    ("heads/distilbert_words", "model", &[""]),
    ("heads/mpnet_sequence", "model", &[""]),
    ("heads/mpnet_words", "model", &[""]),
    ("deit", "model", &[""]),
    ("deit_teacher", "model", &[""]),
    ("siglip", "model", &[""]),
    ("siglip", "text", &[""]),
    ("siglip", "vision", &[""]),
    ("qwen3", "model", &[""]),
    ("gemma", "model", &[""]),
    ("rotary/linear", "model", &[""]),
    ("rotary/dynamic", "model", &[""]),
    ("rotary/llama3", "model", &[""]),
    ("rotary/yarn", "model", &[""]),
    ("t5_gated", "model", &[""]),
    ("wav2vec2_stable", "model", &[""]),
];

/// The inputs of a case that an entry point takes, and the outputs that it gives.
struct Case<'a> {
    what: String,
    tensors: &'a HashMap<String, Tensor>,
    prefix: &'a str,
    inputs: Vec<(String, Tensor)>,
    outputs: Vec<String>,
}

impl<'a> Case<'a> {
    fn of(what: &str, tensors: &'a HashMap<String, Tensor>, prefix: &'a str, entry: EntryPoint<'_>) -> Self {
        let signature = entry.signature();
        let mut inputs = with_prefix(tensors, &format!("{prefix}input."));
        inputs.retain(|(name, _)| signature.input(name).is_some());
        let outputs: Vec<String> = with_prefix(tensors, &format!("{prefix}output."))
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| signature.output(name).is_some())
            .collect();
        assert!(
            !inputs.is_empty() && !outputs.is_empty(),
            "{what} {prefix}: the golden has nothing of this entry point"
        );
        Self { what: format!("{what} {prefix}{}", entry.name()), tensors, prefix, inputs, outputs }
    }

    fn names(&self) -> Vec<&str> {
        self.outputs.iter().map(String::as_str).collect()
    }

    /// Compares outputs with the golden's, leaving out what the attention mask hides. Gives the worst share.
    fn compare(&self, got: &[(String, Tensor)], entry: EntryPoint<'_>) -> f32 {
        assert_eq!(got.len(), self.outputs.len());
        let mask = self.tensors.get(&format!("{}input.attention_mask", self.prefix));
        let mut worst = 0.0f32;
        for (name, tensor) in got {
            let want = &self.tensors[&format!("{}output.{name}", self.prefix)];
            assert_eq!(tensor.shape(), want.shape(), "{} {name}", self.what);
            let spec = entry.signature().output(name).expect("it was asked for");
            let width: usize = want.shape().dims()[2.min(want.shape().rank())..].iter().product();
            let rows = want.shape()[0];
            let mask = mask.map(|m| m.to_i32().expect("integers"));
            let counts = |i: usize| match (&mask, spec.dims.get(1)) {
                (Some(mask), Some(Dim::Sequence)) => mask[i / width] == 1,
                (Some(mask), Some(Dim::Frames)) => {
                    let (frames, sequence) = (want.shape()[1], mask.len() / rows);
                    let (row, frame) = (i / width / frames, i / width % frames);
                    let real = mask[row * sequence..][..sequence].iter().filter(|&&m| m == 1).count();
                    frame < entry.signature().frames(real)
                }
                _ => true,
            };
            let (got, want) = (tensor.to_f32().expect("floats"), want.to_f32().expect("floats"));
            let share = share_of_tolerance(&got, &want, counts);
            assert!(share <= 1.0, "{}: {name} is off by {share} times the tolerance", self.what);
            worst = worst.max(share);
        }
        worst
    }
}

fn run(fixture: &Fixture, entry: EntryPoint<'_>, case: &Case<'_>) -> Vec<(String, Tensor)> {
    let request = entry.prepare(&case.inputs, &case.outputs).unwrap_or_else(|e| panic!("{}: {e}", case.what));
    let program = entry.program(request.bucket, &case.names()).unwrap_or_else(|e| panic!("{}: {e}", case.what));
    request.crop.apply(fixture.run(&program, &request.tensors)).expect("as the program says")
}

#[test]
fn every_entry_point_gives_its_golden_in_the_bucket_of_the_request() {
    for (name, entry, prefixes) in CASES {
        let (fixture, golden) = (Fixture::open(&folder(name)), tensors(&folder(name).join("golden.safetensors")));
        let entry = fixture.model.entry(entry).unwrap_or_else(|e| panic!("{name}: {e}"));
        for prefix in *prefixes {
            let case = Case::of(name, &golden, prefix, entry);
            let share = case.compare(&run(&fixture, entry, &case), entry);
            eprintln!("{}: {share:.3} of the tolerance", case.what);
        }
    }
}

#[test]
fn every_entry_point_gives_its_golden_before_any_pass() {
    for (name, entry, prefixes) in CASES {
        let (fixture, golden) = (Fixture::open(&folder(name)), tensors(&folder(name).join("golden.safetensors")));
        let weights = floats(&folder(name).join("model.safetensors"));
        let entry = fixture.model.entry(entry).expect("an entry point");
        for prefix in *prefixes {
            let case = Case::of(name, &golden, prefix, entry);
            let request = entry.prepare(&case.inputs, &case.outputs).expect("a good request");
            let graph = entry.graph(request.bucket, &case.names()).expect("a graph");
            let outputs = fixture.run_graph(&graph, &weights, &request.tensors);
            case.compare(&request.crop.apply(outputs).expect("as the graph says"), entry);
        }
    }
}

#[test]
fn every_entry_point_gives_its_golden_on_the_processor() {
    for (name, entry, prefixes) in CASES {
        let (fixture, golden) = (Fixture::open(&folder(name)), tensors(&folder(name).join("golden.safetensors")));
        let (entry, backend) = (fixture.model.entry(entry).expect("an entry point"), processor());
        for prefix in *prefixes {
            let case = Case::of(name, &golden, prefix, entry);
            let request = entry.prepare(&case.inputs, &case.outputs).expect("a good request");
            let program = entry.program(request.bucket, &case.names()).expect("a program");
            let executable = fixture.load(&backend, &program);
            let outputs = pollster::block_on(executable.run(&request.tensors)).expect("it runs").tensors;
            let share = case.compare(&request.crop.apply(outputs).expect("as the program says"), entry);
            eprintln!("{}: {share:.3} of the tolerance", case.what);
        }
    }
}

/// The floating-point tensors of a file.
fn floats(path: &std::path::Path) -> HashMap<String, Tensor> {
    tensors(path).into_iter().filter(|(_, t)| t.to_f32().is_ok()).collect()
}

#[test]
fn every_row_alone_gives_what_it_gives_among_others() {
    for (name, entry, prefixes) in CASES {
        let (fixture, golden) = (Fixture::open(&folder(name)), tensors(&folder(name).join("golden.safetensors")));
        let entry = fixture.model.entry(entry).expect("an entry point");
        let signature = entry.signature();
        let of_one_kind = !signature.inputs.iter().any(|i| i.dims.contains(&Dim::Media));
        for prefix in prefixes.iter().filter(|_| of_one_kind) {
            let case = Case::of(name, &golden, prefix, entry);
            let rows = case.inputs[0].1.shape()[0];
            let together = run(&fixture, entry, &case);
            for row in 0..rows {
                let alone = Case {
                    what: format!("{} row {row}", case.what),
                    inputs: case.inputs.iter().map(|(n, t)| (n.clone(), row_of(t, row))).collect(),
                    outputs: case.outputs.clone(),
                    ..case
                };
                for ((name, got), (_, want)) in run(&fixture, entry, &alone).iter().zip(&together) {
                    let (got, want) = (got.to_f32().expect("floats"), row_of(want, row));
                    let share = share_of_tolerance(&got, &want.to_f32().expect("floats"), |_| true);
                    assert!(share <= 0.1, "{}: {name} is off by {share} times the tolerance", alone.what);
                }
            }
        }
    }
}

/// One row of a tensor.
fn row_of(tensor: &Tensor, row: usize) -> Tensor {
    let mut dims = tensor.shape().dims().to_vec();
    let bytes = tensor.data().len() / dims[0];
    dims[0] = 1;
    Tensor::new(tensor.dtype(), dims, tensor.data().slice(row * bytes..(row + 1) * bytes)).expect("a row")
}

#[test]
fn configurations_of_transformers_4_describe_the_same_models() {
    for name in ["llama", "qwen2", "t5"] {
        let read = |file: &str| std::fs::read(folder(name).join(file)).expect("a fixture's file");
        let (weights, newer, older) = (read("model.safetensors"), read("config.json"), read("config_v4.json"));
        let program = |config: &[u8]| {
            let fixture =
                Fixture::of(&[("config.json", config), ("model.safetensors", &weights)]).expect("a good folder");
            let outputs: Vec<&str> = fixture.model.signature().outputs.iter().map(|o| o.name).collect();
            fixture.model.program(Bucket { batch: 1, sequence: 16 }, &outputs).expect("a program").encode()
        };
        assert_eq!(program(&newer), program(&older), "{name}");
    }
}

#[test]
fn pictures_of_another_size_take_resampled_positions() {
    let opened = |name: &str| Fixture::open(&folder(name));
    let model: Model = opened("vit").model;
    assert!(model.for_pictures(4, 40).expect_err("smaller than a patch").to_string().contains("patches of [8, 8]"));
    let fixture = opened("gpt2");
    assert!(fixture.model.for_pictures(32, 32).expect_err("no pictures").to_string().contains("takes no pictures"));
    let (fixture, golden) = (opened("vit_resampled"), tensors(&folder("vit_resampled").join("golden.safetensors")));
    let Fixture { store, model } = fixture;
    let fixture = Fixture { store, model: model.for_pictures(40, 24).expect("five by three patches") };
    let case = Case::of("vit_resampled", &golden, "", fixture.model.first());
    case.compare(&run(&fixture, fixture.model.first(), &case), fixture.model.first());
    let model = opened("clip").model.for_pictures(48, 40).expect("six by five patches");
    let vision = model.entry("vision").expect("a tower");
    assert_eq!(vision.signature().inputs[0].dims[2..], [Dim::Fixed(48), Dim::Fixed(40)]);
    assert_eq!(vision.signature().output("vision_last_hidden_state").expect("it has one").dims[1], Dim::Fixed(31));
}

#[test]
fn two_towers_are_compared_by_the_numbers_they_learned() {
    for (name, other, logits, exclusive) in [
        ("clip", "image_embeds", "logits_per_image", true),
        ("siglip", "image_embeds", "logits_per_image", false),
        ("clap", "audio_embeds", "logits_per_audio", true),
    ] {
        let store = MemoryStore::new(1 << 26);
        let root = import_folder(&folder(name), &store, &ImportOptions::default(), &mut |_| {}).expect("imports").root;
        let opened = Directory::open(&store, &root).expect("opens");
        let comparison =
            Model::read(&opened).expect("a model").comparison(&opened).expect("reads").expect("two towers");
        assert_eq!(comparison.exclusive, exclusive, "{name}");
        let golden = tensors(&folder(name).join("golden.safetensors"));
        let numbers = |output: &str| golden[&format!("output.{output}")].to_f32().expect("numbers").into_owned();
        let (texts, others) = (numbers("text_embeds"), numbers(other));
        let width = golden["output.text_embeds"].shape().dims()[1];
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let score = |a: &[f32], b: &[f32]| comparison.scale * dot(a, b) + comparison.bias;
        let got: Vec<f32> =
            others.chunks(width).flat_map(|one| texts.chunks(width).map(move |text| score(one, text))).collect();
        assert!(share_of_tolerance(&got, &numbers(logits), |_| true) <= 1.0, "{name}: {got:?}");
    }
    let fixture = Fixture::open(&folder("vit"));
    let root =
        import_folder(&folder("vit"), &fixture.store, &ImportOptions::default(), &mut |_| {}).expect("imports").root;
    let opened = Directory::open(&fixture.store, &root).expect("opens");
    assert_eq!(fixture.model.comparison(&opened).expect("nothing to read"), None);
}

#[test]
fn entry_points_know_which_requests_are_theirs() {
    let taking = |fixture: &str, names: &[&str]| {
        let model = Fixture::open(&folder(fixture)).model;
        model.entries().filter(|entry| entry.takes(names)).map(|entry| entry.name()).collect::<Vec<_>>()
    };
    assert_eq!(taking("clip", &["pixel_values"]), ["vision"]);
    assert_eq!(taking("clip", &["attention_mask", "input_ids"]), ["text"]);
    assert_eq!(taking("clip", &["input_ids", "pixel_values"]), ["model"]);
    assert_eq!(taking("t5", &["input_ids"]), ["encoder"]);
    assert_eq!(taking("t5", &["input_ids", "decoder_input_ids", "attention_mask"]), ["model"]);
    for names in [&["attention_mask"][..], &["input_ids", "input_features"], &[]] {
        assert_eq!(taking("clip", names), [""; 0], "{names:?}");
    }
    let model = Fixture::open(&folder("vit")).model;
    let pictures = |dims: &[usize]| {
        let pixels = Tensor::from_f32(dims, vec![0.0; dims.iter().product()]).expect("fits");
        model.first().other_pictures(&[("pixel_values".to_owned(), pixels)])
    };
    assert_eq!((pictures(&[2, 3, 32, 32]), pictures(&[3, 32, 32])), (None, None));
    assert_eq!((pictures(&[1, 3, 40, 24]), pictures(&[1, 3, 32, 31])), (Some([40, 24]), Some([32, 31])));
    assert_eq!(model.first().other_pictures(&[]), None);
}
