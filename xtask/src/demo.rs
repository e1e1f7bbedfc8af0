//! Placeholder.
use crate::workspace::Workspace;
pub(crate) fn run(_: &Workspace, _: &[String]) -> anyhow::Result<()> { anyhow::bail!("not built yet") }
