//! Who calls: what authentication has established about the caller of a request.

use std::{fmt, sync::Arc};

use http::Extensions;
use tonic::{Request, Status};

use crate::{
    contract::text::{self, Lines},
    status,
};

/// The customer, organisation or site for which a caller acts: rate limits, stream limits and memory are shared out
/// among tenants. One line of 1 to 256 characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

/// The name has an invalid length or character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant must be one line of 1 to 256 characters")]
pub struct InvalidTenant;

impl Tenant {
    /// The longest name, in characters.
    pub const MAX_CHARS: usize = 256;

    /// Validates a name.
    ///
    /// # Errors
    /// When its length or a character is invalid.
    pub fn new(name: impl AsRef<str>) -> Result<Tenant, InvalidTenant> {
        let name = name.as_ref();
        let is_valid = !name.is_empty()
            && name.chars().nth(Tenant::MAX_CHARS).is_none()
            && text::violation(name, Lines::One).is_none();
        is_valid.then(|| Tenant(Arc::from(name))).ok_or(InvalidTenant)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The caller of a request, as an [`Authenticator`](crate::Authenticator) has established it.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The user or the service.
    pub subject: String,
    /// The tenant for which it acts; `None` when callers have no tenants.
    pub tenant: Option<Tenant>,
    /// The names of its roles. A method whose policy lists roles may be called with any one of them.
    pub roles: Vec<String>,
    /// The service that calls on its own behalf; `None` for people. Such a caller may call only methods whose policy
    /// lists the service as a caller.
    pub service: Option<String>,
    /// Further values of the authenticator, for the handlers.
    pub extensions: Extensions,
}

impl Caller {
    /// The caller of `request`.
    ///
    /// # Errors
    /// UNAUTHENTICATED when the request did not pass through the server's authentication, or the method is
    /// anonymous.
    pub fn from_request<M>(request: &Request<M>) -> Result<&Caller, Status> {
        let caller = Caller::from_extensions(request.extensions());
        caller.ok_or_else(|| status::unauthenticated("NO_TOKEN", "the call needs a token"))
    }

    /// The caller of the request with these extensions; `None` when it is not authenticated.
    pub fn from_extensions(extensions: &Extensions) -> Option<&Caller> {
        extensions.get::<Arc<Caller>>().map(|caller| &**caller)
    }

    /// Whether it has the role of this name.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|name| name == role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_one_line_of_bounded_length() {
        for name in ["F1", "a clinic, by name", "ع", &"x".repeat(256)] {
            assert_eq!(Tenant::new(name).unwrap().as_str(), name);
        }
        for name in ["", "a\nb", "a\0", "a\u{202e}b", &"x".repeat(257)] {
            assert_eq!(Tenant::new(name), Err(InvalidTenant), "{name:?}");
        }
    }
}
