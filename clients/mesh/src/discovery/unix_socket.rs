//! `unix:` targets: one endpoint, a socket of this machine, in the format of gRPC's name syntax.

use std::sync::Arc;

use http::uri::{Authority, Scheme};

use super::{Address, labels::Labels};

/// Parses what follows `unix:`: `path`, relative or absolute, or `///path`, which is absolute.
pub(super) fn parse(text: &str) -> Result<Address, String> {
    let path = match text.strip_prefix("//") {
        Some(path) if !path.starts_with('/') => {
            return Err("must have an absolute path after `unix://`".to_owned());
        }
        Some(path) => path,
        None => text,
    };
    if path.contains(';') {
        return Err("must have no labels and no zone, and no `;` in its path".to_owned());
    }
    check(path)?;
    Ok(Address {
        scheme: Scheme::HTTP,
        // As in other gRPC clients: a path is no valid authority.
        authority: Authority::from_static("localhost"),
        host: Arc::from(path),
        port: None,
        zone: None,
        labels: Labels::default(),
    })
}

#[cfg(unix)]
fn check(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("must have a path after `unix:`".to_owned());
    }
    // The operating system bounds the path, to 107 bytes on Linux.
    let socket = std::os::unix::net::SocketAddr::from_pathname(path);
    socket
        .map(drop)
        .map_err(|error| format!("must be the path of a socket: {error}"))
}

#[cfg(not(unix))]
fn check(_: &str) -> Result<(), String> {
    Err("this operating system has no Unix sockets".to_owned())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_relative_or_absolute_and_the_authority_is_localhost() {
        for (text, path) in [
            ("/run/a.sock", "/run/a.sock"),
            ("///run/a.sock", "/run/a.sock"),
            ("run/a.sock", "run/a.sock"),
        ] {
            let address = parse(text).unwrap();
            assert_eq!((&*address.host, address.port), (path, None));
            assert_eq!(address.authority, "localhost");
            assert_eq!(address.to_string(), format!("localhost ({path})"));
            assert_eq!(address.peer(None), (path.to_owned(), None));
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_rejected() {
        for (text, reason) in [
            ("", "path"),
            ("//run/a.sock", "absolute"),
            ("a\0b", "path of a socket"),
            (&"a".repeat(200), "path of a socket"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
