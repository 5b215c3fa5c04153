//! The client side of the service mesh, without a sidecar: every call between services passes through it.
//!
//! A [`Channel`] is a tower service on which generated clients are built. It takes the policy of each method from
//! the contract ([`Policies`]), the caller's token and deadline from the [`Context`], and handles deadlines,
//! retries, balancing and connections. It does not depend on any service.
//!
//! The modules below are in reading order: the public interface, then the layers from the outermost to the
//! innermost.

#![warn(missing_docs)]

pub mod context;
pub mod grpc_timeout;
pub mod origin;
pub mod snapshot;

mod builder;
mod call_policy;
mod channel;
mod method;
mod methods;
mod options;
mod route;
mod service_config;

mod call;
pub mod code;
mod criticality;
mod deadline;
mod telemetry;
mod throttle;

mod hedge;
mod latency;
mod message_size;
mod replay;
mod retry;

mod attempt;
mod balance;
mod cancellation;
mod endpoint;
mod failure;
mod faults;
mod outlier_detection;
mod refusal;

mod connection;
mod discovery;
mod proxy;
mod supervisor;
mod tls;

mod error;

pub use builder::ChannelBuilder;
pub use call_policy::CallPolicy;
pub use channel::Channel;
pub use context::Context;
pub use discovery::{KubernetesApi, is_exposed};
pub use error::Error;
pub use faults::Fault;
pub use options::{BearerTokens, ChannelOptions, MIN_PING_INTERVAL, Pings, Tuning};
pub use origin::Origin;
pub use service_config::generate_service_config;
pub use snapshot::Snapshot;
pub use tls::Tls;
pub use weft_policy::{self as policy, MethodPolicy, Policies};
