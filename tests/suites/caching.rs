//! A browser that has loaded a model once finds its weights again: the second load moves no weight byte.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tabpool_browser::BrowserKind;
use tabpool_pool::{ModelRequest, PoolEvent, Profile, ResourcePool, Target};
use tabpool_protocol::LoadStats;
use tabpool_tests::golden::{error, ids, sentences};
use tabpool_tests::intruder::Door;
use tabpool_tests::records::Records;
use tabpool_tests::scene::{self, Watch};
use tabpool_tests::{Fault, Outcome, browsers, places, require};

const CASE: &str = "caching";

/// What the sentence embedding needs of all-MiniLM-L6-v2: the whole file but its pooler.
const WEIGHT_BYTES: u64 = 90_852_864 - 4 * 384 * 385;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_profile_loads_a_model_again_without_fetching_a_byte() -> Outcome {
    let Some(model) = places::minilm(CASE) else { return Ok(()) };
    let kinds = browsers::kinds(CASE);
    let folder = tempfile::tempdir()?;
    // A browser keeps blocks by origin, so the second pool listens where the first one did.
    let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
    let (address, first) = load(folder.path(), anywhere, &kinds, &model).await?;
    let (_, second) = load(folder.path(), address, &kinds, &model).await?;
    for ((kind, first), (_, second)) in first.iter().zip(&second) {
        let (blocks, bytes) = first.fetched;
        // Small tensors are repeated in no other block, so what is fetched is what is needed.
        require(bytes == WEIGHT_BYTES && first.cached == (0, 0), || format!("{kind}, first load: {first:?}"))?;
        let again = second.fetched == (0, 0) && second.cached == (blocks, bytes);
        require(again, || format!("{kind}, second load: {second:?} after {first:?}"))?;
        let ms = |stats: &LoadStats| stats.total_us / 1000;
        tabpool_tests::show(&format!(
            "{kind}: {blocks} blocks, {bytes} bytes; loaded in {} ms, then in {} ms",
            ms(first),
            ms(second)
        ));
    }
    let records = Records::open(folder.path())?;
    for kind in kinds {
        let loads = records.rows(&format!(
            "SELECT bytes_fetched, bytes_cached FROM model_loads WHERE browser = '{kind}' ORDER BY run"
        ))?;
        let want: Vec<Vec<serde_json::Value>> =
            vec![vec![WEIGHT_BYTES.into(), 0.into()], vec![0.into(), WEIGHT_BYTES.into()]];
        require(loads == want, || format!("{kind}: the database says {loads:?}"))?;
    }
    Ok(())
}

/// Loads the model in every browser of a new pool; gives where it listened and what each load cost.
async fn load(
    data: &Path,
    listen: SocketAddr,
    kinds: &[BrowserKind],
    path: &str,
) -> Result<(SocketAddr, Vec<(BrowserKind, LoadStats)>), Fault> {
    let mut builder = ResourcePool::builder().data_dir(data).listen(listen);
    for kind in kinds {
        builder = builder.worker(scene::browser(*kind, Profile::Kept));
    }
    let pool = scene::ready(builder).await?;
    let mut watch = Watch::on(&pool);
    let sentence = sentences()?.swap_remove(0);
    let mut loads = Vec::new();
    for kind in kinds {
        let target: Target = format!("{kind}:webgpu").parse()?;
        let model = pool.model(ModelRequest::new(path).on(target)).await?;
        let answer = model.run_for(ids(&sentence.ids)?, &["sentence_embedding"]).await?;
        let worst = error(&answer.outputs[0].1.to_f32()?, &sentence.embedding, |_| true);
        require(worst <= 1.0, || format!("{target}: off by {worst} times the tolerance"))?;
        let loaded = |event: &PoolEvent| match event {
            PoolEvent::Loaded { worker, stats, .. } if *worker == answer.worker => Some(*stats),
            _ => None,
        };
        loads.push((*kind, watch.until("the load", Duration::from_secs(5), loaded).await?));
    }
    // Closed right after the first answers: what a load fetched is kept by then.
    let address = Door::of(&pool)?.address.parse()?;
    pool.close().await?;
    Ok((address, loads))
}
