//! The sidecar-free data plane: what every call between services goes through, on the client's side.
//!
//! A [`Channel`] is a tower service that generated clients are built on. It reads how a method may be
//! called from the contract ([`Policies`]), who calls and until when from the [`Context`], and looks after
//! deadlines, retries, balancing and connections. It knows no service.
//!
//! The modules below are in reading order: what a caller sees, then the stack from outside in.

#![warn(missing_docs)]

pub mod context;
pub mod grpc_timeout;
pub mod origin;
pub mod policy;
pub mod snapshot;

mod channel;
mod method;
mod methods;
mod options;
mod service_config;

mod call;
mod code;
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
mod endpoint;
mod failure;
mod faults;
mod refusal;

mod connection;
mod discovery;
mod supervisor;
mod tls;

mod error;

pub use channel::Channel;
pub use context::Context;
pub use discovery::{KubernetesApi, is_exposed};
pub use error::Error;
pub use faults::Fault;
pub use options::{BearerTokens, ChannelOptions, MIN_PING_INTERVAL, Pings, Tuning};
pub use origin::Origin;
pub use policy::{MethodPolicy, Policies};
pub use snapshot::Snapshot;
pub use tls::Tls;
