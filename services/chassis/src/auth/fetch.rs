//! One small document over HTTP/1.1, bounded in time and size.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the URL is wrong")]
    Url(#[from] http::Error),
    #[error("the URL is wrong")]
    Uri(#[from] http::uri::InvalidUri),
    #[error("the URL names no host that a certificate could be for")]
    Host,
    #[error("the connection failed")]
    Connect(#[from] std::io::Error),
    #[error("the exchange failed")]
    Exchange(#[from] hyper::Error),
    #[error("the answer was {0}")]
    Answer(StatusCode),
    #[error("the document is larger than {MAX_BYTES} bytes, or was cut off")]
    Body,
    #[error("there was no answer within {} s", PATIENCE.as_secs())]
    Slow,
}

/// Fetches the document at `url`.
pub(super) async fn get(url: &str) -> Result<Bytes, Error> {
    tokio::time::timeout(PATIENCE, fetch(url.parse()?))
        .await
        .unwrap_or(Err(Error::Slow))
}

async fn fetch(uri: Uri) -> Result<Bytes, Error> {
    let host = uri.host().ok_or(Error::Host)?.trim_matches(['[', ']']).to_owned();
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    let response = if secure {
        let name = ServerName::try_from(host).map_err(|_| Error::Host)?;
        exchange(TlsConnector::from(tls()).connect(name, tcp).await?, &uri).await?
    } else {
        exchange(tcp, &uri).await?
    };
    if response.status() != StatusCode::OK {
        return Err(Error::Answer(response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_BYTES)
        .collect()
        .await
        .map_err(|_| Error::Body)?;
    Ok(body.to_bytes())
}

async fn exchange<I>(io: I, uri: &Uri) -> Result<http::Response<Incoming>, Error>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    // Ends with the exchange: the server is asked to close, and `get` bounds how long anyone waits.
    tokio::spawn(connection);
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(
            header::HOST,
            uri.authority().map_or("", |authority| authority.as_str()),
        )
        .header(header::CONNECTION, "close")
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

fn tls() -> Arc<ClientConfig> {
    let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Arc::new(
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}
