//! Test harness: starts real PostgreSQL, real NATS and the real service binaries as child processes for the
//! scenarios in `tests/it/`.
//!
//! ```no_run
//! # async fn scenario() {
//! let stack = tests::Stack::start().await;
//! let clerk = stack.token("al-noor", &["clerk", "cashier"]);
//! let channel = stack.connect(tests::Service::Order, &clerk);
//! // … OrderServiceClient::new(channel).place_order(…) …
//! stack.kill9(tests::Service::Payment);
//! stack.restart(tests::Service::Payment).await;
//! # }
//! ```
//!
//! Every child process is stopped and every temporary folder removed when the test process ends, also after a
//! crash or kill (`watchdog`). The modules are in reading order.

pub mod stack;

pub mod hop_service;
pub mod interop;
pub mod pod;
pub mod service;
pub mod token;

pub mod backbone;
pub mod nats;
pub mod node;
pub mod plans;
pub mod postgres;
pub mod sql_counters;
pub mod tables;

pub mod collector;
pub mod grpc_fault_proxy;
pub mod tcp_fault_proxy;

pub mod eventually;
pub mod raw_codec;
pub mod sources;

pub mod binaries;
mod port;
mod process;
pub mod watchdog;

pub use binaries::{program, workspace_root};
pub use collector::{Collector, ReceivedSpan};
pub use eventually::eventually;
pub use grpc_fault_proxy::{Attempt, FaultAction, GrpcFaultProxy};
pub use hop_service::{Hop, Hops};
pub use nats::Nats;
pub use node::{Node, Role};
pub use pod::{Pod, PodSpec};
pub use postgres::{Database, Durability, Postgres};
pub use service::Service;
pub use sql_counters::SqlCounters;
pub use stack::{Options, Stack};
pub use tcp_fault_proxy::TcpFaultProxy;
pub use token::{Bearer, Issuer};
