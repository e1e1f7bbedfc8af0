//! A pool of native workers: goldens, records, refusals, corrupt blocks. No browser is needed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use safetensors::SafeTensors;
use tabpool_metrics::{Report, ReportFilter};
use tabpool_pool::{ModelHandle, ModelRequest, PoolError, ResourcePool, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_tensor::{DType, Tensor};

type Outcome = Result<(), Box<dyn Error>>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

fn tensors(path: &Path, prefix: &str) -> Result<Vec<(String, Tensor)>, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let mut found = Vec::new();
    for (name, view) in file.tensors() {
        if let Some(name) = name.strip_prefix(prefix) {
            let dtype: DType = format!("{:?}", view.dtype()).parse()?;
            found.push((name.to_owned(), Tensor::new(dtype, view.shape().to_vec(), view.data().to_vec().into())?));
        }
    }
    Ok(found)
}

async fn pool(data: &Path) -> Result<ResourcePool, PoolError> {
    let spec = WorkerSpec::native().apis(&[ApiKind::Cpu]);
    let pool = ResourcePool::builder().data_dir(data).worker(spec).build().await?;
    pool.wait_ready(Duration::from_secs(60)).await?;
    Ok(pool)
}

fn inputs_of(fixture_name: &str) -> Result<Vec<(String, Tensor)>, Box<dyn Error>> {
    tensors(&fixture(fixture_name).join("golden.safetensors"), "input.")
}

/// The largest `|got - want| / (1e-4 + 1e-4 |want|)` over tokens that are no padding.
async fn worst(model: &ModelHandle, name: &str) -> Result<f32, Box<dyn Error>> {
    let inputs = inputs_of(name)?;
    let mask = inputs.iter().find(|(n, _)| n == "attention_mask").map(|(_, t)| t.to_i32().map(|m| m.into_owned()));
    let mask = mask.ok_or("the golden has a mask")??;
    let answer = model.run(inputs).await?;
    let wanted = tensors(&fixture(name).join("golden.safetensors"), "output.")?;
    assert_eq!(answer.outputs.len(), wanted.len());
    let mut worst = 0f32;
    for (output, want) in &wanted {
        let (_, got) = answer.outputs.iter().find(|(n, _)| n == output).ok_or("every output is there")?;
        assert_eq!(got.shape(), want.shape());
        let (got, values) = (got.to_f32()?, want.to_f32()?);
        let per_token = values.len() / mask.len();
        for (i, (g, w)) in got.iter().zip(values.iter()).enumerate() {
            if want.shape().rank() == 2 || mask[i / per_token] == 1 {
                worst = worst.max((g - w).abs() / (1e-4 + 1e-4 * w.abs()));
            }
        }
    }
    Ok(worst)
}

