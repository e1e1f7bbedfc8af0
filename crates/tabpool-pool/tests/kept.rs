//! Outputs that stay on a native worker, and what becomes of them.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tabpool_pool::{Keeping, ModelHandle, ModelRequest, PoolError, ResourcePool, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_tensor::Tensor;

type Outcome = Result<(), Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(60);

async fn pool() -> Result<ResourcePool, PoolError> {
    let worker = WorkerSpec::native().apis(&[ApiKind::Cpu]);
    let pool = ResourcePool::builder().metrics_in_memory().worker(worker).build().await?;
    pool.wait_ready(PATIENCE).await?;
    Ok(pool)
}

async fn model(pool: &ResourcePool, name: &str) -> Result<ModelHandle, PoolError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    pool.model(ModelRequest::new(folder.display().to_string())).await
}

fn texts(rows: usize) -> Vec<(String, Tensor)> {
    let ids = (0..rows * 12).map(|i| 5 + (i * 7 % 90) as i64).collect();
    vec![("input_ids".to_owned(), Tensor::from_i64([rows, 12], ids).expect("twelve a row"))]
}

fn states(pool: &ResourcePool) -> (usize, u64) {
    pool.workers()[0].states
}

/// Waits for a worker to have said what it holds.
async fn until_states(pool: &ResourcePool, wanted: (usize, u64)) -> Outcome {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while states(pool) != wanted {
        assert!(tokio::time::Instant::now() < deadline, "{:?}, not {wanted:?}", states(pool));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_kept_is_gone_on_from_counted_and_freed() -> Outcome {
    let pool = pool().await?;
    let bert = model(&pool, "bert").await?;
    let whole = bert.run_for(texts(3), &["pooler_output"]).await?.outputs[0].1.to_f32()?.into_owned();
    let kept = bert.keep(texts(3), &["last_hidden_state"], Keeping::default()).await?;
    // Three texts of twelve tokens lie in a bucket of four of sixteen.
    assert_eq!(kept.bytes(), 4 * 16 * 64 * 4);
    let pooled = bert.go_on(&kept, Vec::new(), &["pooler_output"]).await?;
    assert_eq!(pooled.outputs[0].1.shape().dims(), [3, 64]);
    assert_eq!(pooled.outputs[0].1.to_f32()?.into_owned(), whole);
    until_states(&pool, (1, kept.bytes())).await?;
    let clone = kept.clone();
    drop(kept);
    bert.go_on(&clone, Vec::new(), &["pooler_output"]).await?;
    drop(clone);
    until_states(&pool, (0, 0)).await?;
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_gone_on_from_is_refused_with_the_reason() -> Outcome {
    let pool = pool().await?;
    let bert = model(&pool, "bert").await?;
    let kept = bert.keep(texts(1), &["last_hidden_state"], Keeping::default()).await?;
    let refused = async |model: &ModelHandle, inputs, output: &str| match model.go_on(&kept, inputs, &[output]).await {
        Err(e) => Ok(e.to_string()),
        Ok(_) => Err("it went on"),
    };
    let given_again = refused(&bert, texts(1), "pooler_output").await?;
    assert!(given_again.contains("input_ids"), "{given_again}");
    let smaller = refused(&model(&pool, "vit").await?, Vec::new(), "pooler_output").await?;
    assert!(smaller.contains("last_hidden_state") && smaller.contains("holds f32"), "{smaller}");
    let other = refused(&model(&pool, "wav2vec2").await?, Vec::new(), "logits").await;
    assert!(other.is_ok(), "{other:?}");
    let unknown = refused(&bert, Vec::new(), "logits").await?;
    assert!(unknown.contains("logits"), "{unknown}");
    let renamed = kept.standing_for("hidden", "last_hidden_state").map(drop);
    assert!(matches!(renamed, Err(PoolError::NotKept(_))), "{renamed:?}");
    pool.close().await?;
    Ok(())
}

#[tokio::test]
async fn what_nobody_goes_on_from_is_given_up_after_its_lease() -> Outcome {
    let pool = pool().await?;
    let bert = model(&pool, "bert").await?;
    let lease = Keeping::default().lease(Duration::from_secs(1));
    let kept = bert.keep(texts(1), &["last_hidden_state"], lease).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let late = bert.go_on(&kept, Vec::new(), &["pooler_output"]).await.map(drop);
    assert!(matches!(late, Err(PoolError::SessionLost { .. })), "{late:?}");
    pool.close().await?;
    Ok(())
}
