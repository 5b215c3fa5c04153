//! The server side of the service mesh, for any team with tonic services.
//!
//! A [`Server`] puts layers in front of generated services: telemetry, deadlines, authentication, authorization, rate
//! limits, admission by an adaptive limit, validation by the contract's rules. It also serves health on the gRPC port
//! and on a port for probes, reflection, mutual TLS with certificates that are read again when they change, limits on
//! connections, and drains when the process stops.
//!
//! ```no_run
//! # use http::{Request, Response};
//! # use tonic::body::Body;
//! use weft_server::{Server, auth, server};
//!
//! # async fn run<S>(descriptors: &'static [u8], keys: auth::Settings, greeter: S) -> anyhow::Result<()>
//! # where
//! #     S: tower::Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible>,
//! #     S: tonic::server::NamedService + Clone + Send + Sync + 'static,
//! #     S::Future: Send + 'static,
//! # {
//! let server = Server::new("greeter")
//!     // Policies and rules of the methods; without it they are served with defaults.
//!     .contract(descriptors)?
//!     .settings(server::Settings::on_port(7101));
//! server.lifecycle().stop_on_signals()?;
//! let verifier = auth::Verifier::new(&keys, "greeter")?;
//! let verifier = verifier.start(server.lifecycle()).await?;
//! server
//!     // Without it every caller may call every method.
//!     .authenticate(verifier)
//!     .service(greeter)
//!     .serve()
//!     .await
//! # }
//! ```
//!
//! Generated services have a limit on messages of their own, which [`server::NO_DECODING_LIMIT`] lifts: the server's
//! layers apply `max_message_bytes`.
//!
//! # Defaults
//!
//! A method without a `mesh.v1.policy` has the caller's timeout only, normal criticality, and any person with a token may
//! call it, no service. Messages of a service that is in no contract are not validated and not limited by `max_message_bytes`
//! (tonic's own limit applies); its methods share one name in telemetry, and each call counts as a stream.
//!
//! # Tenants
//!
//! Rate limits, streams and memory for requests are shared out among [`Tenant`]s. The [`Authenticator`] names the
//! tenant of a caller; [`auth::Verifier::with_tenants`] takes it from a claim.

#![warn(missing_docs)]

pub mod server;

mod authenticator;
mod caller;

pub mod auth;
mod contract;
pub mod status;

pub mod drain;
pub mod health;
mod lifecycle;
mod propagation;
mod tasks;

pub mod secret;
mod violations;

pub use authenticator::{Authenticator, Credentials};
pub use caller::{Caller, InvalidTenant, Tenant};
pub use contract::Contract;
pub use health::Health;
pub use lifecycle::Lifecycle;
pub use secret::{Secret, SecretUrl, masked};
pub use server::Server;
pub use tasks::Tasks;
pub use violations::{Violation, Violations};
