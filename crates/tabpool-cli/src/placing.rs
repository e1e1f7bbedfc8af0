//! Which workers run a model and how exactly: the arguments that every command with a model has, and the way from a model's
//! name to a model that runs there.

use anyhow::{Result, bail};
use clap::Args;
use tabpool::{Library, Model, ModelKind, Precision, Resolved, Target};
use tabpool_models::Model as ModelFolder;

use crate::context::Context;
use crate::failure::Hinted;
use crate::session::{Measuring, builder, with_accelerator};

/// Which workers, and how exactly.
#[derive(Debug, Args)]
pub(crate) struct Placing {
    /// Where to run it, as in chromium:webgpu or native:cpu; may be given several times [default: every browser found, or
    /// native where there is none]
    #[arg(long, value_name = "TARGET")]
    on: Vec<Target>,

    /// The least exact arithmetic that linear layers may be computed with: f32, f16 or int8
    ///
    /// Each worker takes what is fastest on its device among what is permitted, and says what that was.
    #[arg(long, value_name = "PRECISION", default_value_t = Precision::F32)]
    precision: Precision,
}

impl Placing {
    /// Finds a model, starts the workers, works with it there, and ends them. `check` looks at the model before a browser is
    /// started, so that what it cannot do is said at once.
    pub(crate) async fn with_model<T>(
        &self,
        context: &Context,
        name: &str,
        kind: ModelKind,
        check: impl FnOnce(&Library, &Resolved, &ModelFolder) -> Result<()>,
        work: impl AsyncFnOnce(&Model) -> Result<T>,
    ) -> Result<T> {
        let library = context.library()?;
        let _in_use = library.in_use()?;
        let resolved = context.resolve(&library, name).await?;
        check(&library, &resolved, &library.open_model(&resolved.root)?)?;
        with_accelerator(
            context,
            Measuring::Wanted,
            || builder(context, &self.on),
            async |accelerator| {
                let model = accelerator.accelerate_model(&resolved.name).root(resolved.root).kind(kind);
                let model = model.precision(self.precision);
                let model = match self.on[..] {
                    [only] => model.on(only).await?,
                    _ => model.await?,
                };
                work(&model).await
            },
        )
        .await
    }
}

/// Refuses a model without a tokenizer that can be read.
pub(crate) fn reads_texts(library: &Library, resolved: &Resolved, model: &ModelFolder) -> Result<()> {
    tabpool::TextEncoder::open(library.store(), &resolved.root, model)?;
    Ok(())
}

/// Refuses a model that takes no pictures.
pub(crate) fn takes_pictures(_: &Library, _: &Resolved, model: &ModelFolder) -> Result<()> {
    takes(model, &PICTURES, "pictures", "models of the families vit, deit, clip and siglip do")
}

/// Refuses a model that takes no sounds.
pub(crate) fn takes_sounds(_: &Library, _: &Resolved, model: &ModelFolder) -> Result<()> {
    takes(model, &SOUNDS, "sounds", "models of the families clap, wav2vec2 and whisper do")
}

/// Whether sounds are what a model takes from files.
pub(crate) fn hears(model: &ModelFolder) -> bool {
    has_input(model, &SOUNDS)
}

/// The inputs that pictures and sounds become.
const PICTURES: [&str; 1] = ["pixel_values"];
const SOUNDS: [&str; 2] = ["input_features", "input_values"];

fn has_input(model: &ModelFolder, names: &[&str]) -> bool {
    model.entries().any(|entry| names.iter().any(|name| entry.signature().input(name).is_some()))
}

fn takes(model: &ModelFolder, inputs: &[&str], what: &str, hint: &str) -> Result<()> {
    if has_input(model, inputs) {
        return Ok(());
    }
    bail!(Hinted::new(format!("the model, one of the family {}, takes no {what}", model.architecture()), hint))
}
