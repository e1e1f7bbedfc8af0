//! The published all-MiniLM-L6-v2, with the ids of its golden's sentences. `cargo xtask setup` fetches the model.

use tabpool_models::{Absent, Bucket, Dim, Model};
use tabpool_tensor::Tensor;

use crate::fixture::{Fixture, folder, repository, share_of_tolerance, tensors};

/// The ids of a sentence and its embedding.
type Sentence = (Vec<i64>, Vec<f32>);

fn sentences() -> Vec<Sentence> {
    let text = std::fs::read_to_string(folder("minilm").join("golden.json")).expect("the golden is in the repository");
    let golden: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let list = golden["sentences"].as_array().expect("a list");
    list.iter()
        .map(|s| {
            let ids = s["input_ids"].as_array().expect("ids").iter().map(|v| v.as_i64().expect("an id")).collect();
            let embedding = s["embedding"].as_array().expect("numbers").iter();
            #[expect(clippy::cast_possible_truncation, reason = "the golden was computed in f32")]
            let embedding = embedding.map(|v| v.as_f64().expect("a number") as f32).collect();
            (ids, embedding)
        })
        .collect()
}

fn minilm() -> Option<Fixture> {
    let path = repository().join(".tools/models/all-MiniLM-L6-v2");
    if path.join("model.safetensors").exists() {
        return Some(Fixture::open(&path));
    }
    eprintln!("left out: {} is not there; `cargo xtask setup` fetches it", path.display());
    None
}

#[test]
fn minilm_describes_itself() {
    let Some(fixture) = minilm() else { return };
    let model: &Model = &fixture.model;
    assert_eq!((model.architecture(), model.max_sequence(), model.max_batch()), ("bert", 512, 32));
    let inputs: Vec<_> = model.signature().inputs.iter().map(|i| (i.name, i.range.clone(), i.default)).collect();
    assert_eq!(
        inputs,
        [
            ("input_ids", 0..30522, None),
            ("attention_mask", 0..2, Some(Absent::Value(1))),
            ("token_type_ids", 0..2, Some(Absent::Value(0)))
        ]
    );
    let embedding = model.signature().output("sentence_embedding").expect("every encoder has one");
    assert_eq!(embedding.dims, [Dim::Batch, Dim::Fixed(384)]);
    let program = model.program(Bucket { batch: 1, sequence: 128 }, &["sentence_embedding"]).expect("a program");
    // The pooler's 384 x 384 and bias stay behind; everything else of the file is needed.
    assert_eq!(program.weight_bytes(), 90_852_864 - 4 * 384 * 385);
    assert!(program.encode().len() < 32 << 10, "{} bytes", program.encode().len());
}

#[test]
fn minilm_embeds_sentences_together_and_cuts_them_apart() {
    let Some(fixture) = minilm() else { return };
    let sentences: Vec<Sentence> = sentences().into_iter().filter(|(ids, _)| ids.len() <= 16).take(4).collect();
    let longest = sentences.iter().map(|(ids, _)| ids.len()).max().expect("some");
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for (sentence, _) in &sentences {
        ids.extend((0..longest).map(|i| sentence.get(i).copied().unwrap_or(0)));
        mask.extend((0..longest).map(|i| i64::from(i < sentence.len())));
    }
    let shape = [sentences.len(), longest];
    let inputs = [
        ("attention_mask".to_owned(), Tensor::from_i64(shape, mask).expect("fits")),
        ("input_ids".to_owned(), Tensor::from_i64(shape, ids).expect("fits")),
    ];
    let request = fixture.model.prepare(&inputs, &["sentence_embedding".to_owned()]).expect("a good request");
    assert_eq!(request.bucket, Bucket { batch: 4, sequence: 16 });
    let program = fixture.model.program(request.bucket, &["sentence_embedding"]).expect("a program");
    let outputs = request.crop.apply(fixture.run(&program, &request.tensors)).expect("as the program says");
    let got = outputs[0].1.to_f32().expect("floats");
    for (row, (ids, want)) in sentences.iter().enumerate() {
        let share = share_of_tolerance(&got[row * 384..][..384], want, |_| true);
        assert!(share <= 1.0, "sentence of {} tokens is off by {share} times the tolerance", ids.len());
    }
}

#[test]
fn minilm_gives_the_golden_hidden_states() {
    let Some(fixture) = minilm() else { return };
    let golden = tensors(&folder("minilm").join("golden.safetensors"));
    let inputs = [("input_ids".to_owned(), golden["sentence1.input.input_ids"].clone())];
    let request = fixture.model.prepare(&inputs, &["last_hidden_state".to_owned()]).expect("a good request");
    let program = fixture.model.program(request.bucket, &["last_hidden_state"]).expect("a program");
    let outputs = request.crop.apply(fixture.run(&program, &request.tensors)).expect("as the program says");
    let want = golden["sentence1.output.last_hidden_state"].to_f32().expect("floats");
    let share = share_of_tolerance(&outputs[0].1.to_f32().expect("floats"), &want, |_| true);
    assert!(share <= 1.0, "off by {share} times the tolerance");
}
