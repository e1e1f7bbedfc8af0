//! Models that are wrong: each is refused with the file and the tensor at fault, in a pool that goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tabpool_browser::BrowserKind;
use tabpool_content::{Directory, DiskStore};
use tabpool_pool::{ModelRequest, PoolEvent, Profile, ResourcePool, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_tests::golden::Golden;
use tabpool_tests::places::{fixture, fixture_name};
use tabpool_tests::scene::{self, Watch};
use tabpool_tests::{Fault, Outcome, browsers, require};

/// Far beyond the end of every file here.
const FAR: u64 = 1 << 40;

/// A copy of the fixture `bert` that a case may break.
struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    fn new() -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        for file in ["config.json", "model.safetensors"] {
            fs::copy(fixture("bert").join(file), folder.path().join(file))?;
        }
        Ok(Self { folder })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn name(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn set_option(&self, key: &str, value: Value) -> Outcome {
        let mut config: Value = serde_json::from_slice(&fs::read(self.path("config.json"))?)?;
        config[key] = value;
        Ok(fs::write(self.path("config.json"), config.to_string())?)
    }

    /// Rewrites the header of the weights; the data stays as it is.
    fn change_header(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Outcome {
        let bytes = fs::read(self.path("model.safetensors"))?;
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or("no length")?;
        let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length))?);
        let mut header: Map<String, Value> = serde_json::from_slice(header)?;
        change(&mut header);
        let header = serde_json::to_vec(&header)?;
        let parts = [&(header.len() as u64).to_le_bytes()[..], &header, data];
        Ok(fs::write(self.path("model.safetensors"), parts.concat())?)
    }
}

/// Opens a broken model and runs it if it opens; gives the error. Then a good model must do.
async fn refusal(copy: &Copy) -> Result<String, Fault> {
    let pool = scene::ready(ResourcePool::builder().worker(WorkerSpec::native().apis(&[ApiKind::Cpu]))).await?;
    let golden = Golden::read("bert")?;
    let opened = pool.model(ModelRequest::new(copy.name())).await;
    let error = match opened {
        Err(error) => error.to_string(),
        Ok(model) => match model.run(golden.inputs.clone()).await {
            Err(error) => error.to_string(),
            Ok(_) => return Err("the broken model was run".into()),
        },
    };
    golden.check(&pool.model(ModelRequest::new(fixture_name("bert"))).await?).await?;
    pool.close().await?;
    Ok(error)
}

async fn refused(copy: &Copy, texts: &[&str]) -> Outcome {
    let error = refusal(copy).await?;
    let missing: Vec<_> = texts.iter().filter(|text| !error.contains(**text)).collect();
    require(missing.is_empty(), || format!("{error:?} says nothing of {missing:?}"))
}

#[tokio::test]
async fn truncated_weights_are_refused() -> Outcome {
    let copy = Copy::new()?;
    let bytes = fs::read(copy.path("model.safetensors"))?;
    fs::write(copy.path("model.safetensors"), &bytes[..bytes.len() - 1000])?;
    refused(&copy, &["model.safetensors"]).await
}

#[tokio::test]
async fn weights_cut_within_their_header_are_refused() -> Outcome {
    let copy = Copy::new()?;
    let bytes = fs::read(copy.path("model.safetensors"))?;
    fs::write(copy.path("model.safetensors"), &bytes[..100])?;
    refused(&copy, &["model.safetensors"]).await
}

#[tokio::test]
async fn a_header_whose_offsets_leave_a_hole_is_refused_by_tensor() -> Outcome {
    let copy = Copy::new()?;
    copy.change_header(|header| {
        header["encoder.layer.1.output.dense.weight"]["data_offsets"] = json!([FAR, FAR + 65536]);
    })?;
    // What lies behind the hole is what the file says; the tensor itself may be anywhere.
    refused(&copy, &["model.safetensors", "encoder.layer.2.attention.output.LayerNorm.bias", "belong to no tensor"])
        .await
}

