//! What every command is given: where data lies, what the terminal can show, and whether somebody wants an end.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use directories::ProjectDirs;
use tabpool::{AddProgress, Library, Model, Resolved};

use crate::arguments::Arguments;
use crate::failure::Hinted;
use crate::interrupt::Interrupt;
use crate::progress::Bars;
use crate::quantity::count;
use crate::terminal::Terminal;

/// What every command is given.
pub(crate) struct Context {
    pub(crate) data_dir: PathBuf,
    /// Threads of each worker on the processor, where somebody said how many.
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) terminal: Terminal,
    pub(crate) bars: Bars,
    pub(crate) interrupt: Interrupt,
}

impl Context {
    pub(crate) fn new(arguments: &Arguments) -> Result<Self> {
        let data_dir = match &arguments.data_dir {
            // Browsers and the pool run elsewhere; what is relative here must not change its meaning there.
            Some(given) => std::path::absolute(given)?,
            None => {
                let platform = ProjectDirs::from("", "", "tabpool").map(|folders| folders.data_dir().to_owned());
                platform.ok_or_else(|| {
                    Hinted::new("this account has no home folder to keep data in", "name a folder with --data-dir")
                })?
            }
        };
        let terminal = Terminal::look();
        let threads = arguments.threads;
        Ok(Self { data_dir, threads, terminal, bars: Bars::new(&terminal), interrupt: Interrupt::watch()? })
    }

    /// The models of the data folder.
    pub(crate) fn library(&self) -> Result<Library> {
        Ok(Library::open(&self.data_dir)?)
    }

    /// Where measurements are kept.
    pub(crate) fn metrics_file(&self) -> PathBuf {
        self.data_dir.join("metrics.duckdb")
    }

    /// Finds the model a person means; a folder is stored on the way, with a bar.
    pub(crate) async fn resolve(&self, library: &Library, name: &str) -> Result<Resolved> {
        let (library, name) = (library.clone(), name.to_owned());
        let bar = self.bars.bytes("storing");
        self.interrupt
            .guard(async move {
                let found = tokio::task::spawn_blocking(move || {
                    library.resolve(&name, &mut |at: AddProgress<'_>| bar.at(at.done, at.total, at.file))
                });
                Ok(found.await??)
            })
            .await
    }

    /// Says of texts that were longer than what the model takes, where there were some.
    pub(crate) fn warn_of_cut(&self, cut: u64, model: &Model) -> Result<()> {
        if cut > 0 {
            let (texts, limit) = (count(cut, "text"), model.text_encoder()?.max_tokens());
            self.terminal.warn(&format!("{texts} had more than {limit} tokens; what came after them was left out"));
        }
        Ok(())
    }
}
