//! One port for one data folder, so that browsers find again what they keep.
//!
//! A browser keeps weights under the origin of the page that stored them, and the port is part of an origin: a pool that
//! listened on another port each time would find every kept profile empty. So the port is chosen once, remembered beside
//! the data, and used whenever it is free. Where it is not, the pool listens elsewhere, and browsers fetch again.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

/// Ports from which one is chosen: above those of known services, below those that systems give to connections.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
/// Ports tried before the system is asked for any.
const TRIES: u16 = 32;

/// Where the pool of a data folder listens; any free port where its own is taken.
pub(crate) fn address(data_dir: &Path) -> SocketAddr {
    let file = data_dir.join("port");
    let remembered = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    if let Some(port) = remembered.filter(|port| *port >= 1024) {
        if is_free(port) {
            return loopback(port);
        }
        tracing::warn!(port, "the data folder's port is taken, so browsers will not find the weights they keep");
        return loopback(0);
    }
    let start = u16::try_from(RandomState::new().hash_one(data_dir) % u64::from(COUNT)).unwrap_or(0);
    let candidates = (0..TRIES).map(|step| FIRST + (start + step) % COUNT);
    let Some(port) = candidates.into_iter().find(|port| is_free(*port)) else { return loopback(0) };
    // Only a convenience is lost where it cannot be remembered; what matters about the folder fails elsewhere, by name.
    if let Err(error) = fs::write(&file, format!("{port}\n")) {
        tracing::warn!(file = %file.display(), %error, "the port cannot be remembered");
    }
    loopback(port)
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::address;

    #[test]
    fn a_folder_keeps_its_port_and_gives_way_where_it_is_taken() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = address(folder.path());
        assert!(first.ip().is_loopback() && first.port() >= 20_000, "{first}");
        assert_eq!(address(folder.path()), first);
        let taken = TcpListener::bind(first).expect("it was free");
        assert_eq!(address(folder.path()).port(), 0, "the system chooses");
        drop(taken);
        assert_eq!(address(folder.path()), first, "being taken once changes nothing");
        for damage in ["", "not a port", "70000", "80"] {
            fs::write(folder.path().join("port"), damage).expect("written");
            assert!(address(folder.path()).port() >= 20_000, "{damage:?}");
        }
    }
}
