//! The methods that the process serves, and the policy of each.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::ensure;
use mesh::{MethodPolicy, Policies};
use prost_reflect::{MessageDescriptor, MethodDescriptor};

use crate::Contract;

/// A method that the process serves; or, of a service without a contract, all its methods.
#[derive(Debug)]
pub struct Method {
    pub(super) name: String,
    pub(super) policy: MethodPolicy,
    /// `None` without a contract.
    pub(super) input: Option<MessageDescriptor>,
    /// The number of the field with the requests, for a method that takes several at once.
    pub(super) requests: Option<u32>,
}

impl Method {
    fn new(method: &MethodDescriptor, policy: MethodPolicy) -> Method {
        let name = format!("{}/{}", method.parent_service().full_name(), method.name());
        let input = method.input();
        // The name has a meaning in contracts with policies only.
        let requests = input
            .get_field_by_name("requests")
            .filter(|field| field.is_list() && policy.declared);
        Method {
            name,
            policy,
            requests: requests.map(|field| field.number()),
            input: Some(input),
        }
    }

    /// All methods of a service without a contract. They share one name, because callers could invent any number of
    /// names; and each counts as a bidirectional stream, because it may be one.
    fn of_service(service: &str) -> Method {
        Method {
            name: format!("{service}/_OTHER"),
            policy: MethodPolicy {
                client_streaming: true,
                server_streaming: true,
                declared: false,
                ..MethodPolicy::new(Duration::MAX)
            },
            requests: None,
            input: None,
        }
    }

    /// `package.Service/Method`, as the semantic conventions write `rpc.method`; `package.Service/_OTHER` for all
    /// methods of a service without a contract.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its policy in the contract, or the defaults.
    pub fn policy(&self) -> &MethodPolicy {
        &self.policy
    }
}

/// The methods that the process serves.
#[derive(Default)]
pub(super) struct Methods {
    /// By path.
    described: HashMap<String, Arc<Method>>,
    /// Of services without a contract, by the service's name.
    undescribed: HashMap<&'static str, Arc<Method>>,
}

impl Methods {
    /// The methods of the mounted services.
    ///
    /// # Errors
    /// When policies are required, and a service is not in the contract, or a method has no policy.
    pub(super) fn new(
        contract: Option<&Contract>,
        policies: &Policies,
        mounted: &[&'static str],
        requires_policies: bool,
    ) -> anyhow::Result<Methods> {
        let mut methods = Methods::default();
        for name in mounted.iter().copied() {
            let Some(service) = contract.and_then(|contract| contract.pool().get_service_by_name(name))
            else {
                ensure!(!requires_policies, "{name} is not in the contract");
                let method = Arc::new(Method::of_service(name));
                methods.undescribed.insert(name, method);
                continue;
            };
            for method in service.methods() {
                let path = format!("/{name}/{}", method.name());
                let policy = policies.method(&path).cloned();
                let policy = policy.unwrap_or_else(|| default_policy(&method));
                ensure!(policy.declared || !requires_policies, "{path} has no policy");
                let method = Arc::new(Method::new(&method, policy));
                methods.described.insert(path, method);
            }
        }
        Ok(methods)
    }

    /// A method whose policy names roles or callers, if there is one.
    pub(super) fn restricted(&self) -> Option<&str> {
        let restricted = |method: &&Arc<Method>| {
            let policy = &method.policy;
            !policy.anonymous && (!policy.roles.is_empty() || !policy.callers.is_empty())
        };
        self.described
            .values()
            .find(restricted)
            .map(|method| method.name())
    }

    pub(super) fn find(&self, path: &str) -> Option<&Arc<Method>> {
        self.described.get(path).or_else(|| {
            let (service, _) = path.strip_prefix('/')?.split_once('/')?;
            self.undescribed.get(service)
        })
    }
}

/// The policy of a method that has none.
fn default_policy(method: &MethodDescriptor) -> MethodPolicy {
    MethodPolicy {
        client_streaming: method.is_client_streaming(),
        server_streaming: method.is_server_streaming(),
        declared: false,
        ..MethodPolicy::new(Duration::MAX)
    }
}
