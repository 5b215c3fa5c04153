//! The common parts of every service process: configuration, telemetry, health, the server and its layers,
//! PostgreSQL, and a graceful shutdown.
//!
//! A service implements [`Service`] and runs with [`run()`]:
//!
//! ```ignore
//! #[derive(Debug, Clone, Serialize, Deserialize)]
//! #[serde(default)]
//! pub struct Settings {
//!     pub address_file: Option<PathBuf>,
//!     pub grpc: chassis::server::Settings,
//!     pub probe: chassis::health::Settings,
//!     pub database: chassis::postgres::Settings, // chassis::postgres::Settings::for_service("order") by default
//!     pub auth: chassis::auth::Settings,
//!     pub idempotency: chassis::idempotency::Settings,
//!     pub audit: chassis::audit::Settings,
//!     pub telemetry: chassis::telemetry::Settings,
//!     pub drain: chassis::drain::Settings,
//!     // … and the service's own
//! }
//!
//! fn main() -> ExitCode {
//!     chassis::run::<order::Order>()
//! }
//! ```

#![warn(missing_docs)]

mod build;
mod run;
mod service;

pub mod config;
mod secret;
mod sections;
mod violations;

pub mod drain;
pub mod health;
mod process;
mod tasks;
pub mod telemetry;

mod contract;
pub mod server;
pub mod upstream;

pub mod auth;
mod facility;
pub mod status;

pub mod audit;
pub mod batch;
pub mod bulk;
pub mod facility_tasks;
pub mod idempotency;
pub mod page;
pub mod postgres;
pub mod retention;
mod waiters;

pub use audit::record_effect;
pub use auth::Identity;
pub use build::build;
pub use config::Settings;
pub use contract::violations;
pub use facility::{Facility, InvalidFacility};
pub use health::Health;
pub use page::PageTokens;
pub use process::Process;
pub use run::run;
pub use secret::{Secret, SecretUrl, masked};
pub use sections::Sections;
pub use server::Server;
pub use service::Service;
pub use tasks::Tasks;
pub use upstream::Upstream;
pub use violations::{Violation, Violations};
