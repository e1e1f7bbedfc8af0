//! The processes of this machine, as far as ending and weighing browsers needs them.
//!
//! A browser is many processes, and not all of them stay in its group: a crash handler starts a session of its
//! own, and orphans lose their parent. So a process belongs to a browser when any of these holds: it is in the
//! browser's group, it descends from it, its command line names the profile folder as a browser does, or its
//! environment carries the mark every launch sets ([`PROFILE_VARIABLE`]). Each alone misses some; together they
//! found every process of Chromium 156 and Firefox 153.
//!
//! On Linux the table is read from `/proc`; elsewhere `ps` is asked, which shows no environments.

use std::collections::HashSet;
use std::path::Path;

/// Set in the environment of every browser started, to the profile folder. Children inherit it, and on Linux it
/// can be read back, so that a helper process which left the group is still recognised.
pub(crate) const PROFILE_VARIABLE: &str = "TABPOOL_PROFILE";

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its number.
    pub pid: u32,
    /// The number of its parent.
    pub parent: u32,
    /// The process group it is in.
    pub group: u32,
    /// Its arguments, joined by spaces.
    pub command: String,
}

/// A process and whether it is one of a given browser's by its command line or environment.
#[derive(Debug)]
pub(crate) struct TableRow {
    pub(crate) info: ProcessInfo,
    pub(crate) names_profile: bool,
}

/// All living processes; the defunct are left out, for they hold nothing and cannot be ended. `profile` decides
/// [`TableRow::names_profile`].
pub(crate) fn table(profile: &Path) -> Vec<TableRow> {
    if cfg!(target_os = "linux") { proc_filesystem::table(profile) } else { ps::table(profile) }
}

/// The processes of the browser that was started as `leader` on `profile`, this process excluded.
pub(crate) fn of_browser(leader: Option<u32>, profile: &Path) -> Vec<ProcessInfo> {
    select(table(profile), leader)
}

fn select(rows: Vec<TableRow>, leader: Option<u32>) -> Vec<ProcessInfo> {
    let myself = std::process::id();
    let mut members: HashSet<u32> = rows
        .iter()
        .filter(|row| row.names_profile || leader.is_some_and(|pid| row.info.pid == pid || row.info.group == pid))
        .map(|row| row.info.pid)
        .collect();
    members.remove(&myself);
    // Children of members are members. The table is in no order, so this runs until nothing changes; each round
    // adds at least one process, which bounds it.
    loop {
        let before = members.len();
        for row in &rows {
            if row.info.pid != myself && members.contains(&row.info.parent) {
                members.insert(row.info.pid);
            }
        }
        if members.len() == before {
            break;
        }
    }
    rows.into_iter().map(|row| row.info).filter(|info| members.contains(&info.pid)).collect()
}

/// Whether a command line, its arguments ended by NUL or joined by spaces, starts a browser on `profile`. The
/// folder as such is not enough: an editor or a `tail` may name it too.
fn command_names_profile(command: &[u8], profile: &[u8]) -> bool {
    // Chromium's children rewrite their command line with spaces in place of the NULs.
    let mut line: Vec<u8> = command.iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect();
    line.push(b' ');
    [b"--user-data-dir=".as_slice(), b"--profile ", b"-profile "].iter().any(|option| {
        let wanted = [option, profile, b" "].concat();
        line.windows(wanted.len()).any(|window| window == wanted)
    })
}

/// Whether an environment block, entries ended by NUL, carries the mark of a launch on `profile`.
fn environment_names_profile(environment: &[u8], profile: &[u8]) -> bool {
    let wanted = [PROFILE_VARIABLE.as_bytes(), b"=", profile].concat();
    environment.split(|&byte| byte == 0).any(|entry| entry == wanted)
}

/// The proportional share of memory of these processes in bytes: shared pages count once over all sharers, so the
/// sum is what ending them would free. Where the kernel tells no share the resident size is taken. `None` where
/// the platform offers neither.
pub(crate) fn memory(pids: impl IntoIterator<Item = u32>) -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    Some(pids.into_iter().filter_map(proc_filesystem::memory).sum())
}

/// A value that no later process with the same number shares, where the platform tells one.
pub(crate) fn start_stamp(pid: u32) -> Option<String> {
    if cfg!(target_os = "linux") { proc_filesystem::start_stamp(pid) } else { ps::start_stamp(pid) }
}

mod proc_filesystem {
    //! Linux.

    use std::fs;
    use std::path::Path;

    use super::{ProcessInfo, TableRow, command_names_profile, environment_names_profile};

    /// Fields of `/proc/PID/stat` after the name, which is in parentheses and may itself hold anything.
    fn stat_fields(stat: &str) -> Option<Vec<&str>> {
        Some(stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect())
    }

