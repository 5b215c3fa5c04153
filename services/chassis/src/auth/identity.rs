//! The caller's identity, from a verified token.

use tonic::{Extensions, Request, Status};

use super::RoleSet;
use crate::{Facility, status};

/// The caller of a request. The facility and the roles come from the token, never from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The `sub` claim: the user or the service.
    pub subject: String,
    /// The `facility` claim: the tenant whose rows the caller can see.
    pub facility: Facility,
    /// The `roles` claim: which methods the caller may call.
    pub roles: RoleSet,
    /// The `service` claim: the service that calls on its own behalf; `None` for people.
    pub service: Option<String>,
}

impl Identity {
    /// The caller of `request`, set by the server's authentication.
    ///
    /// # Errors
    /// UNAUTHENTICATED when the request did not pass through the server's layers, or the method is anonymous.
    pub fn from_request<M>(request: &Request<M>) -> Result<Identity, Status> {
        Identity::from_extensions(request.extensions()).cloned()
    }

    /// The caller of the request with these extensions.
    ///
    /// # Errors
    /// As [`Identity::from_request`].
    pub fn from_extensions(extensions: &Extensions) -> Result<&Identity, Status> {
        let identity = extensions.get::<Identity>();
        identity.ok_or_else(|| status::unauthenticated("NO_TOKEN", "the call needs a token"))
    }
}
