//! The accelerator on the native worker and a real model: what the earlier API promised, without a browser.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tabpool::{Accelerator, ApiKind, Error, Platform, PoolError, Target, Tensor, WorkerSpec};

fn fixture(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    path.to_string_lossy().into_owned()
}

async fn accelerator(data: &Path) -> Accelerator {
    let worker = WorkerSpec::native().apis(&[ApiKind::Cpu]);
    Accelerator::builder()
        .data_dir(data)
        .worker(worker)
        .metrics_in_memory()
        .build()
        .await
        .expect("a native worker starts")
}

fn ids(rows: usize, tokens: usize) -> Vec<(String, Tensor)> {
    let ids = (0..rows * tokens).map(|index| index as i64 % 50 + 5).collect();
    vec![("input_ids".to_owned(), Tensor::from_i64([rows, tokens], ids).expect("fits"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_run_alone_in_a_batch_and_on_texts() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let accelerator = accelerator(data.path()).await;
    let model = accelerator.accelerate_model(fixture("bert")).platform(Platform::Cpu).await.expect("a model");
    assert_eq!(model.handle().name(), "bert");

    let answer = model.run(ids(2, 7)).await.expect("runs");
    let shapes: BTreeMap<_, _> =
        answer.outputs.iter().map(|(name, tensor)| (name.as_str(), tensor.shape().dims())).collect();
    assert_eq!(shapes, BTreeMap::from([("last_hidden_state", &[2, 7, 64][..]), ("pooler_output", &[2, 64])]));
    assert_eq!((answer.api, answer.attempts), (ApiKind::Cpu, 1));

    let mut requests: Vec<_> = (1..=5).map(|tokens| ids(1, tokens)).collect();
    requests.push(vec![("nonsense".to_owned(), Tensor::from_i64([1, 1], vec![0]).expect("fits"))]);
    let answers = model.run_batch(requests).await;
    for (tokens, answer) in (1..=5).zip(&answers) {
        let answer = answer.as_ref().expect("runs");
        assert_eq!(answer.outputs[0].1.shape().dims(), [1, tokens, 64], "answers are in the order of the requests");
    }
    assert!(matches!(answers[5], Err(Error::Pool(PoolError::Request { .. }))), "{:?}", answers[5]);

    let texts: Vec<String> = (0..40).map(|number| "word ".repeat(number % 9 + 1) + &number.to_string()).collect();
    let together = model.embed(&texts).await.expect("embeds");
    assert_eq!((together.len(), together.dimension()), (40, 64));
    let runs: usize = together.runs().iter().map(|run| run.items.len()).sum();
    assert_eq!(runs, 40, "every text ran once");
    for text in [0, 8, 39] {
        let alone = model.embed(&texts[text..=text]).await.expect("embeds");
        let (one, other) = (alone.get(0).expect("one"), together.get(text).expect("there"));
        let worst = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(worst < 1e-5, "text {text} differs by {worst} among others");
    }
    assert!(model.embed::<&str>(&[]).await.expect("nothing to do").is_empty());
    let long = "word ".repeat(5000);
    assert_eq!(model.embed(&["short", &long]).await.expect("embeds").truncated(), [1]);
    accelerator.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_come_from_the_library_and_wishes_that_nobody_can_fulfil_are_refused() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let accelerator = accelerator(data.path()).await;
    accelerator.library().add_folder(Path::new(&fixture("bert_odd")), Some("mine"), &mut |_| {}).expect("a model");
    let model = accelerator.accelerate_model("mine").await.expect("known");
    model.run(ids(1, 3)).await.expect("runs");
    assert!(matches!(model.embed(&["text"]).await, Err(Error::Text(_))), "the fixture has no tokenizer");

    let error = accelerator.accelerate_model("yours").await.expect_err("unknown");
    assert!(error.hint().is_some_and(|hint| hint.contains("known are mine")), "{error}");
    let target: Target = "firefox:webgpu".parse().expect("a target");
    let model = accelerator.accelerate_model("mine").on(target).await.expect("known");
    let error = model.run(ids(1, 3)).await.expect_err("there is no Firefox here");
    assert!(matches!(error, Error::Pool(PoolError::NoWorker(_))), "{error:?}");
    accelerator.close().await.expect("closes");
}
