//! The caller's identity, from a verified token.

use tonic::{Extensions, Request, Status};
use weft_server::{Caller, auth::TokenError};

use super::{FACILITY_CLAIM, RoleSet};
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
        let identity = Caller::from_extensions(extensions).and_then(|caller| caller.extensions.get());
        identity.ok_or_else(|| status::unauthenticated("NO_TOKEN", "the call needs a token"))
    }
}

/// Adds the identity to the caller of a verified token, and the roles that an administrator has.
///
/// # Errors
/// When the token's facility is not one.
pub(crate) fn complete(caller: &mut Caller) -> Result<(), TokenError> {
    let invalid = TokenError::Tenant(FACILITY_CLAIM);
    let tenant = caller.tenant.as_ref().ok_or(invalid)?;
    let identity = Identity {
        subject: caller.subject.clone(),
        facility: Facility::new(tenant.as_str()).map_err(|_| invalid)?,
        roles: RoleSet::from_names(&caller.roles),
        service: caller.service.clone(),
    };
    caller.roles = identity.roles.granted().map(str::to_owned).collect();
    caller.extensions.insert(identity);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_server::Tenant;

    use super::*;
    use crate::auth::Role;

    fn caller(facility: Option<&str>, roles: &[&str]) -> Caller {
        Caller {
            subject: "amal".to_owned(),
            tenant: facility.map(|name| Tenant::new(name).unwrap()),
            roles: roles.iter().map(ToString::to_string).collect(),
            ..Caller::default()
        }
    }

    #[test]
    fn a_caller_has_an_identity_and_an_administrator_every_role() {
        let mut clerk = caller(Some("F1"), &["clerk", "not-ours"]);
        complete(&mut clerk).unwrap();
        assert_eq!(clerk.roles, ["clerk"]);
        let mut extensions = Extensions::new();
        assert!(Identity::from_extensions(&extensions).is_err());
        extensions.insert(Arc::new(clerk));
        let identity = Identity::from_extensions(&extensions).unwrap();
        assert_eq!(
            (identity.subject.as_str(), identity.service.as_deref()),
            ("amal", None)
        );
        assert_eq!(identity.facility, Facility::new("F1").unwrap());
        assert_eq!(identity.roles, RoleSet::from_names(["clerk"]));

        let mut admin = caller(Some("F1"), &["admin"]);
        complete(&mut admin).unwrap();
        assert!(Role::ALL.into_iter().all(|role| admin.has_role(role.name())));
    }

    #[test]
    fn a_token_without_a_facility_is_rejected() {
        for facility in [None, Some("F1'; --"), Some(&*"x".repeat(65))] {
            let rejected = complete(&mut caller(facility, &[])).unwrap_err();
            assert_eq!(
                rejected.to_string(),
                "the token names no facility",
                "{facility:?}"
            );
        }
    }
}
