//! Fetches one small document over HTTP/1.1, with a bound on time and size.

use std::{path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::Settings;
use crate::SecretUrl;

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the URL must be https://host/…, or http:// if auth.jwks_allow_http allows it")]
    Url,
    #[error("TLS cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
    #[error("auth.jwks_ca_file: {} cannot be used: {reason}", path.display())]
    Authorities { path: PathBuf, reason: String },
    #[error("the connection failed")]
    Connect(#[from] std::io::Error),
    #[error("the HTTP request failed")]
    Http(#[from] hyper::Error),
    #[error("the response was {0}: redirects are not followed, name the final URL")]
    Redirect(StatusCode),
    #[error("the response was {0}")]
    Status(StatusCode),
    #[error("the document is larger than {MAX_BYTES} bytes, or was cut off")]
    Body,
    #[error("there was no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// The URL of the document, and which certificates its server may have.
pub(super) struct Location {
    url: SecretUrl,
    uri: Uri,
    host: String,
    /// `user:password`, sent as HTTP basic authentication.
    credentials: Option<String>,
    /// The trusted authorities of the server for `https://`; `None` for `http://`.
    trust: Option<Trust>,
}

enum Trust {
    Public,
    /// Read again for every fetch, so that an authority can be replaced.
    File(PathBuf),
}

impl Location {
    /// Parses the URL of the settings. Does not connect.
    pub(super) fn new(settings: &Settings) -> Result<Location, Error> {
        let uri: Uri = settings.jwks_url.expose().parse().map_err(|_| Error::Url)?;
        let authority = uri.authority().ok_or(Error::Url)?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(Error::Url)?;
        let trust = match (uri.scheme_str(), &settings.jwks_ca_file) {
            (Some("https"), Some(path)) => Some(Trust::File(path.clone())),
            (Some("https"), None) => Some(Trust::Public),
            (Some("http"), _) if settings.jwks_allow_http => None,
            _ => return Err(Error::Url),
        };
        let credentials = authority
            .as_str()
            .rsplit_once('@')
            .map(|(user, _)| percent_decode_str(user).decode_utf8_lossy().into_owned());
        Ok(Location {
            url: settings.jwks_url.clone(),
            host: host.trim_matches(['[', ']']).to_owned(),
            credentials,
            trust,
            uri,
        })
    }

    /// The URL without its secrets.
    pub(super) fn masked_url(&self) -> String {
        self.url.to_string()
    }

    /// Fetches the document.
    pub(super) async fn get(&self) -> Result<Bytes, Error> {
        tokio::time::timeout(TIMEOUT, self.fetch())
            .await
            .unwrap_or(Err(Error::Timeout))
    }

    async fn fetch(&self) -> Result<Bytes, Error> {
        let default_port = if self.trust.is_some() { 443 } else { 80 };
        let port = self.uri.port_u16().unwrap_or(default_port);
        let response = match &self.trust {
            Some(trust) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|_| Error::Url)?;
                let connector = TlsConnector::from(trust.client().await?);
                let tcp = TcpStream::connect((self.host.as_str(), port)).await?;
                self.send_request(connector.connect(name, tcp).await?).await?
            }
            None => {
                self.send_request(TcpStream::connect((self.host.as_str(), port)).await?)
                    .await?
            }
        };
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => return Err(Error::Redirect(status)),
            status => return Err(Error::Status(status)),
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await
            .map_err(|_| Error::Body)?;
        Ok(body.to_bytes())
    }

    async fn send_request<I>(&self, io: I) -> Result<http::Response<Incoming>, Error>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        // Ends with the response: the server is asked to close, and `get` bounds the time.
        tokio::spawn(connection);
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let mut request = Request::get(self.uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, host)
            .header(header::CONNECTION, "close")
            .header(header::ACCEPT, "application/jwk-set+json, application/json");
        if let Some(credentials) = &self.credentials {
            let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(credentials)))
                .map_err(http::Error::from)?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        Ok(sender.send_request(request.body(Empty::<Bytes>::new())?).await?)
    }
}

impl Trust {
    async fn client(&self) -> Result<Arc<ClientConfig>, Error> {
        let mut roots = RootCertStore::empty();
        match self {
            Trust::Public => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Trust::File(path) => {
                let unusable = |reason: String| Error::Authorities {
                    path: path.clone(),
                    reason,
                };
                let pem = tokio::fs::read(path)
                    .await
                    .map_err(|error| unusable(error.to_string()))?;
                for authority in CertificateDer::pem_slice_iter(&pem) {
                    let authority = authority.map_err(|error| unusable(error.to_string()))?;
                    roots
                        .add(authority)
                        .map_err(|error| unusable(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(unusable("it holds no certificate".to_owned()));
                }
            }
        }
        // Named, because another library of the process may bring a second provider.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Arc::new(
            config.with_root_certificates(roots).with_no_client_auth(),
        ))
    }
}

#[cfg(test)]
mod tests;
