//! Ports on the loopback interface, chosen once for each folder, so that a restart uses the same ones.

use std::{collections::BTreeMap, fs, io, net::TcpListener, path::PathBuf};

use crate::workspace::{Workspace, write_private};

/// The chosen ports, by the name of the listener.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    file: PathBuf,
    chosen: BTreeMap<String, u16>,
}

impl Ports {
    /// Reads the ports of the last run. If the file is missing or unreadable, all are chosen anew.
    pub(crate) fn open(workspace: &Workspace) -> Ports {
        let file = workspace.config("ports.json");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let chosen = serde_json::from_str(&text).unwrap_or_default();
        Ports { file, chosen }
    }

    /// Chooses the first free port of: the usual one, the last one, any. Another process may take it before its
    /// owner listens; the owner then fails to start, with the reason in its log.
    pub(crate) fn choose(&mut self, name: &str, usual: Option<u16>) -> io::Result<u16> {
        let last = self.chosen.remove(name);
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let port = match usual.into_iter().chain(last).find(|port| is_free(*port)) {
            Some(port) => port,
            None => self.any()?,
        };
        self.chosen.insert(name.to_owned(), port);
        Ok(port)
    }

    /// Any free port that is not yet chosen for another listener.
    fn any(&self) -> io::Result<u16> {
        loop {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            if !self.chosen.values().any(|taken| *taken == port) {
                return Ok(port);
            }
        }
    }

    pub(crate) fn save(&self) -> io::Result<()> {
        write_private(&self.file, &serde_json::to_vec_pretty(&self.chosen)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_kept_unless_it_is_taken() {
        let mut ports = Ports::default();
        let first = ports.choose("order", None).unwrap();
        assert_eq!(ports.choose("order", None).unwrap(), first);
        let taken = TcpListener::bind(("127.0.0.1", first)).unwrap();
        let second = ports.choose("order", Some(first)).unwrap();
        assert_ne!(second, first);
        drop(taken);
        assert_eq!(ports.choose("order", None).unwrap(), second);
        assert_eq!(ports.choose("order", Some(first)).unwrap(), first);
    }
}