#[tokio::test]
async fn a_header_whose_offsets_reach_beyond_the_file_is_refused_by_tensor() -> Outcome {
    let copy = Copy::new()?;
    let mut last = String::new();
    copy.change_header(|header| {
        let end = |entry: &Value| entry["data_offsets"][1].as_u64();
        let tensors = header.iter_mut().filter(|(name, _)| *name != "__metadata__");
        if let Some((name, entry)) = tensors.max_by_key(|(_, entry)| end(entry)) {
            last.clone_from(name);
            entry["data_offsets"][1] = FAR.into();
        }
    })?;
    refused(&copy, &["model.safetensors", &last]).await
}

#[tokio::test]
async fn tensors_that_overlap_are_refused() -> Outcome {
    let copy = Copy::new()?;
    let (first, second) = ("encoder.layer.0.output.dense.bias", "encoder.layer.1.output.dense.bias");
    copy.change_header(|header| {
        let offsets = header[first]["data_offsets"].clone();
        header[second]["data_offsets"] = offsets;
    })?;
    refused(&copy, &["model.safetensors", "output.dense.bias"]).await
}

#[tokio::test]
async fn an_unknown_architecture_is_refused_by_name() -> Outcome {
    let copy = Copy::new()?;
    copy.set_option("model_type", "mamba".into())?;
    refused(&copy, &["config.json", "\"mamba\" is not supported"]).await
}

#[tokio::test]
async fn a_missing_tensor_is_named() -> Outcome {
    let copy = Copy::new()?;
    let tensor = "encoder.layer.1.output.dense.bias";
    copy.change_header(|header| {
        let entry = header.remove(tensor).unwrap_or_default();
        header.insert("renamed".to_owned(), entry);
    })?;
    refused(&copy, &["model.safetensors", tensor, "missing"]).await
}

#[tokio::test]
async fn a_tensor_of_a_wrong_shape_is_named_with_both_shapes() -> Outcome {
    let copy = Copy::new()?;
    let tensor = "encoder.layer.1.output.dense.weight";
    copy.change_header(|header| header[tensor]["shape"] = json!([256, 64]))?;
    refused(&copy, &["model.safetensors", tensor, "[64, 256]", "[256, 64]"]).await
}

/// A block that rots on the host's disk fails the model that needs it, by its CID, on a browser too, and no other model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_block_fails_its_model_on_every_browser_and_no_other() -> Outcome {
    let _alone = scene::machine().await;
    for kind in browsers::kinds("a corrupt block") {
        corrupt_block(kind).await.map_err(|e| format!("{kind}: {e}"))?;
    }
    Ok(())
}

async fn corrupt_block(kind: BrowserKind) -> Outcome {
    let folder = tempfile::tempdir()?;
    let builder = ResourcePool::builder().data_dir(folder.path());
    let pool = scene::ready(builder.worker(scene::browser(kind, Profile::Fresh).apis(&[ApiKind::Cpu]))).await?;
    let mut watch = Watch::on(&pool);
    let broken = pool.model(ModelRequest::new(fixture_name("roberta"))).await?;
    let leaf = Directory::open(&**pool.store(), broken.root())?.leaves("model.safetensors")?[3].cid;
    corrupt(&DiskStore::open(folder.path().join("blocks"))?.path_of(&leaf))?;
    let error = broken.run(Golden::read("roberta")?.inputs).await.err().ok_or("a corrupt block was used")?;
    require(error.to_string().contains(&leaf.to_string()), || format!("{error} does not name {leaf}"))?;
    let failed = |event: &PoolEvent| matches!(event, PoolEvent::LoadFailed { .. }).then_some(());
    watch.until("the failed load", Duration::from_secs(5), failed).await?;
    let sound = pool.model(ModelRequest::new(fixture_name("bert"))).await?;
    Golden::read("bert")?.check(&sound).await?;
    pool.close().await?;
    Ok(())
}

fn corrupt(path: &Path) -> Outcome {
    let mut bytes = fs::read(path)?;
    bytes[0] ^= 1;
    Ok(fs::write(path, bytes)?)
}