#[tokio::test]
async fn every_encoder_family_gives_its_golden_and_all_is_recorded() -> Outcome {
    let data = tempfile::tempdir()?;
    let pool = pool(data.path()).await?;
    for name in ["bert", "bert_odd", "distilbert", "roberta", "mpnet"] {
        let folder = fixture(name).display().to_string();
        let model = pool.model(ModelRequest::new(folder)).await?;
        let error = worst(&model, name).await?;
        assert!(error <= 1.0, "{name}: {error} times the tolerance");
    }
    let figures = pool.metrics();
    assert_eq!((figures.finished, figures.failed, figures.loads), (5, 0, 5));
    let reader = pool.metrics_reader().await?;
    let report = Report::build(&reader, ReportFilter::default())?.to_json();
    assert_eq!(report["totals"]["requests"], 5, "{report}");
    drop(reader);
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn wrong_requests_are_refused_with_what_is_wrong_and_the_pool_goes_on() -> Outcome {
    let data = tempfile::tempdir()?;
    let pool = pool(data.path()).await?;
    let model = pool.model(ModelRequest::new(fixture("bert").display().to_string())).await?;
    let floats = vec![("input_ids".to_owned(), Tensor::from_f32([1, 2], vec![1.0, 2.0])?)];
    let error = model.run(floats).await.expect_err("floats are no ids").to_string();
    assert!(error.contains("input_ids") && error.contains("f32"), "{error}");
    let beyond = vec![("input_ids".to_owned(), Tensor::from_i64([1, 2], vec![1, 512])?)];
    let error = model.run(beyond).await.expect_err("512 is beyond the vocabulary").to_string();
    assert!(error.contains("512"), "{error}");
    let error = pool.model(ModelRequest::new("nothing-here")).await.expect_err("unknown");
    assert!(matches!(error, PoolError::UnknownModel { .. }), "{error}");
    let nowhere = model.on("firefox:webgpu".parse()?).run(inputs_of("bert")?).await.expect_err("no firefox");
    assert!(matches!(nowhere, PoolError::NoWorker(_)), "{nowhere}");
    assert!(worst(&model, "bert").await? <= 1.0);
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_corrupt_block_on_disk_fails_its_model_by_name_and_no_other() -> Outcome {
    let data = tempfile::tempdir()?;
    let pool = pool(data.path()).await?;
    let broken = pool.model(ModelRequest::new(fixture("roberta").display().to_string())).await?;
    let folder = tabpool_content::Directory::open(&**pool.store(), broken.root())?;
    let leaf = folder.leaves("model.safetensors")?[3];
    let disk = tabpool_content::DiskStore::open(data.path().join("blocks"))?;
    let path = disk.path_of(&leaf.cid);
    let mut bytes = std::fs::read(&path)?;
    bytes[0] ^= 1;
    std::fs::write(&path, bytes)?;
    let error = broken.run(inputs_of("roberta")?).await.expect_err("a block is corrupt").to_string();
    assert!(error.contains(&leaf.cid.to_string()), "{error}");
    let sound = pool.model(ModelRequest::new(fixture("bert").display().to_string())).await?;
    assert!(worst(&sound, "bert").await? <= 1.0);
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_closed_pool_answers_what_waits() -> Outcome {
    let data = tempfile::tempdir()?;
    let pool = pool(data.path()).await?;
    let model = pool.model(ModelRequest::new(fixture("bert").display().to_string())).await?;
    let inputs = inputs_of("bert")?;
    let runs: Vec<_> = (0..50)
        .map(|_| {
            tokio::spawn({
                let (m, i) = (model.clone(), inputs.clone());
                async move { m.run(i).await }
            })
        })
        .collect();
    pool.close().await?;
    for run in runs {
        match run.await? {
            Ok(_) | Err(PoolError::Closed) => {}
            Err(e) => panic!("neither answered nor closed: {e}"),
        }
    }
    let late = model.run(inputs).await;
    assert!(matches!(late, Err(PoolError::Closed)));
    Ok(())
}

/// Whoever saw that all workers were there once looked at them again with what it had seen still locked, and neither it nor
/// the actor, which publishes whatever happens, went on.
#[test]
fn waiting_for_workers_while_much_happens_comes_to_an_end() {
    let (done, ended) = std::sync::mpsc::channel();
    // On a thread of its own: a deadlock stops every thread of a runtime.
    let work = async move {
        let data = tempfile::tempdir()?;
        let pool = pool(data.path()).await?;
        let model = pool.model(ModelRequest::new(fixture("bert_odd").display().to_string())).await?;
        let inputs = inputs_of("bert_odd")?;
        let running = tokio::spawn(async move {
            for _ in 0..200 {
                model.run(inputs.clone()).await?;
            }
            Ok::<(), PoolError>(())
        });
        // Several at once, so that the actor finds somebody looking whenever it comes.
        let pool = Arc::new(pool);
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let (pool, running) = (Arc::clone(&pool), running.abort_handle());
                tokio::spawn(async move {
                    while !running.is_finished() {
                        pool.wait_ready(Duration::from_secs(60)).await?;
                        tokio::task::yield_now().await;
                    }
                    Ok::<(), PoolError>(())
                })
            })
            .collect();
        running.await??;
        for waiting in waiting {
            waiting.await??;
        }
        Ok::<(), Box<dyn Error>>(())
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(6).enable_all().build();
        let outcome = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(work));
        done.send(outcome.map_err(|error| error.to_string()))
    });
    let outcome = ended.recv_timeout(Duration::from_secs(60)).expect("it ends");
    assert_eq!(outcome, Ok(()));
}
