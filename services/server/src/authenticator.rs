//! Authentication of callers.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::HeaderMap;
use tonic::Status;

use crate::{Caller, server::tls::Peer};

/// What a request says about its caller.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The token in `authorization: Bearer …`, not verified; `None` without one.
    pub bearer: Option<&'a str>,
    /// All headers of the request.
    pub headers: &'a HeaderMap,
    /// The verified process at the other end of a mutual TLS connection; `None` on a plaintext port.
    pub peer: Option<&'a Peer>,
}

/// Establishes who calls. [`auth::Verifier`](crate::auth::Verifier) does it by signed tokens.
pub trait Authenticator: Send + Sync {
    /// The caller with these credentials. It is put into the extensions of the request, where
    /// [`Caller::from_request`] finds it. Not called for health checks and for methods whose policy is anonymous.
    ///
    /// # Errors
    /// The status with which the call is refused, usually UNAUTHENTICATED.
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>)
    -> BoxFuture<'a, Result<Arc<Caller>, Status>>;

    /// The word for a tenant, in the texts of errors and, behind `weft.`, as the attribute of spans. Default
    /// `tenant`.
    fn tenant_name(&self) -> &'static str {
        "tenant"
    }
}
