//! The few system calls the standard library does not wrap: signals, sessions, and waiting without reaping.
//!
//! All `unsafe` of this crate is here. Each call passes plain integers, or a local the kernel fills.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What is sent to a process or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// A request to end in good order.
    Terminate,
    /// The end, at once.
    Kill,
}

impl Signal {
    const fn number(self) -> libc::c_int {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
        }
    }
}

/// Sends `signal` to one process. A process that is gone already counts as reached.
pub(crate) fn send(pid: u32, signal: Signal) {
    let Some(pid) = positive(pid) else { return };
    // SAFETY: kill takes two integers and touches no memory of this process.
    unsafe { libc::kill(pid, signal.number()) };
}

/// Sends `signal` to every process of the group `group` in one step, so that none can fork away meanwhile.
pub(crate) fn send_to_group(group: u32, signal: Signal) {
    let Some(group) = positive(group) else { return };
    // SAFETY: as above; a negative number names a group.
    unsafe { libc::kill(-group, signal.number()) };
}

/// 0 and 1 are never meant: as a group they would be our own group and every process there is.
fn positive(id: u32) -> Option<libc::pid_t> {
    libc::pid_t::try_from(id).ok().filter(|id| *id > 1)
}

/// Blocks until the child `pid` has ended and leaves it unreaped, so that its number, and its group's, cannot be
/// given to a stranger while the rest of the group is being ended.
pub(crate) fn wait_without_reaping(pid: u32) -> io::Result<()> {
    loop {
        // SAFETY: an all-zero siginfo_t is a valid value of this plain C structure.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a live local that the kernel may fill, the other arguments are integers.
        let outcome =
            unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
        if outcome == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Makes `command` start in a session, and so in a process group, of its own: what a terminal sends to the host's
/// group (Ctrl-C, hang-up) does not reach it.
pub(crate) fn in_own_session(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; setsid is one, and nothing allocates.
    unsafe {
        command.pre_exec(|| if libc::setsid() == -1 { Err(io::Error::last_os_error()) } else { Ok(()) });
    }
}

/// Makes `command` start with every signal ignored by which a terminal, or an orderly end of everything, ends or stops a
/// process. What is ignored stays so when the program is replaced, so there is no moment in which one could arrive.
pub(crate) fn ignoring_orderly_ends(command: &mut Command) {
    const IGNORED: [libc::c_int; 7] =
        [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; signal is one, and nothing allocates.
    unsafe {
        command.pre_exec(|| {
            let refused = |signal: &libc::c_int| libc::signal(*signal, libc::SIG_IGN) == libc::SIG_ERR;
            if IGNORED.iter().any(refused) { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
}

/// Whether this process runs as root, for which Chromium refuses its sandbox.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
