//! Decides by the method's policy whether the caller may call it.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use mesh::MethodPolicy;
use tonic::Status;

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next, refuse},
    tls::{self, Peer},
};
use crate::{Caller, status};

pub(super) struct Layer {
    services: Services,
}

impl Layer {
    /// `known` are the names of all services; `tls` maps them to the SPIFFE ids of their processes.
    pub(super) fn new(
        known: impl IntoIterator<Item = impl Into<String>>,
        tls: Option<&tls::Settings>,
    ) -> Layer {
        let ids = known
            .into_iter()
            .map(Into::into)
            .filter_map(|name: String| Some((tls?.service_id(&name), name)))
            .map(|(id, name)| (name, id));
        Layer {
            services: Services(ids.collect()),
        }
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        if call.is_anonymous() {
            return next.run(call);
        }
        let allowed = match (call.policy(), call.caller()) {
            (Some(policy), Some(caller)) => allow(policy, caller).and_then(|()| {
                let peer = call.request.extensions().get::<Peer>();
                peer.map_or(Ok(()), |peer| self.services.check_peer(policy, caller, peer))
            }),
            _ => Err(status::unauthenticated("NO_TOKEN", "the call needs a token")),
        };
        match allowed {
            Ok(()) => next.run(call),
            Err(refusal) => Box::pin(async { refuse(refusal) }),
        }
    }
}

/// A service is allowed by its name only; a person by any one of the policy's roles, or always if the policy has
/// none.
fn allow(policy: &MethodPolicy, caller: &Caller) -> Result<(), Status> {
    if let Some(service) = &caller.service {
        if policy.callers.contains(service) {
            return Ok(());
        }
        return Err(status::permission_denied(
            "CALLER_NOT_ALLOWED",
            format!("service {service} may not call this method"),
        ));
    }
    if policy.roles.is_empty() || policy.roles.iter().any(|role| caller.has_role(role)) {
        return Ok(());
    }
    Err(status::permission_denied(
        "ROLE_MISSING",
        format!("the call needs one of these roles: {}", policy.roles.join(", ")),
    ))
}

/// The SPIFFE ids of the services. Empty on a plaintext port, where tokens cannot be compared with a certificate.
struct Services(BTreeMap<String, String>);

impl Services {
    /// Whether `peer` may send this caller's token. A service's token is accepted from that service only, so it
    /// is useless without the certificate. A person's token is accepted from the person's own client, or from a
    /// service that the method lists as a caller.
    fn check_peer(&self, policy: &MethodPolicy, caller: &Caller, peer: &Peer) -> Result<(), Status> {
        let refusal = |reason: &str, text: String| {
            tracing::warn!(
                client.name = peer.name(),
                token.service = caller.service,
                "token rejected: not accepted from this peer"
            );
            Err(status::permission_denied(reason, text))
        };
        if let Some(service) = &caller.service {
            if self.0.get(service).is_some_and(|id| id == peer.name()) {
                return Ok(());
            }
            let text = format!("{} may not use the token of service {service}", peer.name());
            return refusal("PEER_NOT_CALLER", text);
        }
        let relaying = self.0.iter().find(|(_, id)| *id == peer.name());
        match relaying {
            Some((service, _)) if !policy.callers.contains(service) => {
                let text = format!("service {service} may not call this method, for any user");
                refusal("PEER_MAY_NOT_RELAY", text)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn policy(roles: &[&str], callers: &[&str]) -> MethodPolicy {
        MethodPolicy {
            roles: roles.iter().map(ToString::to_string).collect(),
            callers: callers.iter().map(ToString::to_string).collect(),
            ..MethodPolicy::new(Duration::from_secs(1))
        }
    }

    fn caller(roles: &[&str], service: Option<&str>) -> Caller {
        Caller {
            subject: "s".to_owned(),
            roles: roles.iter().map(ToString::to_string).collect(),
            service: service.map(str::to_owned),
            ..Caller::default()
        }
    }

    #[test]
    fn any_one_of_the_roles_is_enough() {
        let policy = policy(&["clerk", "cashier"], &[]);
        assert!(allow(&policy, &caller(&["cashier"], None)).is_ok());
        assert!(allow(&policy, &caller(&["viewer", "biller"], None)).is_err());
        assert!(allow(&policy, &caller(&[], None)).is_err());
    }

    #[test]
    fn a_service_calls_only_methods_that_list_it_with_any_roles() {
        let policy = policy(&[], &["order"]);
        assert!(allow(&policy, &caller(&[], Some("order"))).is_ok());
        assert!(allow(&policy, &caller(&["admin"], Some("claims"))).is_err());
        assert!(allow(&policy, &caller(&[], None)).is_ok());
    }

    #[test]
    fn a_services_token_is_accepted_only_from_the_process_with_its_exact_id() {
        let services = services(&[]);
        let order = caller(&[], Some("order"));
        let from = |id| {
            services
                .check_peer(&policy(&[], &["order"]), &order, &tls::peer(id))
                .is_ok()
        };
        assert!(from("spiffe://weft/order"));
        for other in [
            "spiffe://weft/claims",
            "spiffe://weft/ns/evil/sa/order",
            "spiffe://other/order",
        ] {
            assert!(!from(other), "{other}");
        }
        let named = [("order", "spiffe://weft/ns/weft/sa/order")];
        let services = self::services(&named);
        let from = |id| {
            services
                .check_peer(&policy(&[], &["order"]), &order, &tls::peer(id))
                .is_ok()
        };
        assert!(from("spiffe://weft/ns/weft/sa/order"));
        assert!(!from("spiffe://weft/order"));
    }

    #[test]
    fn a_service_forwards_tokens_of_people_to_methods_that_list_it_as_a_caller() {
        let services = services(&[]);
        let person = caller(&["clerk"], None);
        let order_policy = policy(&[], &["order"]);
        let from = |id| {
            services
                .check_peer(&order_policy, &person, &tls::peer(id))
                .is_ok()
        };
        assert!(from("spiffe://weft/order") && from("spiffe://weft/somebodys-program"));
        assert!(!from("spiffe://weft/claims"));
    }

    fn services(named: &[(&str, &str)]) -> Services {
        let settings = tls::Settings {
            cert_file: "c".into(),
            key_file: "k".into(),
            client_ca_file: "a".into(),
            trust_domain: "weft".to_owned(),
            client_ids: Vec::new(),
            service_ids: named
                .iter()
                .map(|(name, id)| (name.to_string(), id.to_string()))
                .collect(),
        };
        Layer::new(["order", "payment", "claims"], Some(&settings)).services
    }
}
