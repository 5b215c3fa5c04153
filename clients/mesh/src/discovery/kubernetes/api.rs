//! Requests to the Kubernetes API: each on its own connection, with the current contents of the token and CA
//! files. There are about two requests in some minutes, so that a connection pool would be useless.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::account::Account;

/// Timeout of connecting and receiving the response headers, and of receiving each page of a list.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a page of slices, or of one slice in a watch. Bytes.
const MAX_BUFFERED: usize = 8 * 1024 * 1024;

/// Why a request to the API failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("{0} cannot be read")]
    File(PathBuf, #[source] io::Error),
    #[error("{0} contains no CA certificate")]
    Authority(PathBuf),
    #[error("no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    #[error("cannot connect to {0}")]
    Connect(String, #[source] io::Error),
    #[error("TLS handshake with {0} failed")]
    Tls(String, #[source] io::Error),
    #[error("the connection is broken")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
    #[error("response {0}: {1}")]
    Refused(u16, String),
    #[error("the requested version has expired")]
    Expired,
    #[error("a message exceeds {MAX_BUFFERED} bytes")]
    TooLarge,
    #[error("the Service has more than {0} EndpointSlices")]
    TooMany(usize),
    #[error("the response cannot be decoded")]
    Json(#[from] serde_json::Error),
    #[error("the watch ended at once")]
    WatchEndedEarly,
}

impl ApiError {
    /// The error of an HTTP status code. 410 means that the slices must be listed again.
    pub(super) fn refused(code: u16, message: &str) -> ApiError {
        if code == StatusCode::GONE.as_u16() {
            ApiError::Expired
        } else {
            ApiError::Refused(code, message.chars().take(300).collect())
        }
    }
}

/// A client of the API.
#[derive(Debug)]
pub(super) struct Api {
    account: Account,
}

/// A response body that is being received.
pub(super) struct Lines {
    body: Incoming,
    received: BytesMut,
    /// Drives the connection until this value is dropped.
    _connection: JoinSet<()>,
}

impl Api {
    pub(super) fn new(account: Account) -> Api {
        Api { account }
    }

    /// Sends a GET and returns the body of a successful response.
    pub(super) async fn get(&self, path: &str) -> Result<Lines, ApiError> {
        let answer = timeout(REQUEST_TIMEOUT, self.request(path)).await;
        let (code, lines) = answer.unwrap_or(Err(ApiError::Timeout))?;
        if code.is_success() {
            return Ok(lines);
        }
        let text = lines.read_to_end().await.unwrap_or_default();
        let status: Status = serde_json::from_slice(&text).unwrap_or_default();
        Err(ApiError::refused(code.as_u16(), &status.message))
    }

    async fn request(&self, path: &str) -> Result<(StatusCode, Lines), ApiError> {
        let Account { host, port, .. } = &self.account;
        let at = || format!("{host}:{port}");
        let stream = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(|error| ApiError::Connect(at(), error))?;
        let token = self
            .account
            .token()
            .map_err(|error| ApiError::File(self.account.file("token"), error))?;
        let host_header = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            at()
        };
        let mut request = Request::get(path)
            .header(header::HOST, host_header)
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("weft-mesh/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::new())?;
        if !self.account.secured {
            return send_request(stream, request).await;
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|error| ApiError::Tls(at(), io::Error::other(error)))?;
        let tls = TlsConnector::from(self.tls()?)
            .connect(name, stream)
            .await
            .map_err(|error| ApiError::Tls(at(), error))?;
        send_request(tls, request).await
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, ApiError> {
        let path = self.account.file("ca.crt");
        let pem = std::fs::read(&path).map_err(|error| ApiError::File(path.clone(), error))?;
        let mut authorities = RootCertStore::empty();
        let parsed: Vec<_> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
        if authorities.add_parsable_certificates(parsed).0 == 0 {
            return Err(ApiError::Authority(path));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ApiError::Tls(self.account.host.clone(), io::Error::other(error)))?
            .with_root_certificates(authorities)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

async fn send_request<T>(stream: T, request: Request<Empty<Bytes>>) -> Result<(StatusCode, Lines), ApiError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async {
        // An error is also reported by the response's body.
        let _ = connection.await;
    });
    let response = sender.send_request(request).await?;
    let code = response.status();
    let lines = Lines {
        body: response.into_body(),
        received: BytesMut::new(),
        _connection: driver,
    };
    Ok((code, lines))
}

impl Lines {
    /// The next line without its line feed; `None` after the last.
    pub(super) async fn next_line(&mut self) -> Result<Option<Bytes>, ApiError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.received[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.received.split_to(searched + end + 1);
                line.truncate(searched + end);
                return Ok(Some(line.freeze()));
            }
            searched = self.received.len();
            if !self.receive().await? {
                // An incomplete line is left by a cut connection, and ignored.
                return Ok(None);
            }
        }
    }

    /// The rest of the body.
    pub(super) async fn read_to_end(mut self) -> Result<Bytes, ApiError> {
        let receiving = async {
            while self.receive().await? {}
            Ok(())
        };
        timeout(REQUEST_TIMEOUT, receiving)
            .await
            .unwrap_or(Err(ApiError::Timeout))?;
        Ok(self.received.freeze())
    }

    /// Receives the next chunk; `false` at the end of the body.
    async fn receive(&mut self) -> Result<bool, ApiError> {
        let Some(frame) = self.body.frame().await else {
            return Ok(false);
        };
        if let Ok(data) = frame?.into_data() {
            if self.received.len() + data.len() > MAX_BUFFERED {
                return Err(ApiError::TooLarge);
            }
            self.received.extend_from_slice(&data);
        }
        Ok(true)
    }
}

/// The API's error object (`meta/v1.Status`).
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) message: String,
}
