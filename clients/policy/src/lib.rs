//! How the calls of gRPC methods are handled: timeouts, retries, hedging, importance, and who may call. A contract
//! declares it with the options of `mesh/v1/policy.proto`; this crate reads them from the descriptors.
//!
//! A method without these options has defaults ([`Policies::from_descriptors`]), so that every contract can be used.

#![warn(missing_docs)]

mod descriptors;
mod options;
mod rules;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tonic::Code;

/// The text of `mesh/v1/policy.proto`, for the include path of a contract that declares policies. It imports
/// `google/rpc/code.proto`.
pub const POLICY_PROTO: &str = include_str!("../proto/mesh/v1/policy.proto");

/// Why the policies of a contract cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a descriptor set.
    #[error("the descriptor set cannot be read")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// Required parts of the contract are missing or contradictory. One line for each error, with its method.
    #[error("the contract is incomplete:\n  {}", .0.join("\n  "))]
    Contract(Vec<String>),
}

/// How important a call is under overload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Criticality {
    /// Batch and background work: shed first.
    Sheddable,
    /// The default.
    #[default]
    Normal,
    /// Shed last.
    Critical,
}

impl Criticality {
    /// The name in the contract: `CRITICALITY_NORMAL`.
    pub fn as_str_name(self) -> &'static str {
        match self {
            Criticality::Sheddable => "CRITICALITY_SHEDDABLE",
            Criticality::Normal => "CRITICALITY_NORMAL",
            Criticality::Critical => "CRITICALITY_CRITICAL",
        }
    }
}

/// The class by which rate limits are configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RateLimitClass {
    /// Reads; the default.
    #[default]
    Read,
    /// Writes.
    Write,
    /// Long streams and bulk imports.
    Bulk,
    /// Operators' tools.
    Admin,
}

impl RateLimitClass {
    /// The name in the contract: `RATE_LIMIT_CLASS_READ`.
    pub fn as_str_name(self) -> &'static str {
        match self {
            RateLimitClass::Read => "RATE_LIMIT_CLASS_READ",
            RateLimitClass::Write => "RATE_LIMIT_CLASS_WRITE",
            RateLimitClass::Bulk => "RATE_LIMIT_CLASS_BULK",
            RateLimitClass::Admin => "RATE_LIMIT_CLASS_ADMIN",
        }
    }
}

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
    /// Determines which calls are shed first under overload.
    pub criticality: Criticality,
    /// The names of the roles that may call, any one of which is sufficient; empty: any authenticated caller.
    pub roles: Vec<String>,
    /// The services that may call with a service token; empty: only users.
    pub callers: Vec<String>,
    /// The class of the configured rate limit.
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

impl Retry {
    /// Retries after UNAVAILABLE, with a backoff of 50 ms that doubles up to 1 s.
    pub fn new(max_attempts: u32) -> Retry {
        Retry {
            max_attempts,
            initial_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            backoff_multiplier: 2.0,
            retryable_codes: vec![Code::Unavailable],
            attempt_timeout: None,
        }
    }
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

impl Hedging {
    /// Attempts at intervals of `delay`, or of the observed p95 once it is known; only UNAVAILABLE is not final.
    pub fn new(max_attempts: u32, delay: Duration) -> Hedging {
        Hedging {
            max_attempts,
            delay,
            non_fatal_codes: Vec::new(),
        }
    }
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

/// Whether a method without options is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Required {
    Yes,
    No,
}

impl Policies {
    /// Reads the policies from an encoded `FileDescriptorSet` that includes its imports and extension options.
    /// Services of the packages `grpc` and `google` are ignored, unless one of their methods has a policy.
    ///
    /// A method without `mesh.v1.policy` has no timeout beside its caller's, and is retried and hedged only if a
    /// service config or the application says so.
    ///
    /// # Errors
    /// [`Error::Descriptors`] if the bytes cannot be decoded; [`Error::Contract`] with every method whose policy
    /// cannot be used.
    pub fn from_descriptors(encoded: &[u8]) -> Result<Policies, Error> {
        descriptors::read(encoded, Required::No)
    }

    /// The same for contracts in which every method must have a policy and an `idempotency_level`.
    ///
    /// # Errors
    /// As [`Policies::from_descriptors`], and [`Error::Contract`] with every method that lacks one.
    pub fn from_annotated_descriptors(encoded: &[u8]) -> Result<Policies, Error> {
        descriptors::read(encoded, Required::Yes)
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

    /// These policies and `others`, which take precedence.
    #[must_use]
    pub fn and(&self, others: &Policies) -> Policies {
        let mut methods = HashMap::clone(&self.methods);
        methods.extend(
            others
                .methods
                .iter()
                .map(|(path, policy)| (path.clone(), policy.clone())),
        );
        Policies {
            methods: Arc::new(methods),
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

    /// Every rule that the policy breaks, as `field: rule`; empty for one that can be used.
    pub fn errors(&self) -> Vec<String> {
        rules::broken_rules(self)
    }

    /// Whether [`client_streaming`](MethodPolicy::client_streaming) and `server_streaming` are known: from a
    /// contract, with or without a policy.
    pub fn has_known_shape(&self) -> bool {
        self.declared || !self.input.is_empty()
    }

    /// Whether a call may be sent again although it may have been executed.
    pub fn repeatable(&self) -> bool {
        self.idempotency != Idempotency::Unknown || self.has_request_id
    }
}
