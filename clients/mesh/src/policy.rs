//! How each method may be called, read from the contract.

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

/// What the contract says about one method.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodPolicy {
    /// The ceiling of a call, on both sides.
    pub timeout: Duration,
    /// When and how often a failed call is tried again; `None`: never.
    pub retry: Option<Retry>,
    /// When a second attempt starts before the first has failed; `None`: never.
    pub hedging: Option<Hedging>,
    /// What is shed first under overload; never `Unspecified`.
    pub criticality: Criticality,
    /// The roles that may call, any one is enough; empty: any authenticated caller.
    pub roles: Vec<Role>,
    /// The services that may call with a service token; empty: none but people.
    pub callers: Vec<String>,
    /// The class that rate limits are configured by; never `Unspecified`.
    pub rate_limit_class: RateLimitClass,
    /// Whether every call leaves a row in the audit trail.
    pub audited: bool,
    /// Whether the call needs no token.
    pub anonymous: bool,
    /// How many streams of the method one process serves at once; `None`: no bound of its own.
    pub max_streams: Option<u32>,
    /// What repeating the call may do.
    pub idempotency: Idempotency,
    /// Whether the request carries a `request_id`, by which the server recognises a repetition.
    pub has_request_id: bool,
    /// Whether the caller sends a stream.
    pub client_streaming: bool,
    /// Whether the callee sends a stream.
    pub server_streaming: bool,
    /// The full name of the request's message.
    pub input: String,
    /// Whether the contract says how the method may be called. Where it does not, an operator's service config may
    /// have it repeated, as the standard has it.
    pub declared: bool,
}

/// gRFC A6 retries.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Attempts in all, the first one included: 2 to 5.
    pub max_attempts: u32,
    /// The wait before the second attempt, before jitter.
    pub initial_backoff: Duration,
    /// The longest wait between two attempts, before jitter.
    pub max_backoff: Duration,
    /// What the wait is multiplied by after each attempt; above zero.
    pub backoff_multiplier: f64,
    /// The codes worth another attempt; never empty, never `Ok`.
    pub retryable_codes: Vec<Code>,
    /// An attempt that has no answer after this long is given up, and another made; `None`: it has all the time that
    /// the call has left. `perAttemptRecvTimeout` of the service config.
    pub attempt_timeout: Option<Duration>,
}

/// gRFC A6 hedging.
#[derive(Clone, Debug, PartialEq)]
pub struct Hedging {
    /// Attempts in all, the first one included: 2 to 5.
    pub max_attempts: u32,
    /// The wait before the next attempt while too little has been observed.
    pub delay: Duration,
    /// The codes after which other attempts may still do better; empty: UNAVAILABLE alone.
    pub non_fatal_codes: Vec<Code>,
}

/// `google.protobuf.MethodOptions.idempotency_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// A repetition may do the work twice.
    Unknown,
    /// Reads only.
    NoSideEffects,
    /// A repetition changes nothing more.
    Idempotent,
}

impl Policies {
    /// Reads the policies from an encoded `FileDescriptorSet` that holds its imports and extension options.
    /// Services of the packages `grpc` and `google` are others' contracts and left out.
    ///
    /// # Errors
    /// [`Error::Descriptors`] when the bytes cannot be read; [`Error::Contract`] with every method that has
    /// no policy, no idempotency level, or a policy that contradicts itself.
    pub fn from_descriptors(encoded: &[u8]) -> Result<Policies, Error> {
        descriptors::read(encoded)
    }

    /// The same for contracts of any origin: a service none of whose methods has a policy may be called all the same.
    /// Its methods have no timeout but the caller's, and are repeated only if a service config says so.
    ///
    /// # Errors
    /// As [`Policies::from_descriptors`], for services that have a policy on some of their methods.
    pub fn from_any_descriptors(encoded: &[u8]) -> Result<Policies, Error> {
        descriptors::read_any(encoded)
    }

    /// Policies written by hand, by path (`/package.Service/Method`): for clients of contracts that carry none.
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
    /// A unary method without retries that anyone authenticated may call.
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

    /// Whether a call may be sent twice although the first one may have been carried out.
    pub fn repeatable(&self) -> bool {
        self.idempotency != Idempotency::Unknown || self.has_request_id
    }
}

/// A role as tokens write it: without the prefix, in lower case (`cashier`).
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
