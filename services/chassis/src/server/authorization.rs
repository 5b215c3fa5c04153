//! Whether the caller may call this method, by the method's policy.

use futures_util::future::BoxFuture;
use mesh::{MethodPolicy, policy::role_name};
use tonic::Status;

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next, refuse},
    tls::Peer,
};
use crate::{Identity, status};

pub(super) struct Layer;

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        if call.is_anonymous() {
            return next.run(call);
        }
        let allowed = match (call.policy(), call.request.extensions().get::<Identity>()) {
            (Some(policy), Some(identity)) => {
                allow(policy, identity).and_then(|()| own(identity, call.request.extensions().get()))
            }
            _ => Err(status::unauthenticated("NO_TOKEN", "the call needs a token")),
        };
        match allowed {
            Ok(()) => next.run(call),
            Err(refusal) => Box::pin(async { refuse(refusal) }),
        }
    }
}

/// A service is judged by its name alone, a person by its roles: any one is enough, none wanted lets everyone in.
fn allow(policy: &MethodPolicy, identity: &Identity) -> Result<(), Status> {
    if let Some(service) = &identity.service {
        if policy.callers.contains(service) {
            return Ok(());
        }
        return Err(status::denied(
            "CALLER_NOT_ALLOWED",
            format!("service {service} may not call this method"),
        ));
    }
    if policy.roles.is_empty() || policy.roles.iter().any(|role| identity.roles.has(*role)) {
        return Ok(());
    }
    let wanted: Vec<_> = policy.roles.iter().map(|role| role_name(*role)).collect();
    Err(status::denied(
        "ROLE_MISSING",
        format!("the call needs one of these roles: {}", wanted.join(", ")),
    ))
}

/// A service's token is good only from the service itself: stolen, it is worth nothing without the certificate. On a
/// plaintext port there is nothing to compare it with.
fn own(identity: &Identity, peer: Option<&Peer>) -> Result<(), Status> {
    match (&identity.service, peer) {
        (Some(service), Some(peer)) if peer.service() != service => {
            tracing::warn!(
                client.name = peer.name(),
                token.service = service,
                "a service's token was used by another process"
            );
            Err(status::denied(
                "PEER_NOT_CALLER",
                format!("{} may not use the token of service {service}", peer.name()),
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh::policy::Role;

    use super::*;
    use crate::{Facility, auth::RoleSet};

    fn policy(roles: &[Role], callers: &[&str]) -> MethodPolicy {
        MethodPolicy {
            roles: roles.to_vec(),
            callers: callers.iter().map(ToString::to_string).collect(),
            ..MethodPolicy::new(Duration::from_secs(1))
        }
    }

    fn caller(roles: &[&str], service: Option<&str>) -> Identity {
        Identity {
            subject: "s".to_owned(),
            facility: Facility::new("F1").unwrap(),
            roles: RoleSet::from_names(roles),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn any_one_of_the_roles_is_enough_and_admin_is_all() {
        let policy = policy(&[Role::Clerk, Role::Cashier], &[]);
        assert!(allow(&policy, &caller(&["cashier"], None)).is_ok());
        assert!(allow(&policy, &caller(&["admin"], None)).is_ok());
        assert!(allow(&policy, &caller(&["viewer", "biller"], None)).is_err());
        assert!(allow(&policy, &caller(&[], None)).is_err());
    }

    #[test]
    fn a_service_calls_only_what_names_it_whatever_roles_it_claims() {
        let policy = policy(&[], &["order"]);
        assert!(allow(&policy, &caller(&[], Some("order"))).is_ok());
        assert!(allow(&policy, &caller(&["admin"], Some("claims"))).is_err());
        assert!(allow(&policy, &caller(&[], None)).is_ok());
    }

    #[test]
    fn a_services_token_is_good_from_that_services_process_only() {
        let peer = |name| crate::server::tls::peer(name);
        let order = caller(&[], Some("order"));
        assert!(own(&order, Some(&peer("spiffe://weft/order"))).is_ok());
        assert!(own(&order, Some(&peer("spiffe://weft/ns/weft/sa/order"))).is_ok());
        assert!(own(&order, None).is_ok());
        assert!(own(&order, Some(&peer("spiffe://weft/claims"))).is_err());
        let person = caller(&["clerk"], None);
        assert!(own(&person, Some(&peer("spiffe://weft/claims"))).is_ok());
    }
}
