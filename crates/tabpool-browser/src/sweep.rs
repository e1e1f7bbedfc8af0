//! Removing what earlier hosts left behind: ephemeral profiles whose owner is dead, and browsers still on them.
//!
//! A host's guards normally see to both. A sweep is for what even they could not: a machine that lost power, a
//! container that was ended as a whole, a guard that somebody killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::process;
use crate::profile::{
    EPHEMERAL_PREFIX, KEPT_PREFIX, LOCK_SUFFIX, ProfileError, ProfileLock, lock_path, remove_folder,
    remove_socket_folder,
};
use crate::signal::{self, Signal};

/// How long the processes of a stale profile may take to be gone after SIGKILL.
const END_LIMIT: Duration = Duration::from_secs(5);

/// What [`sweep`] found and did.
#[derive(Debug, Default)]
pub struct SweepReport {
    /// Ephemeral profiles removed, their owners dead.
    pub removed: Vec<PathBuf>,
    /// Processes ended because they still used a profile without a living owner.
    pub ended: Vec<u32>,
    /// Profiles that somebody answers for: a living host, this one included, or the guard of a dead one at its work.
    pub in_use: usize,
    /// What could not be cleaned, and why.
    pub failed: Vec<ProfileError>,
}

/// Cleans `profiles`, the folder given to launches. Profiles with a living owner are untouched, and so is every
/// process on them. An absent folder is a clean one. Blocks for as long as the removals take.
#[must_use]
pub fn sweep(profiles: &Path) -> SweepReport {
    let mut report = SweepReport::default();
    let Ok(root) = profiles.canonicalize() else { return report };
    let entries = match fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(source) => {
            report.failed.push(ProfileError::Io { action: "list", path: root, source });
            return report;
        }
    };
    let mut folders: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            // A lock file without a folder is what remains of an owner that died between the two.
            let name = name.strip_suffix(LOCK_SUFFIX).unwrap_or(&name);
            (name.starts_with(EPHEMERAL_PREFIX) || name.starts_with(KEPT_PREFIX)).then(|| root.join(name))
        })
        .collect();
    folders.sort();
    folders.dedup();
    for folder in folders {
        if let Err(error) = sweep_one(&folder, &mut report) {
            report.failed.push(error);
        }
    }
    report
}

fn sweep_one(folder: &Path, report: &mut SweepReport) -> Result<(), ProfileError> {
    let Some(lock) = ProfileLock::try_acquire(&lock_path(folder))? else {
        report.in_use += 1;
        return Ok(());
    };
    report.ended.extend(end_users(folder));
    remove_socket_folder(folder);
    let ephemeral = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(EPHEMERAL_PREFIX));
    if ephemeral {
        remove_folder(folder).map_err(|source| ProfileError::Io {
            action: "remove the stale profile folder",
            path: folder.to_owned(),
            source,
        })?;
        lock.remove()?;
        report.removed.push(folder.to_owned());
    }
    Ok(())
}

/// Kills every process on `folder`, whose lock the caller holds: whoever is still there has no living owner.
/// Gives the numbers of those it killed.
pub(crate) fn end_users(folder: &Path) -> Vec<u32> {
    let mut ended = Vec::new();
    let deadline = Instant::now() + END_LIMIT;
    loop {
        let users = process::of_browser(None, folder);
        if users.is_empty() || Instant::now() > deadline {
            return ended;
        }
        for user in users {
            signal::send(user.pid, Signal::Kill);
            if !ended.contains(&user.pid) {
                ended.push(user.pid);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;
    use std::path::Path;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::{Signal, process, signal, sweep};
    use crate::profile::{Profile, ProfileKind, lock_path};

    /// Ends a test's own child with its children.
    fn end_tree(pid: u32) {
        for member in process::of_browser(Some(pid), Path::new("/nowhere")) {
            signal::send(member.pid, Signal::Kill);
        }
    }

    fn ended(child: &mut Child) -> std::io::Result<bool> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if child.try_wait()?.is_some() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(false)
    }

    #[test]
    fn removes_the_stale_and_spares_the_owned_and_the_kept() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let owned = Profile::acquire(root.path(), &ProfileKind::Ephemeral)?;
        let kept = Profile::acquire(root.path(), &ProfileKind::Kept("a".to_owned()))?;
        let kept_folder = kept.folder().to_owned();
        kept.release()?;
        // As a host that was killed leaves it: this very process number, and nobody holding the lock.
        let stale = root.path().join(format!("ephemeral-{}-0123456789abcdef", std::process::id()));
        fs::create_dir(&stale)?;
        fs::write(lock_path(&stale), "process 1 started never")?;
        let bare = root.path().join("ephemeral-1-0000000000000000");
        fs::create_dir(&bare)?;
        fs::write(root.path().join("ephemeral-2-0000000000000000.lock"), "")?;
        fs::write(root.path().join("notes.txt"), "not ours")?;

        let report = sweep(root.path());

        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!(report.removed.len(), 3);
        assert_eq!(report.in_use, 1);
        assert!(owned.folder().exists() && kept_folder.exists() && root.path().join("notes.txt").exists());
        assert!(!stale.exists() && !bare.exists() && !lock_path(&stale).exists());
        owned.release()?;
        Ok(())
    }

    #[test]
    fn ends_only_processes_that_use_a_stale_profile() -> Result<(), Box<dyn Error>> {
        let root = tempfile::tempdir()?;
        let base = root.path().canonicalize()?;
        let stale = base.join("ephemeral-1-00000000000000aa");
        fs::create_dir(&stale)?;
        let owned = Profile::acquire(&base, &ProfileKind::Ephemeral)?;
        let option = |folder: &Path| format!("--user-data-dir={}", folder.display());
        // The shell stays beside its sleep, so its arguments stay on the command line; it says when the sleep is there.
        let start = |argument: String| -> std::io::Result<std::process::Child> {
            let script = "sleep 60 >&2 & echo; wait";
            let mut shell = Command::new("/bin/sh");
            let mut child = shell.args(["-c", script, "sh", &argument]).stdout(std::process::Stdio::piped()).spawn()?;
            if let Some(output) = &mut child.stdout {
                std::io::Read::read_exact(output, &mut [0])?;
            }
            Ok(child)
        };
        let mut user = start(option(&stale))?;
        let mut bystander = start(stale.display().to_string())?;
        let mut other = start(option(owned.folder()))?;

        let report = sweep(&base);

        assert!(ended(&mut user)?, "the browser on the stale profile still runs");
        assert!(report.ended.contains(&user.id()));
        assert_eq!(report.ended.len(), 2, "the shell and its sleep");
        assert!(bystander.try_wait()?.is_none() && other.try_wait()?.is_none());
        for child in [&mut bystander, &mut other] {
            end_tree(child.id());
            child.wait()?;
        }
        owned.release()?;
        Ok(())
    }
}
