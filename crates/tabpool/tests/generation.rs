//! Generation on a native worker: the goldens' ids, batches, sampling, stops, and what is kept while it goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use golden::{GENERATING, Golden, fixture};
use tabpool::{
    Accelerator, ApiKind, Error, Finish, GenerateOptions, Model, PoolError, Sampling, TokenPrompt, TokenRule,
    WorkerSpec,
};

mod golden;

async fn accelerator(data: &Path) -> Accelerator {
    let worker = WorkerSpec::native().apis(&[ApiKind::Cpu]);
    let builder = Accelerator::builder().data_dir(data).worker(worker).metrics_in_memory();
    builder.build().await.expect("a native worker starts")
}

async fn model(accelerator: &Accelerator, name: &str) -> Model {
    let folder: PathBuf = fixture(name);
    accelerator.accelerate_model(folder.to_string_lossy()).await.expect("a model")
}

fn exactly(tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: tokens, ignore_ends: true, ..GenerateOptions::default() }
}

/// The ids of every text.
async fn ids(model: &Model, prompt: TokenPrompt, options: &GenerateOptions) -> Vec<Vec<i32>> {
    let mut generation = model.generate_tokens(prompt, options).expect("a sound prompt");
    let mut texts = vec![Vec::new(); generation.texts()];
    while let Some(tokens) = generation.next().await.expect("generates") {
        for (text, id) in texts.iter_mut().zip(tokens.ids) {
            text.extend(id);
        }
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn every_family_says_its_golden_whichever_way_tokens_are_chosen() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let accelerator = accelerator(data.path()).await;
    for name in GENERATING {
        let (model, golden) = (model(&accelerator, name).await, Golden::read(name));
        let greedy = exactly(golden.tokens.len());
        assert_eq!(ids(&model, golden.prompt.clone(), &greedy).await, [golden.tokens.clone()], "{name}");
        // The likeliest of a few candidates, and of all logits: what a suppressed token and a penalty of next to nothing ask for.
        let never = i32::try_from(model.handle().generation().expect("it does").vocabulary() - 1).expect("small");
        assert!(!golden.tokens.contains(&never));
        let candidates = GenerateOptions { suppressed: vec![never], ..greedy.clone() };
        assert_eq!(ids(&model, golden.prompt.clone(), &candidates).await, [golden.tokens.clone()], "{name}");
        let penalty = Sampling { repetition_penalty: 1.000_001, ..Sampling::default() };
        let logits = GenerateOptions { sampling: penalty, ..greedy };
        assert_eq!(ids(&model, golden.prompt.clone(), &logits).await, [golden.tokens.clone()], "{name}");
    }
    accelerator.close().await.expect("closes");
}

/// Forbids the token that was said last.
#[derive(Debug)]
struct NeverTwice;

impl TokenRule for NeverTwice {
    fn apply(&self, said: &[i32], logits: &mut [f32]) {
        if let Some(last) = said.last() {
            logits[usize::try_from(*last).expect("an id")] = f32::NEG_INFINITY;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_see_what_was_said_and_decide_what_follows() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let accelerator = accelerator(data.path()).await;
    let (model, golden) = (model(&accelerator, "t5").await, Golden::read("t5"));
    let repeats = |ids: &[i32]| ids.windows(2).any(|pair| pair[0] == pair[1]);
    assert!(repeats(&golden.tokens), "the golden says one token again and again");
    let options = GenerateOptions { rules: vec![Arc::new(NeverTwice)], ..exactly(20) };
    let said = ids(&model, golden.prompt.clone(), &options).await;
    assert!(!repeats(&said[0]) && said[0][..5] == golden.tokens[..5], "{said:?}");
    accelerator.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_a_batch_are_those_that_each_gets_alone() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let accelerator = accelerator(data.path()).await;
    let (model, golden) = (model(&accelerator, "llama").await, Golden::read("llama"));
    let long = golden.prompt.ids[0].clone();
    let texts = [long.clone(), long[..3].to_vec(), [&long[..], &long, &long, &long].concat()];
    let prompt = |ids: Vec<Vec<i32>>| TokenPrompt { ids, source: Vec::new() };
    let warm = Sampling { temperature: 1.0, top_k: 20, seed: 7, ..Sampling::default() };
    for sampling in [Sampling::default(), warm] {
        let options = GenerateOptions { sampling: sampling.clone(), ..exactly(12) };
        let together = ids(&model, prompt(texts.to_vec()), &options).await;
        assert_eq!(together[0], ids(&model, prompt(vec![long.clone()]), &options).await[0]);
        if sampling.is_greedy() {
            for (text, got) in texts.iter().zip(&together) {
                assert_eq!(ids(&model, prompt(vec![text.clone()]), &options).await, [got.clone()]);
            }
        } else {
            assert_eq!(together, ids(&model, prompt(texts.to_vec()), &options).await, "the same seed, the same texts");
            let other = GenerateOptions { sampling: Sampling { seed: 8, ..sampling }, ..options };
            assert_ne!(together, ids(&model, prompt(texts.to_vec()), &other).await, "another seed");
        }
    }
    accelerator.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_streams_and_ends_where_it_should() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let accelerator = accelerator(data.path()).await;
    let (model, golden) = (model(&accelerator, "gpt2").await, Golden::read("gpt2"));
    let prompt: Vec<u32> = golden.prompt.ids[0].iter().map(|&id| u32::try_from(id).expect("an id")).collect();
    let prompt = model.tokenizer().expect("a tokenizer").decode(&prompt).expect("text");
    let options = exactly(golden.tokens.len());

    let mut generation = model.generate(&prompt, &options).expect("a prompt");
    let (mut pieces, mut whole, mut finish) = (0, String::new(), None);
    while let Some(piece) = generation.next().await.expect("generates") {
        (pieces, finish) = (pieces + 1, piece.finish);
        whole.push_str(&piece.text);
    }
    assert_eq!((whole.clone(), finish), (golden.text.expect("a text"), Some(Finish::Length)));
    assert!(pieces > 5, "{pieces} pieces are no stream");
    let figures = generation.figures();
    assert_eq!((figures.steps, figures.moved, figures.read), (20, 0, 7));
    assert!(figures.first_token > Duration::ZERO && figures.place.is_some());

    let stops = GenerateOptions { stops: vec!["nothing".to_owned(), "foll".to_owned()], ..options.clone() };
    let texts = model.generate_all(&[&prompt, "A man"], &stops).expect("prompts").collect().await.expect("generates");
    assert_eq!(texts[0].text, whole.split("foll").next().expect("a beginning"));
    assert_eq!(texts[0].finish, Finish::Stop("foll".to_owned()));
    assert!(!texts[1].text.is_empty(), "the other text goes on");

    let ends = GenerateOptions { ignore_ends: false, ..options };
    let said = model.generate(&prompt, &ends).expect("a prompt").collect().await.expect("generates");
    assert_eq!(said[0].text, whole, "the golden has no end in it");
    accelerator.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_of_the_size_that_was_said_and_freed_at_once() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let accelerator = accelerator(data.path()).await;
    let (model, golden) = (model(&accelerator, "llama").await, Golden::read("llama"));
    let kept = |sets: usize| {
        let pool = accelerator.pool();
        async move {
            for _ in 0..200 {
                let (there, bytes) = pool.workers()[0].states;
                if there == sets {
                    return bytes;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{:?} where {sets} sets were expected", pool.workers()[0].states);
        }
    };
    let mut one = model.generate_tokens(golden.prompt.clone(), &exactly(40)).expect("a prompt");
    let mut other = model.generate_tokens(golden.prompt.clone(), &exactly(100)).expect("a prompt");
    one.next().await.expect("generates").expect("a token");
    // The processor's memory is given out in lines of 64 bytes: each of the six states takes up whole ones.
    let lines = |bytes: u64| bytes..bytes + 6 * 64;
    let first = kept(1).await;
    assert!(lines(one.figures().state_bytes).contains(&first), "{first}, not {}", one.figures().state_bytes);
    other.next().await.expect("generates").expect("a token");
    let both = kept(2).await;
    assert!(lines(other.figures().state_bytes).contains(&(both - first)), "room for more tokens takes more");
    drop(one);
    assert_eq!(kept(1).await, both - first, "who stops reading frees what is kept, at once");
    // A future that is given up loses no token.
    let mut said = Vec::new();
    while said.len() < 30 {
        if let Ok(tokens) = tokio::time::timeout(Duration::from_micros(300), other.next()).await {
            said.extend(tokens.expect("generates").expect("a token").ids[0]);
        }
    }
    assert_eq!(said[..19], golden.tokens[1..], "one after the other");
    drop(other);
    assert_eq!(kept(0).await, 0);
    accelerator.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_generated_is_refused_before_anything_runs() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let accelerator = accelerator(data.path()).await;
    let bert = model(&accelerator, "bert").await;
    let said = bert.generate("text", &exactly(1)).expect_err("it has no decoder").to_string();
    assert!(said.contains("\"bert\" generates no text"), "{said}");
    let llama = model(&accelerator, "llama").await;
    let room = llama.handle().generation().expect("it generates").max_tokens();
    let prompt = |ids: Vec<i32>| TokenPrompt { ids: vec![ids], source: Vec::new() };
    let refused = |prompt: TokenPrompt, options: &GenerateOptions| {
        llama.generate_tokens(prompt, options).expect_err("refused").to_string()
    };
    assert!(refused(prompt(vec![1; room]), &exactly(1)).contains(&format!("the model has room for {room}")));
    assert!(refused(prompt(vec![]), &exactly(1)).contains("no tokens"));
    assert!(refused(prompt(vec![1, -3]), &exactly(1)).contains("-3 at [0, 1]"));
    assert!(refused(prompt(vec![1]), &exactly(0)).contains("no token is wanted"));
    let cold = GenerateOptions { sampling: Sampling { temperature: -1.0, ..Sampling::default() }, ..exactly(1) };
    assert!(refused(prompt(vec![1]), &cold).contains("temperature is -1"));
    let error = llama.chat(&tabpool::chat::ChatRequest::from_json(b"[]").expect("a list"), &exactly(1));
    assert!(matches!(error, Err(Error::Chat(_))), "the fixture has no template");
    // As many tokens as there is room for, where more are wanted.
    let texts = ids(&llama, prompt(vec![1; room - 3]), &exactly(50)).await;
    assert_eq!(texts[0].len(), 3);
    let closed = model(&accelerator, "gpt2").await;
    accelerator.close().await.expect("closes");
    let mut generation = closed.generate_tokens(prompt(vec![1]), &exactly(2)).expect("a prompt");
    assert!(matches!(generation.next().await, Err(Error::Pool(PoolError::Closed))));
}
