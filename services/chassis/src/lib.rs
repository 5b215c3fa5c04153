//! The common parts of every process of our services, on top of the mesh's server (`weft-server`): configuration,
//! telemetry, facilities, the audit trail, PostgreSQL, idempotency, and a graceful shutdown.
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
mod sections;

mod process;
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
pub use page::PageTokens;
pub use process::Process;
pub use run::run;
pub use sections::Sections;
pub use server::Server;
pub use service::Service;
pub use upstream::Upstream;
pub use weft_server::{Health, Secret, SecretUrl, Tasks, Violation, Violations, drain, health, masked};