    pub(super) fn table(profile: &Path) -> Vec<TableRow> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let profile = profile.as_os_str().as_encoded_bytes();
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            // A process may end between two reads; one that cannot be read in full is gone or not ours.
            .filter_map(|pid| row(pid, profile))
            .collect()
    }

    fn row(pid: u32, profile: &[u8]) -> Option<TableRow> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let fields = stat_fields(&stat)?;
        let (state, parent, group) = (*fields.first()?, fields.get(1)?.parse().ok()?, fields.get(2)?.parse().ok()?);
        if matches!(state, "Z" | "X") {
            return None;
        }
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let names_profile = command_names_profile(&command, profile)
            || fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environment| environment_names_profile(&environment, profile));
        let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
        Some(TableRow { info: ProcessInfo { pid, parent, group, command }, names_profile })
    }

    pub(super) fn memory(pid: u32) -> Option<u64> {
        let shares = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
        let status = || fs::read_to_string(format!("/proc/{pid}/status")).ok();
        shares
            .and_then(|text| kibibytes(&text, "Pss:"))
            .or_else(|| status().and_then(|text| kibibytes(&text, "VmRSS:")))
            .map(|kibibytes| kibibytes * 1024)
    }

    fn kibibytes(text: &str, field: &str) -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(field))?.split_ascii_whitespace().next()?.parse().ok()
    }

    /// Clock ticks since boot, with the boot's own id: ticks alone would repeat after a restart of the machine.
    pub(super) fn start_stamp(pid: u32) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let ticks = (*stat_fields(&stat)?.get(19)?).to_owned();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Some(format!("{ticks}@{}", boot.trim()))
    }
}

mod ps {
    //! macOS and the BSDs, through the `ps` that POSIX promises.

    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::{ProcessInfo, TableRow, command_names_profile};

    pub(super) fn table(profile: &Path) -> Vec<TableRow> {
        let listing = Command::new("/bin/ps")
            .args(["-axww", "-o", "pid=,ppid=,pgid=,stat=,command="])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let Ok(listing) = listing else { return Vec::new() };
        parse(&String::from_utf8_lossy(&listing.stdout), profile)
    }

    pub(super) fn parse(listing: &str, profile: &Path) -> Vec<TableRow> {
        let profile = profile.as_os_str().as_encoded_bytes();
        listing.lines().filter_map(|line| row(line, profile)).collect()
    }

    fn row(line: &str, profile: &[u8]) -> Option<TableRow> {
        let mut rest = line;
        let mut field = || {
            let (word, tail) = rest.trim_start().split_once(' ').unwrap_or((rest.trim_start(), ""));
            rest = tail;
            word
        };
        let (pid, parent, group) = (field().parse().ok()?, field().parse().ok()?, field().parse().ok()?);
        if field().starts_with('Z') {
            return None;
        }
        let command = rest.trim().to_owned();
        let names_profile = command_names_profile(command.as_bytes(), profile);
        Some(TableRow { info: ProcessInfo { pid, parent, group, command }, names_profile })
    }

    pub(super) fn start_stamp(pid: u32) -> Option<String> {
        let output = Command::new("/bin/ps")
            .args(["-o", "lstart=", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{
        ProcessInfo, TableRow, command_names_profile, environment_names_profile, ps, select, start_stamp, table,
    };

    #[test]
    fn a_command_line_names_a_profile_only_as_a_browser_would() {
        let profile = b"/p/keep-a";
        assert!(command_names_profile(b"chromium\0--user-data-dir=/p/keep-a\0about:blank\0", profile));
        assert!(command_names_profile(b"chromium --type=zygote --user-data-dir=/p/keep-a", profile));
        assert!(command_names_profile(b"firefox\0--profile\0/p/keep-a\0", profile));
        assert!(!command_names_profile(b"chromium\0--user-data-dir=/p/keep-ab\0", profile));
        assert!(!command_names_profile(b"tail\0-f\0/p/keep-a\0", profile));
        assert!(!command_names_profile(b"", profile));
    }

    #[test]
    fn an_environment_names_a_profile_only_in_full() {
        assert!(environment_names_profile(b"A=1\0TABPOOL_PROFILE=/p/x\0", b"/p/x"));
        assert!(!environment_names_profile(b"A=1\0TABPOOL_PROFILE=/p/xy\0", b"/p/x"));
        assert!(!environment_names_profile(b"NOT_TABPOOL_PROFILE=/p/x\0", b"/p/x"));
    }

    fn row(pid: u32, parent: u32, group: u32, names_profile: bool) -> TableRow {
        TableRow { info: ProcessInfo { pid, parent, group, command: String::new() }, names_profile }
    }

    #[test]
    fn group_descendants_and_marked_processes_belong_and_no_others() {
        let rows = vec![
            row(910, 1, 900, false),   // In the group, its parent gone.
            row(905, 904, 905, false), // A grandchild in a session of its own, listed before its parent.
            row(904, 900, 900, false),
            row(900, 10, 900, false),
            row(950, 1, 950, true), // Marked only.
            row(960, 10, 10, false),
        ];
        let mut pids: Vec<u32> = select(rows, Some(900)).into_iter().map(|info| info.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [900, 904, 905, 910, 950]);
    }

    #[test]
    fn this_process_is_never_selected() {
        let myself = std::process::id();
        assert_eq!(select(vec![row(myself, 900, 900, true)], Some(900)), Vec::new());
    }

    #[test]
    fn the_table_holds_this_process_and_a_stamp_that_lasts() {
        let myself = std::process::id();
        assert!(table(Path::new("/nowhere")).iter().any(|row| row.info.pid == myself));
        let stamp = start_stamp(myself);
        assert!(stamp.is_some());
        assert_eq!(stamp, start_stamp(myself));
    }

    #[test]
    fn a_listing_of_ps_is_read_line_by_line() {
        let listing = "    1     0     1 Ss   /sbin/launchd\n  502   1   502 S+ /A/Firefox --profile /p/x --headless\n  \
                       503   502   502 Z    (plugin)\nheader that is none\n";
        let rows = ps::parse(listing, Path::new("/p/x"));
        assert_eq!(rows.len(), 2);
        assert!(!rows[0].names_profile);
        assert_eq!(rows[1].info.command, "/A/Firefox --profile /p/x --headless");
        assert!(rows[1].names_profile);
    }
}
