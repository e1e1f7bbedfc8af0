//! The published all-MiniLM-L6-v2, from text to similarity. `cargo xtask setup` fetches the model.

use tabpool_content::{BlockStore, Cid};
use tabpool_graph::{Program, ValueId};
use tabpool_models::Model;
use tabpool_pipelines::{TextEncoder, similarity_matrix};
use tabpool_tensor::Tensor;

use crate::folder::{Folder, json, numbers, repository};

fn minilm() -> Option<Folder> {
    let path = repository().join(".tools/models/all-MiniLM-L6-v2");
    if path.join("model.safetensors").exists() {
        return Some(Folder::read(&path));
    }
    eprintln!("left out: {} is not there; `cargo xtask setup` fetches it", path.display());
    None
}

fn run(folder: &Folder, program: &Program, inputs: &[Tensor]) -> Vec<Tensor> {
    let graph = program.graph();
    let weight = |id: ValueId| {
        let weight = graph.weights().iter().find(|w| w.value == id)?;
        let block = |b: &tabpool_graph::BlockRef| {
            let cid = Cid::try_from(&*b.cid).expect("a binary CID");
            folder.store.get(&cid).expect("memory does not fail").expect("the block is in the store")
        };
        let bytes = weight.blocks.iter().map(block).collect::<Vec<_>>().concat();
        Some(Tensor::new(weight.stored, graph.value(id).shape.clone(), bytes.into()).expect("as validated"))
    };
    tabpool_engine::oracle::run(graph, &weight, inputs).expect("the oracle runs every program")
}

#[test]
fn minilms_ids_are_the_goldens_though_its_file_pads_to_128() {
    let Some(folder) = minilm() else { return };
    let directory = folder.open();
    let model = Model::read(&directory).expect("a good model");
    let encoder = TextEncoder::read(&directory, &model).expect("a good folder");
    assert_eq!(encoder.max_tokens(), 256);
    let golden = json("minilm/golden.json");
    for sentence in golden["sentences"].as_array().expect("sentences") {
        let encoded = encoder.encode(&[sentence["text"].as_str().expect("a text")]).expect("encodes");
        let got: Vec<u32> = encoded.input_ids.to_i32().expect("integers").iter().map(|&v| v.unsigned_abs()).collect();
        assert_eq!(got, numbers(&sentence["input_ids"]), "{}", sentence["text"]);
    }
    let words = "word ".repeat(400);
    let long = encoder.encode(&[&words]).expect("encodes");
    assert_eq!((long.tokens[0], long.truncated[0]), (256, true));
}

#[test]
fn minilm_finds_the_goldens_similarities() {
    let Some(folder) = minilm() else { return };
    let directory = folder.open();
    let model = Model::read(&directory).expect("a good model");
    let encoder = TextEncoder::read(&directory, &model).expect("a good folder");
    let golden = json("minilm/golden.json");
    let sentences = golden["sentences"].as_array().expect("sentences");
    // Those of one small bucket: the oracle is slow.
    let short: Vec<usize> =
        (0..sentences.len()).filter(|&i| numbers(&sentences[i]["input_ids"]).len() <= 16).take(6).collect();
    let texts: Vec<&str> = short.iter().map(|&i| sentences[i]["text"].as_str().expect("a text")).collect();
    let mut embeddings = vec![Vec::new(); texts.len()];
    for batch in encoder.batches(&texts, 4).expect("encodes") {
        let names = ["sentence_embedding".to_owned()];
        let request = model.prepare(&batch.encoded.inputs(model.signature()), &names).expect("a good request");
        let program = model.program(request.bucket, &["sentence_embedding"]).expect("a program");
        let outputs = request.crop.apply(run(&folder, &program, &request.tensors)).expect("as the program says");
        let values = outputs[0].1.to_f32().expect("floats");
        for (row, &index) in batch.indices.iter().enumerate() {
            embeddings[index] = values[row * 384..][..384].to_vec();
        }
    }
    let all = Tensor::from_f32([texts.len(), 384], embeddings.concat()).expect("fits");
    let matrix = similarity_matrix(&all, &all).expect("fits");
    let matrix = matrix.to_f32().expect("floats");
    for (row, &i) in short.iter().enumerate() {
        for (column, &j) in short.iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "the golden was computed in f32")]
            let want = golden["cosines"][i][j].as_f64().expect("a number") as f32;
            let got = matrix[row * short.len() + column];
            assert!((got - want).abs() < 1e-4, "sentences {i} and {j}: {got} is not {want}");
        }
    }
}
