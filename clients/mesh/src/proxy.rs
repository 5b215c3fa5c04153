//! Tunnels through an HTTP proxy (CONNECT: RFC 9110, section 9.3.6, and gRFC A1).

use std::{fmt, pin::pin};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header::HOST, uri::Scheme};
use http_body_util::Empty;
use hyper::{client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Maximum size of the head of the proxy's response. Bytes.
const MAX_RESPONSE_HEAD: usize = 16 * 1024;

/// The address of an HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why a proxy has not opened a tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("the proxy refused it with {0}")]
    Refused(StatusCode),
    #[error("no valid response from the proxy")]
    Http(#[from] hyper::Error),
    #[error("`{0}` cannot be requested from a proxy")]
    Target(String, #[source] http::Error),
}

impl Proxy {
    /// Parses `http://host:port`.
    pub(crate) fn parse(text: &str) -> Result<Proxy, String> {
        // The text is not repeated in errors, because it may contain a password.
        let wrong = || "must be http://HOST:PORT".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err("must hold no user and no password".to_owned());
        }
        if uri.scheme() != Some(&Scheme::HTTP) || uri.path() != "/" || uri.query().is_some() {
            return Err(wrong());
        }
        Ok(Proxy {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().ok_or_else(wrong)?,
        })
    }
}

/// Opens a tunnel to `host` and `port` over a connection to a proxy, which resolves the name. The caller bounds the
/// time.
pub(crate) async fn open_tunnel(
    proxy: TcpStream,
    host: &str,
    port: u16,
) -> Result<TokioIo<Upgraded>, TunnelError> {
    let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
    let target = format!("{open}{host}{close}:{port}");
    let request = Request::connect(&target)
        .header(HOST, &target)
        .body(Empty::<Bytes>::new())
        .map_err(|error| TunnelError::Target(target, error))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_RESPONSE_HEAD)
        .handshake(TokioIo::new(proxy))
        .await?;
    let mut exchange = pin!(async move {
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::OK => Ok(hyper::upgrade::on(response).await?),
            status => Err(TunnelError::Refused(status)),
        }
    });
    let upgraded = tokio::select! {
        biased;
        exchanged = &mut exchange => exchanged?,
        // Ends when the proxy has opened the tunnel.
        ended = connection.with_upgrades() => {
            ended?;
            exchange.await?
        }
    };
    Ok(TokioIo::new(upgraded))
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_host_and_a_port_and_nothing_else() {
        let proxy = |host: &str, port| Proxy {
            host: host.to_owned(),
            port,
        };
        assert_eq!(Proxy::parse("http://proxy:3128"), Ok(proxy("proxy", 3128)));
        assert_eq!(Proxy::parse("http://[::1]:3128/"), Ok(proxy("::1", 3128)));
        for (text, reason) in [
            ("proxy:3128", "http://HOST:PORT"),
            ("http://proxy", "http://HOST:PORT"),
            ("https://proxy:3128", "http://HOST:PORT"),
            ("http://proxy:3128/path", "http://HOST:PORT"),
            ("http://user:secret@proxy:3128", "no password"),
            ("", "http://HOST:PORT"),
        ] {
            let error = Proxy::parse(text).unwrap_err();
            assert!(error.contains(reason) && !error.contains("secret"), "{error}");
        }
    }
}
