//! The policy of each method, read from the contract.

mod descriptors;

use std::{collections::HashMap, sync::Arc, time::Duration};

pub use proto::mesh::v1::{Criticality, RateLimitClass, Role};
use tonic::Code;

use crate::Error;
pub(crate) use descriptors::validate;

/// The policies of every method of a contract, by path. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    methods: Arc<HashMap<String, Arc<MethodPolicy>>>,
}

/// The contract's policy of one method.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodPolicy {
    /// The maximum duration of a call, enforced by client and server.
    pub timeout: Duration,
    /// When and how often a failed call is retried; `None`: never.
    pub retry: Option<Retry>,
    /// When a second attempt starts before the first has failed; `None`: never.
    pub hedging: Option<Hedging>,
    /// Determines which calls are shed first under overload; never `Unspecified`.
    pub criticality: Criticality,
    /// The roles that may call, any one of which is sufficient; empty: any authenticated caller.
    pub roles: Vec<Role>,
    /// The services that may call with a service token; empty: only users.
    pub callers: Vec<String>,
    /// The class of the configured rate limit; never `Unspecified`.
    pub rate_limit_class: RateLimitClass,
    /// Whether every call is recorded in the audit trail.
    pub audited: bool,
    /// Whether the call needs no token.
    pub anonymous: bool,
    /// The maximum number of concurrent streams of the method in one process; `None`: no limit of its own.
    pub max_streams: Option<u32>,
    /// The effect of repeating a call.
    pub idempotency: Idempotency,
    /// Whether the request has a `request_id`, by which the server recognises a repetition.
    pub has_request_id: bool,
    /// Whether the caller sends a stream.
    pub client_streaming: bool,
    /// Whether the callee sends a stream.
    pub server_streaming: bool,
    /// The full name of the request's message.
    pub input: String,
    /// Whether the contract has a policy for the method. If not, an operator's service config may enable retries,
    /// as the standard says.
    pub declared: bool,
}

/// gRFC A6 retries.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Attempts in all, the first one included: 2 to 5.
    pub max_attempts: u32,
    /// The delay before the second attempt, before jitter.
    pub initial_backoff: Duration,
    /// The maximum delay between two attempts, before jitter.
    pub max_backoff: Duration,
    /// The factor by which the delay grows after each attempt; above zero.
    pub backoff_multiplier: f64,
    /// The codes after which a call is retried; never empty, never `Ok`.
    pub retryable_codes: Vec<Code>,
    /// An attempt without a response after this is abandoned and retried; `None`: it may use all the remaining
    /// time of the call. `perAttemptRecvTimeout` of the service config.
    pub attempt_timeout: Option<Duration>,
}

/// gRFC A6 hedging.
#[derive(Clone, Debug, PartialEq)]
pub struct Hedging {
    /// Attempts in all, the first one included: 2 to 5.
    pub max_attempts: u32,
    /// The delay before the next attempt, and before the first hedge while too few latencies have been observed.
    pub delay: Duration,
    /// The codes after which other attempts continue; empty: only UNAVAILABLE.
    pub non_fatal_codes: Vec<Code>,
}

/// `google.protobuf.MethodOptions.idempotency_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// A repetition may do the work twice.
    Unknown,
    /// Reads only.
    NoSideEffects,
    /// A repetition has no further effect.
    Idempotent,
}

impl Policies {
    /// Reads the policies from an encoded `FileDescriptorSet` that includes its imports and extension options.
    /// Services of the packages `grpc` and `google` are ignored, unless one of their methods has a policy.
    ///
    /// # Errors
    /// [`Error::Descriptors`] if the bytes cannot be decoded; [`Error::Contract`] with every method that has no
    /// policy, no idempotency level, or an invalid policy.
    pub fn from_descriptors(encoded: &[u8]) -> Result<Policies, Error> {
        descriptors::read(encoded)
    }

    /// The same for any contract: accepts a service without any policy. Its methods have only the caller's
    /// timeout, and are retried only if a service config says so.
    ///
    /// # Errors
    /// As [`Policies::from_descriptors`], for services that have a policy on some of their methods.
    pub fn from_any_descriptors(encoded: &[u8]) -> Result<Policies, Error> {
        descriptors::read_any(encoded)
    }

    /// Policies given by path (`/package.Service/Method`), for clients of contracts without policies.
    pub fn from_methods(methods: impl IntoIterator<Item = (String, MethodPolicy)>) -> Policies {
        Policies {
            methods: Arc::new(
                methods
                    .into_iter()
                    .map(|(path, policy)| (path, Arc::new(policy)))
                    .collect(),
            ),
        }
    }

    /// The policy of a method, by its path: `/order.v1.OrderService/PlaceOrder`.
    pub fn method(&self, path: &str) -> Option<&MethodPolicy> {
        self.methods.get(path).map(|policy| &**policy)
    }

    /// Every method's path and policy, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MethodPolicy)> {
        self.methods
            .iter()
            .map(|(path, policy)| (path.as_str(), &**policy))
    }
}

impl MethodPolicy {
    /// A unary method without retries that any authenticated caller may call.
    pub fn new(timeout: Duration) -> MethodPolicy {
        MethodPolicy {
            timeout,
            retry: None,
            hedging: None,
            criticality: Criticality::Normal,
            roles: Vec::new(),
            callers: Vec::new(),
            rate_limit_class: RateLimitClass::Read,
            audited: false,
            anonymous: false,
            max_streams: None,
            idempotency: Idempotency::Unknown,
            has_request_id: false,
            client_streaming: false,
            server_streaming: false,
            input: String::new(),
            declared: true,
        }
    }

    /// Whether a call may be sent again although it may have been executed.
    pub fn repeatable(&self) -> bool {
        self.idempotency != Idempotency::Unknown || self.has_request_id
    }
}

/// The name of a role in tokens: without the prefix, in lower case (`cashier`).
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "unspecified",
        Role::Viewer => "viewer",
        Role::Clerk => "clerk",
        Role::Cashier => "cashier",
        Role::Biller => "biller",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}
